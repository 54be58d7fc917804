"""Writes the server's logs: a JSON object on each line of standard error.

Code that logs passes facts as `extra`, never a user's text. A thread writes the lines from a bounded queue, so that
logging never waits for the program that reads standard error; lines that do not fit into the queue are counted and
dropped. What other code writes to standard error, such as gRPC, XLA and Python's warnings, becomes JSON lines too.
"""

import collections
import json
import logging
import os
import threading
import time
from typing import Any

# The attributes that every LogRecord has; all others are `extra` fields.
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
MAX_LINES = 10_000  # lines that may wait to be written
MAX_LINE = 65_536  # characters; longer lines that other code writes to standard error are split
ERASE = "\r\x1b[K"  # moves to the beginning of a terminal's line and erases it
FLUSH_TIMEOUT = 1.0  # seconds that the end of the process waits for lines to be written


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time (UTC), level, logger and message, then the record's `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = described(record.created, record.levelname.lower(), record.name, record.getMessage())
        line.update({key: value for key, value in vars(record).items() if key not in STANDARD_FIELDS})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def described(created: float, level: str, logger: str, message: str) -> dict[str, Any]:
    """The fields that every line has. created: seconds since the epoch."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created)) + f".{int(created * 1000) % 1000:03d}Z"
    return {"time": moment, "level": level, "logger": logger, "message": message}


class LineWriter:
    """Writes lines to a file descriptor on a thread of its own. lost: how many lines did not fit into the queue.

    On a terminal, one more line may stand below all others and be replaced again and again: the bar.
    """

    def __init__(self, descriptor: int, limit: int = MAX_LINES) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._limit = limit
        self._lines: collections.deque[str] = collections.deque()
        self._reported = 0  # how many of the lost lines were reported
        self._bar = ""
        self._drawn = ""  # the bar that is on the terminal
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: str) -> None:
        """Queues a line, or counts it as lost if the queue is full. Never waits for the file descriptor."""
        with self._changed:
            if len(self._lines) >= self._limit:
                self.lost += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def show(self, bar: str) -> None:
        """Replaces the bar; an empty text removes it."""
        with self._changed:
            self._bar = bar
            self._changed.notify_all()

    def flush(self, timeout: float) -> None:
        """Waits until everything is written, for at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and self._bar == self._drawn, timeout)

    def _run(self) -> None:
        """Writes what is queued, forever. Lines leave the queue when they are written."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._bar != self._drawn)
                text = "".join(f"{line}\n" for line in self._lines)
                drawn, bar = self._drawn, self._bar
                count, lost = len(self._lines), self.lost - self._reported
                self._reported = self.lost
            if lost:
                line = described(time.time(), "warning", __name__, "log lines were lost") | {"lost": lost}
                text += f"{json.dumps(line)}\n"
            if drawn or bar:
                text = f"{ERASE}{text}{bar}"
            try:
                write_all(self._descriptor, text.encode(errors="replace"))
            except OSError:
                return  # nobody can read the log any more
            with self._changed:
                self._drawn = bar
                for _ in range(count):
                    self._lines.popleft()
                self._changed.notify_all()


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of the data; a single call of os.write may write a part."""
    while data:
        data = data[os.write(descriptor, data) :]


class QueueHandler(logging.Handler):
    """Hands formatted records to a LineWriter."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self._writer.flush(FLUSH_TIMEOUT)


def without_headers(record: logging.LogRecord) -> bool:
    """A log filter: removes a call's header, which may be a token, from what gRPC logs when it cannot decode one."""
    if record.name.startswith("grpc"):
        record.args = ()
        record.msg = str(record.msg).replace("%s", "…")
        record.exc_info = None
    return True


WRITERS: list[LineWriter] = []  # this process's writer; empty until its logs are set up


def lost() -> int:
    """How many of this process's log lines did not fit into the queue."""
    return sum(writer.lost for writer in WRITERS)


def set_up(level: str) -> LineWriter | None:
    """Makes JSON lines of this process's logs and of all that is written to its standard error.

    Returns the writer if standard error is a terminal, which can show a bar, and None otherwise.
    """
    terminal = os.isatty(2)
    writer = LineWriter(os.dup(2))
    WRITERS.append(writer)
    handler = QueueHandler(writer)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(without_headers)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    capture(writer)
    return writer if terminal else None


def capture(writer: LineWriter) -> None:
    """Replaces standard error by a pipe. A thread reads lines from it and passes them to the writer as JSON."""
    readable, writable = os.pipe()
    os.dup2(writable, 2)
    os.close(writable)

    def read() -> None:
        with open(readable, errors="replace") as lines:
            for line in iter(lambda: lines.readline(MAX_LINE), ""):
                if line.strip():
                    writer.put(json.dumps(described(time.time(), "warning", "stderr", line.rstrip("\n"))))

    threading.Thread(target=read, name="stderr", daemon=True).start()
