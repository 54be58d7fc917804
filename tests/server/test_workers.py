"""Several workers share the queues of a scheduler, with a fake engine whose answers are known."""

import threading

import pytest
from bart_server.scheduling.errors import DeviceFault, Unavailable

from support.echo import END, FakeEngine
from tests.server.harness import PATIENCE, working
from tests.server.test_scheduler import SchedulerDriver


def awaited(box):
    """Waits for an answer and returns its tokens."""
    assert box.ended.wait(PATIENCE)
    return box.finish.hypotheses[0].tokens


def test_all_take_from_one_queue_and_each_has_rows_of_its_own():
    driver = SchedulerDriver(FakeEngine(sizes=(1,)), workers=2)
    boxes = [driver.ask([10 + index] * 8) for index in range(3)]
    driver.iterate(1, worker=0)
    driver.iterate(1, worker=1)
    assert [driver.batch(worker).jobs for worker in (0, 1)] == [[boxes[0].job], [boxes[1].job]]
    driver.iterate(1, worker=1)  # the eighth of nine tokens
    driver.iterate(2, worker=1)
    assert boxes[1].finish and driver.batch(1).jobs == [boxes[2].job] and not boxes[0].events


def test_a_request_is_answered_while_another_worker_waits_for_the_device():
    reached, opened = threading.Event(), threading.Event()

    def hold_the_first(verb, requests):
        if verb == "step" and requests[0].source[0] == 10:
            reached.set()
            assert opened.wait(PATIENCE)

    driver = SchedulerDriver(FakeEngine(on_call=hold_the_first), workers=2)
    with working(driver.scheduler, 2):
        held = driver.ask([10])
        assert reached.wait(PATIENCE)
        assert awaited(driver.ask([20])) == (20, END)
        assert not held.events
        opened.set()
        assert awaited(held) == (10, END)


def test_a_fault_in_one_workers_step_spares_the_others_rows():
    driver = SchedulerDriver(FakeEngine(sizes=(1,)), workers=2)
    stays, doomed = driver.ask([10] * 6), driver.ask([20] * 6)
    driver.iterate(1, worker=0)

    def break_the_step(verb, requests):
        if verb == "step":
            raise RuntimeError("lost")

    driver.engine.on_call = break_the_step
    driver.iterate(1, worker=1)
    driver.engine.on_call = lambda verb, requests: None
    driver.iterate(1, worker=0)
    assert isinstance(doomed.error, DeviceFault)
    assert stays.finish.hypotheses[0].tokens == (*[10] * 6, END)


def test_the_death_of_one_ends_all_and_is_reported_once():
    class Death(BaseException):
        """Not an Exception, so the scheduler does not treat it as a fault of the engine."""

    def die(verb, requests):
        if verb == "step":
            raise Death

    deaths = []
    driver = SchedulerDriver(FakeEngine(on_call=die), workers=2, on_death=deaths.append)
    with working(driver.scheduler, 2) as join:
        box = driver.ask([10])
        join()
        assert isinstance(box.error, Unavailable)
        assert [type(death) for death in deaths] == [Death]
        with pytest.raises(Unavailable):
            driver.ask([20])


def test_seconds_in_which_several_work_count_once():
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)), workers=2)

    def tick(verb, requests):
        if verb == "step":
            driver.clock.time += 1
            if requests[0].source[0] == 10:
                driver.iterate(1, worker=1)  # an iteration inside worker 0's
                driver.clock.time += 1

    driver.engine.on_call = tick
    for token in (10, 20):
        driver.ask([token], max_new_tokens=1)  # cost 9
    driver.iterate(1, worker=0)
    assert driver.scheduler._admission.throughput.seconds(18) == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_request_of_many_is_answered_once_whoever_takes_it(workers):
    driver = SchedulerDriver(FakeEngine(sizes=(1, 2)), workers=workers)
    with working(driver.scheduler, workers):
        boxes = [driver.ask([10 + index] * (1 + index % 7), num_beams=(1, 3)[index % 2]) for index in range(200)]
        sequences = [awaited(box) for box in boxes]
    assert sequences == [(*[10 + index] * (1 + index % 7), END) for index in range(200)]
