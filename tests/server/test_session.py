"""A call's session on the event loop ends at once, even while threads still work for it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from bart_server.scheduling.contract import Delta, Finish
from bart_server.scheduling.errors import Cancelled, DeadlineExceeded
from bart_server.scheduling.session import Answer, Session

from tests.server.harness import PATIENCE
from tests.server.test_scheduler import SchedulerDriver


@pytest.mark.parametrize("ending", ["cancelled", "late"])
def test_who_waits_for_a_thread_hears_at_once_that_the_session_has_ended(ending):
    async def main():
        driver, held = SchedulerDriver(), threading.Event()
        session = Session(driver.scheduler, driver.scheduler.reserve(driver.engine), 0.01 if ending == "late" else None)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(held.wait, PATIENCE)
            waiting = asyncio.create_task(session.in_thread(pool, lambda: "too late"))
            await asyncio.sleep(0)
            if ending == "cancelled":
                session.end(Cancelled("gone"))
                session.end(DeadlineExceeded("later"))  # the first error stays
            done, _ = await asyncio.wait([waiting], timeout=PATIENCE / 2)
            held.set()
            assert done, "it waits for the thread"
            with pytest.raises(Cancelled if ending == "cancelled" else DeadlineExceeded):
                await waiting
        assert driver.scheduler.idle(), "its place is free"

    asyncio.run(main())


def test_tokens_that_nobody_fetched_come_in_one_piece_and_nothing_follows_the_end():
    async def main():
        answer = Answer()
        answer.put(Delta((1, 2)))
        answer.put(Delta((3,)))
        assert await answer.next() == Delta((1, 2, 3))
        answer.put(Delta((4,)))
        end = Finish((), (1.0,), 0.0, 0.0)
        answer.put(end)
        answer.put(Delta((5,)))
        answer.put(Finish((), (2.0,), 0.0, 0.0))
        assert await answer.next() == Delta((4,))
        assert await answer.next() is end and await answer.next() is end

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
