"""Fair shares among clients: the policy with numbers computed by hand, and several clients on the echo engine."""

import random
import statistics
from dataclasses import dataclass

import pytest
from bart_server.scheduling.admission import Budget
from bart_server.scheduling.errors import Overloaded, RequestError
from bart_server.scheduling.fairness import displaced, next_to_run, work_ahead
from bart_server.scheduling.tasks import Generate

from support.echo import FakeEngine
from tests.server.harness import Mailbox
from tests.server.test_scheduler import SchedulerDriver


@dataclass
class Asked:
    """A waiting request."""

    client: str
    due: float
    order: int
    cost: int = 1


def test_the_client_with_the_fewest_rows_runs_next_and_of_its_requests_the_one_that_is_due_first():
    waiting = [Asked("a", 1, 0), Asked("b", 9, 1), Asked("b", 5, 2), Asked("b", 5, 3)]
    assert next_to_run(waiting, {"a": 3, "b": 2}) is waiting[2]
    assert next_to_run(waiting, {"a": 2, "b": 2}) is waiting[0], "equal rows: who is due first"
    assert next_to_run(waiting, {"b": 1}) is waiting[0], "no row at all"
    assert next_to_run(waiting, {"a": 0}) is waiting[0], "a client that had a row is like one that never had any"


def give_way(missing, share, client, held, waiting):
    return displaced(missing, share, client, held, waiting, [asked.cost for asked in waiting])


def test_the_newest_request_of_whoever_holds_most_gives_way():
    waiting = [Asked("a", 1, 0), Asked("a", 1, 4), Asked("b", 1, 5), Asked("c", 1, 6)]
    assert give_way(1, 1, "new", {"a": 5, "b": 3, "c": 1}, waiting) == [waiting[1]]
    assert give_way(2, 2, "new", {"a": 5, "b": 3, "c": 1}, waiting) == [waiting[1], waiting[0]]


def test_nobody_gives_way_to_a_client_that_would_hold_more_in_the_end():
    waiting = [Asked("a", 1, 0), Asked("a", 1, 1), Asked("b", 1, 2)]
    assert give_way(1, 2, "b", {"a": 2, "b": 1}, waiting) == []
    assert give_way(1, 2, "b", {"a": 3, "b": 1}, waiting) == [waiting[1]]
    assert give_way(1, 9, "a", {"a": 8, "b": 1}, waiting) == [], "no client displaces itself"
    assert give_way(3, 3, "c", {"a": 5, "b": 1}, waiting) == [], "all or nothing"
    assert give_way(5, 5, "c", {"a": 20}, [Asked("a", 1, 0, cost=10)]), "one with a larger weight is enough"
    assert give_way(1, 1, "c", {"a": 9}, []) == [], "what runs does not give way"


def test_ahead_is_ones_own_earlier_work_and_as_much_of_every_other_client():
    in_flight = [Asked("a", 1, 0, 10), Asked("a", 9, 1, 10), Asked("b", 1, 2, 100), Asked("c", 1, 3, 5)]
    costs = [asked.cost for asked in in_flight]
    assert work_ahead("a", 5, 10, in_flight, costs) == 10 + 20 + 5
    assert work_ahead("new", 5, 10, in_flight, costs) == 10 + 10 + 5
    assert work_ahead("a", 5, 10, in_flight[:2], costs[:2]) == 10
    assert work_ahead("a", 5, 10, in_flight, [4, 10, 100, 5]) == 4 + 14 + 5, "costs are what remains of them"


def reserve(driver, client, count=1):
    return driver.scheduler.reserve(driver.engine, count, client)


def ask(driver, client, deadline=None, **options):
    reservation = reserve(driver, client)
    return driver.put(Generate([10], options), deadline, place=reservation)


def test_when_no_place_is_free_the_newest_waiting_request_of_the_largest_client_is_refused():
    driver = SchedulerDriver(budget=Budget(requests=4))
    boxes = [ask(driver, "greedy") for _ in range(4)]
    careful = ask(driver, "careful")
    assert isinstance(boxes[3].error, Overloaded) and boxes[3].error.retry_after > 0
    assert not any(box.events for box in boxes[:3])
    second = ask(driver, "careful")
    assert isinstance(boxes[2].error, Overloaded), "two each"
    with pytest.raises(Overloaded, match="the limit is 4"):
        ask(driver, "careful")
    with pytest.raises(Overloaded):
        ask(driver, "greedy")
    driver.iterate()
    assert careful.finish and second.finish and boxes[0].finish and boxes[1].finish
    assert driver.scheduler.idle() and not driver.scheduler._places and not driver.scheduler._rows


