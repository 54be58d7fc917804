"""How far a server's start is, on standard error until it serves: a bar on a terminal, otherwise lines in the log."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from bart_server.scheduling.contract import Progress
from bart_server.telemetry.logs import LineWriter

log = logging.getLogger(__name__)
LINE_SECONDS = 4.0  # seconds between two lines of the log; the promise is one every five seconds
BAR_SECONDS = 0.2  # seconds between two drawings of the bar
BAR_WIDTH = 30  # characters
UNKNOWN_SECONDS = 2.0  # seconds that callers are told to wait before any program is compiled
LONGEST_WAIT = 30.0  # the most seconds that callers are told to wait


def nothing_yet() -> Progress:
    return Progress(0, 0)


@dataclass
class Startup:
    """How far a server's start is. A model's loader replaces the fields on its thread while the event loop reads them.

    stage: what is being done. progress: how far compilation is. began: when the start began. compiling_since: when the
    compilation of the present model began. Times are those of time.monotonic.
    """

    stage: str = "starting"
    progress: Callable[[], Progress] = nothing_yet
    began: float = field(default_factory=time.monotonic)
    compiling_since: float = 0.0

    def reading(self, model: str) -> None:
        """The checkpoint of this model is being read."""
        self.stage, self.progress = f"reading {model}", nothing_yet

    def compiling(self, model: str, progress: Callable[[], Progress]) -> None:
        """The programs of this model are being compiled."""
        self.compiling_since = time.monotonic()
        self.stage, self.progress = f"compiling {model}", progress

    def seconds_left(self) -> float:
        """An estimate of how long compilation will still take, for callers that are to try again."""
        progress = self.progress()
        if not progress.compiled:
            return UNKNOWN_SECONDS
        elapsed = time.monotonic() - self.compiling_since
        left = elapsed * (progress.wanted - progress.compiled) / progress.compiled
        return min(max(left, 0.5), LONGEST_WAIT)

    def bar(self) -> str:
        progress = self.progress()
        seconds = f"{time.monotonic() - self.began:.0f} s"
        if not progress.wanted:
            return f"{self.stage}, {seconds}"
        filled = "█" * (BAR_WIDTH * progress.compiled // progress.wanted)
        return f"{self.stage} {filled:░<{BAR_WIDTH}} {progress.compiled} of {progress.wanted} programs, {seconds}"

    def line(self) -> dict[str, str | int | float]:
        """The facts of a line of the log."""
        progress = self.progress()
        facts: dict[str, str | int | float] = {"stage": self.stage}
        if progress.wanted:
            facts |= {"programs": progress.compiled, "of": progress.wanted}
        return facts | {"seconds": round(time.monotonic() - self.began, 1)}


@contextlib.asynccontextmanager
async def told(
    startup: Startup, terminal: LineWriter | None = None, every: float = LINE_SECONDS
) -> AsyncIterator[None]:
    """Tells of the start for as long as the block runs. terminal: where the bar is drawn; None: lines in the log."""

    async def draw(terminal: LineWriter) -> None:
        while True:
            terminal.show(startup.bar())
            await asyncio.sleep(BAR_SECONDS)

    async def write() -> None:
        while True:
            await asyncio.sleep(every)
            log.info("loading", extra=startup.line())

    telling = asyncio.create_task(draw(terminal) if terminal else write())
    try:
        yield
    finally:
        telling.cancel()
        if terminal:
            terminal.show("")
