"""What every service works with, and the way of a text from a message to the scheduler's requests."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

from bart_inference.tokenization import Detokenizer, Window
from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.contract import Delta, Finish, Request
from bart_server.scheduling.scheduler import Scheduler
from bart_server.scheduling.session import Answer, Session, open_session
from bart_server.scheduling.tasks import Generate, Task
from bart_server.services.call import Call
from bart_server.services.limits import Limits
from bart_server.services.models import Models, Served

INLINE_CHARACTERS = 4_000  # characters of a call that are tokenized on the event loop, in less than a millisecond
Result = TypeVar("Result")


class Backend:
    """pool: threads for tokenizers."""

    def __init__(self, models: Models, scheduler: Scheduler, pool: Executor, limits: Limits) -> None:
        self.limits = limits
        self._models = models
        self._scheduler = scheduler
        self._pool = pool

    def find(self, name: str, task: Task, call: Call) -> Served:
        """The model of that name, the first one for the empty name. Raises UnknownModel, WrongTask or Unavailable."""
        served = self._models.find(name)
        served.require(task)
        call.note(model=served.name)
        return served

    @contextlib.contextmanager
    def session(self, served: Served, count: int, call: Call) -> Iterator[Session]:
        """Places for `count` requests of the call to a model; they are cancelled when the call or the block ends."""
        reservation = call.reservation or self._scheduler.hold(call.identity)
        with open_session(self._scheduler, served.engine, count, call.remaining(), reservation) as session:
            call.on_cancel(session.end)
            yield session

    async def tokenize(self, session: Session, work: Callable[[], Result], characters: int) -> Result:
        """What `work` makes of a call's texts, which have so many characters; a long call holds up nobody else."""
        if characters <= INLINE_CHARACTERS:
            return work()
        return await session.in_thread(self._pool, work)

    async def plan(
        self,
        session: Session,
        served: Served,
        windows: Callable[[], list[Window]],
        characters: int,
        options: Mapping[str, Any],
        stream: bool = False,
    ) -> tuple[list[Window], list[Request]]:
        """Tokenizes and checks: one request for each window, or one for each sample.

        characters: of all texts of the call.
        """

        def work() -> tuple[list[Window], list[Request]]:
            parts = windows()
            requests: list[Request] = []
            for part in parts:
                requests += served.engine.requests(Generate(part.ids, options, stream))
            return parts, requests

        return await self.tokenize(session, work, characters)

    def windows(self, served: Served, text: str, policy: pb.LongInput, field: str = "text") -> list[Window]:
        """The text as the policy wants it: one window, unless it is CHUNK and the text is long."""
        reader = served.reader(field)
        if policy == pb.LONG_INPUT_TRUNCATE:
            return [reader.truncated(text, field=field)]
        if policy == pb.LONG_INPUT_CHUNK:
            return reader.windows(text, self.limits.windows, field)
        return [reader.whole(text, field=field)]


async def text_deltas(served: Served, answer: Answer) -> AsyncIterator[tuple[str, tuple[int, ...], Finish | None]]:
    """Yields (text, token ids, None) as they become final, and at last (text, token ids, Finish)."""
    detokenizer = Detokenizer(served.text.tokenizer) if served.text else None
    finish = None
    while finish is None:
        event = await answer.next()
        ids = event.tokens if isinstance(event, Delta) else ()
        finish = event if isinstance(event, Finish) else None
        text = detokenizer.push(ids, last=finish is not None) if detokenizer else ""
        yield text, ids, finish