def test_a_call_that_is_still_tokenized_gives_way_too_and_hears_of_it():
    driver, revoked = SchedulerDriver(budget=Budget(requests=4)), []
    tokenizing = [reserve(driver, "greedy", 2) for _ in range(2)]
    tokenizing[1].revoke = revoked.append
    assert reserve(driver, "careful").count == 1
    [error] = revoked
    assert isinstance(error, Overloaded) and tokenizing[1].count == 0 and tokenizing[0].count == 2
    [request] = driver.engine.requests(Generate([10]))
    with pytest.raises(Overloaded):
        driver.scheduler.submit(tokenizing[1], request, Mailbox())
    with pytest.raises(Overloaded):
        driver.scheduler.extend(tokenizing[1], 1)


def test_what_runs_is_never_displaced():
    driver = SchedulerDriver(FakeEngine(sizes=(1, 2)), budget=Budget(requests=2))
    running = [driver.put(Generate([10] * 8), place=reserve(driver, "greedy")) for _ in range(2)]
    driver.iterate()
    with pytest.raises(Overloaded):
        ask(driver, "careful")
    driver.iterate(3)
    assert all(box.finish for box in running)


def test_a_budget_of_cost_that_one_client_fills_is_shared():
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)), Budget(cost=4 * 71 + 3))
    greedy = [ask(driver, "greedy") for _ in range(4)]  # each costs 8 + 63 = 71
    careful = ask(driver, "careful")
    assert isinstance(greedy[3].error, Overloaded) and not greedy[2].events and not careful.events
    with pytest.raises(Overloaded, match="padded tokens"):
        ask(driver, "greedy")


def test_more_requests_than_the_server_ever_takes_are_not_told_to_try_again():
    driver = SchedulerDriver(budget=Budget(requests=4))
    with pytest.raises(RequestError) as refusal:
        reserve(driver, "a", 5)
    assert str(refusal.value) == "request: brings 5 requests at once, the server takes at most 4"


def test_free_rows_go_to_the_client_with_the_fewest():
    driver = SchedulerDriver(FakeEngine(sizes=(1, 2, 4)))
    greedy = [driver.put(Generate([10] * 20), place=reserve(driver, "greedy")) for _ in range(10)]
    careful = [driver.put(Generate([20] * 20), place=reserve(driver, "careful")) for _ in range(2)]
    driver.iterate()
    running = [job.client for job in driver.batch().jobs]
    assert sorted(running) == ["careful"] * 2 + ["greedy"] * 2
    driver.iterate(6)
    assert all(box.finish for box in careful) and sum(bool(box.events) for box in greedy) == 2


def waits(flooding, rows, seconds=60.0):
    """How many iterations each call of one client waits beside `flooding` others, and how many calls were refused.

    The client sends a call every 20 iterations. Each of the others always has 300 requests in flight, of which each
    takes 2 to 8 iterations.
    """
    chance = random.Random(0)
    driver = SchedulerDriver(FakeEngine(sizes=(1, rows)), budget=Budget(requests=256), chunk=1)
    outstanding = {f"flood{index}": [] for index in range(flooding)}
    careful, refused = [], 0
    for tick in range(400):
        for client, boxes in outstanding.items():
            boxes[:] = [box for box in boxes if not box.events]
            for _ in range(300 - len(boxes)):
                try:
                    boxes.append(driver.put(Generate([10] * chance.randint(1, 7)), place=reserve(driver, client)))
                except Overloaded:
                    break
        if tick % 20 == 0:
            try:
                box = driver.put(Generate([20] * 4), place=reserve(driver, "careful"))
                careful.append((tick, box))
            except Overloaded:
                refused += 1
        driver.iterate()
        driver.clock.time += 1.0
        for began, box in careful:
            if box.events and not hasattr(box, "waited"):
                box.waited = tick - began
    answered = [box for _, box in careful if box.events and hasattr(box.events[-1], "hypotheses")]
    refused += sum(1 for _, box in careful if box.events and box not in answered)
    return [box.waited for box in answered], refused


def test_a_careful_client_beside_two_floods_is_answered_and_waits_at_most_twice_as_long_as_with_a_third_of_the_rows():
    alone, _ = waits(flooding=0, rows=2)
    beside, refused = waits(flooding=2, rows=6)
    assert len(beside) >= 0.9 * (len(beside) + refused) and len(beside) >= 18
    assert statistics.median(beside) <= 2 * statistics.median(alone)
