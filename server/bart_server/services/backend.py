"""What the services have in common: models, limits, sessions, and texts that are tokenized into requests."""

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

# Texts of up to this many characters in one call are tokenized on the event loop: it takes less than a millisecond.
INLINE_CHARACTERS = 4_000
Result = TypeVar("Result")


class Backend:
    """What the services share. pool: threads that tokenize long texts."""

    def __init__(self, models: Models, scheduler: Scheduler, pool: Executor, limits: Limits) -> None:
        self.limits = limits
        self._models = models
        self._scheduler = scheduler
        self._pool = pool

    def find(self, name: str, task: Task, call: Call) -> Served:
        """The model of that name, or the first one if the name is empty. Notes its name for the call's log line.

        Raises UnknownModel, WrongTask or Unavailable.
        """
        served = self._models.find(name)
        served.require(task)
        call.note(model=served.name)
        return served

    @contextlib.contextmanager
    def session(self, served: Served, count: int, call: Call) -> Iterator[Session]:
        """A session with places for `count` requests to a model.

        When the call or the `with` block ends, unfinished requests are cancelled and the places are given back.
        """
        reservation = call.reservation or self._scheduler.hold(call.identity)
        with open_session(self._scheduler, served.engine, count, call.remaining(), reservation) as session:
            call.on_cancel(session.end)
            yield session

    async def tokenize(self, session: Session, work: Callable[[], Result], characters: int) -> Result:
        """The result of `work`, which tokenizes a text. characters: the number of characters of all texts of the call.

        If it is over INLINE_CHARACTERS, `work` runs on a thread, so that other calls on the event loop do not wait.
        """
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
        """The windows of a text, and the requests for them: one for each window, or one for each sample of a window.

        windows: tokenizes the text. characters: the number of characters of all texts of the call. Raises
        InvalidArgument.
        """

        def work() -> tuple[list[Window], list[Request]]:
            parts = windows()
            requests: list[Request] = []
            for part in parts:
                requests += served.engine.requests(Generate(part.ids, options, stream))
            return parts, requests

        return await self.tokenize(session, work, characters)

    def windows(self, served: Served, text: str, policy: pb.LongInput, field: str = "text") -> list[Window]:
        """The token ids of a text as windows: several if it is too long and `policy` is LONG_INPUT_CHUNK, else one.

        Raises InvalidArgument, for `field`, if the text is too long for the policy.
        """
        reader = served.reader(field)
        if policy == pb.LONG_INPUT_TRUNCATE:
            return [reader.truncated(text, field=field)]
        if policy == pb.LONG_INPUT_CHUNK:
            return reader.windows(text, self.limits.windows, field)
        return [reader.whole(text, field=field)]


async def text_deltas(served: Served, answer: Answer) -> AsyncIterator[tuple[str, tuple[int, ...], Finish | None]]:
    """Yields the parts of an answer that no later step changes, as (text, token ids, None).

    The last item has the rest of the text, no token ids, and the Finish.
    """
    detokenizer = Detokenizer(served.text.tokenizer) if served.text else None
    finish = None
    while finish is None:
        event = await answer.next()
        ids = event.tokens if isinstance(event, Delta) else ()
        finish = event if isinstance(event, Finish) else None
        text = detokenizer.push(ids, last=finish is not None) if detokenizer else ""
        yield text, ids, finish
