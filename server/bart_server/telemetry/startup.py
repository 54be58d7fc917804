"""Shows how far a server's start is, until it serves: as a bar on a terminal, otherwise as lines in the log."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from bart_server.scheduling.contract import Progress
from bart_server.telemetry.logs import LineWriter

log = logging.getLogger(__name__)
LINE_SECONDS = 4.0  # seconds between two lines in the log; users are promised one every five seconds
BAR_SECONDS = 0.2  # seconds between two drawings of the bar
BAR_WIDTH = 30  # characters
UNKNOWN_SECONDS = 2.0  # seconds that callers are told to wait while no program is compiled yet
LONGEST_WAIT = 30.0  # the most seconds that callers are told to wait


def nothing_yet() -> Progress:
    """The progress while a checkpoint is read: no program is wanted yet."""
    return Progress(0, 0)


@dataclass
class Startup:
    """How far a server's start is. The thread that loads a model sets the fields, and the event loop reads them.

    stage: what is being done, as text. progress: how far the compilation of the present model is. began: when the start
    began. compiling_since: when that compilation began. Times are those of time.monotonic.
    """

    stage: str = "starting"
    progress: Callable[[], Progress] = nothing_yet
    began: float = field(default_factory=time.monotonic)
    compiling_since: float = 0.0

    def reading(self, model: str) -> None:
        """Records that this model's checkpoint is read from now on."""
        self.stage, self.progress = f"reading {model}", nothing_yet

    def compiling(self, model: str, progress: Callable[[], Progress]) -> None:
        """Records that this model's programs are compiled from now on."""
        self.compiling_since = time.monotonic()
        self.stage, self.progress = f"compiling {model}", progress

    def seconds_left(self) -> float:
        """Estimates how long the present compilation still takes, for callers that should try again after it."""
        progress = self.progress()
        if not progress.compiled:
            return UNKNOWN_SECONDS
        elapsed = time.monotonic() - self.compiling_since
        left = elapsed * (progress.wanted - progress.compiled) / progress.compiled
        return min(max(left, 0.5), LONGEST_WAIT)

    def bar(self) -> str:
        """The progress as a line for a terminal."""
        progress = self.progress()
        seconds = f"{time.monotonic() - self.began:.0f} s"
        if not progress.wanted:
            return f"{self.stage}, {seconds}"
        filled = "█" * (BAR_WIDTH * progress.compiled // progress.wanted)
        return f"{self.stage} {filled:░<{BAR_WIDTH}} {progress.compiled} of {progress.wanted} programs, {seconds}"

    def line(self) -> dict[str, str | int | float]:
        """The progress as the `extra` fields of a log line."""
        progress = self.progress()
        facts: dict[str, str | int | float] = {"stage": self.stage}
        if progress.wanted:
            facts |= {"programs": progress.compiled, "of": progress.wanted}
        return facts | {"seconds": round(time.monotonic() - self.began, 1)}


@contextlib.asynccontextmanager
async def show_progress(
    startup: Startup, terminal: LineWriter | None = None, every: float = LINE_SECONDS
) -> AsyncIterator[None]:
    """Shows the progress of a start while the block runs.

    terminal: where the bar is drawn; if None, a line is logged every `every` seconds.
    """

    async def draw(terminal: LineWriter) -> None:
        while True:
            terminal.show(startup.bar())
            await asyncio.sleep(BAR_SECONDS)

    async def write() -> None:
        while True:
            await asyncio.sleep(every)
            log.info("loading", extra=startup.line())

    showing = asyncio.create_task(draw(terminal) if terminal else write())
    try:
        yield
    finally:
        showing.cancel()
        if terminal:
            terminal.show("")
