"""Programs, shape buckets and revisions open and close while workers run, with a fake engine and known answers."""

import os
import sys
import threading

import pytest
from bart_server.engine.store import NICENESS, Program, Shape, Store
from bart_server.scheduling.contract import Bucket, Kind
from bart_server.scheduling.errors import Unavailable
from bart_server.scheduling.observer import Observer
from bart_server.scheduling.tasks import Generate, Score

from support.echo import END, FakeEngine
from tests.server.harness import PATIENCE, Gate, wait_until, working
from tests.server.test_scheduler import SchedulerDriver
from tests.server.test_workers import awaited


def long_ones_first(bucket, size):
    """A priority by which only shapes for the longest source are compiled before the model is served."""
    return int(bucket.source < 64)


class Oversized(Observer):
    """Counts requests that ran on a larger program than the best."""

    def __init__(self):
        self.count = 0

    def oversized(self, model, requests):
        self.count += requests


def compile_in_background(engine, stop=lambda: False):
    """Compiles on a new thread and waits for its end.

    `compile` lowers its thread's priority, which cannot be undone.
    """
    thread = threading.Thread(target=engine.compile, args=(stop, True))
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def compiled(**settings):
    """A scheduler over an engine that has compiled the programs that it needs before it serves."""
    engine = FakeEngine(**settings)
    engine.compile(lambda: False)
    return SchedulerDriver(engine)


# ── buckets that open ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_takes_the_best_bucket_that_is_open_and_the_next_one_a_better_bucket_that_opens_meanwhile():
    driver = compiled(priority=long_ones_first)
    first = driver.ask([10] * 6)
    driver.iterate()
    compile_in_background(driver.engine)
    second = driver.ask([20] * 6)
    driver.iterate(2)
    assert (first.job.bucket.source, second.job.bucket.source) == (64, 8)
    assert first.finish.hypotheses[0].tokens == (*[10] * 6, END)
    assert second.finish.hypotheses[0].tokens == (*[20] * 6, END)


def test_who_still_waits_when_a_better_bucket_opens_is_served_in_it():
    driver = compiled(priority=long_ones_first, sizes=(1,))
    running, waiting = driver.ask([10] * 6), driver.ask([20] * 6)
    driver.iterate()
    assert waiting.job.bucket.source == 64
    compile_in_background(driver.engine)
    driver.iterate()
    assert waiting.job.bucket.source == 8 and waiting.job.started, "it did not wait for the row of the long bucket"
    driver.iterate(2)
    assert running.finish and waiting.finish


def test_a_batch_grows_to_a_row_count_that_opens_while_it_runs():
    driver = compiled(priority=lambda bucket, size: int(size > 1), sizes=(1, 4))
    boxes = [driver.ask([10 + index] * 6) for index in range(3)]
    driver.iterate()
    assert len(driver.batch().jobs) == 1
    compile_in_background(driver.engine)
    driver.iterate()
    assert len(driver.batch().jobs) == 4
    driver.iterate(3)
    assert [box.finish.hypotheses[0].tokens for box in boxes] == [(*[10 + index] * 6, END) for index in range(3)]


def test_requests_on_a_larger_program_than_the_best_are_counted_until_all_programs_are_there():
    observer = Oversized()
    engine = FakeEngine(priority=lambda bucket, size: int((bucket.source, size) != (64, 4)))
    engine.compile(lambda: False)
    driver = SchedulerDriver(engine, observer=observer)
    short, long, score = driver.ask([10] * 6), driver.ask([20] * 20), driver.put(Score([30] * 6, labels=[5]))
    driver.iterate(8)
    assert all(box.finish for box in (short, long, score))
    assert observer.count == 3, "two sources in four rows, one of them short, and a score in a batch of four"
    compile_in_background(driver.engine)
    assert engine.progress().compiled == engine.progress().wanted
    boxes = [driver.ask([10] * 6), driver.ask([20] * 20), driver.put(Score([30] * 6, labels=[5]))]
    driver.iterate(8)
    assert all(box.finish for box in boxes) and observer.count == 3


def test_what_most_requests_have_lacked_is_compiled_first():
    engine = FakeEngine(priority=long_ones_first, sizes=(1, 2))
    engine.compile(lambda: False)
    driver = SchedulerDriver(engine)
    driver.ask([10] * 6, num_beams=3)
    driver.iterate(3)
    count = len(engine.open)
    compile_in_background(engine, stop=lambda: len(engine.open) > count)
    [(bucket, sizes)] = [(bucket, sizes) for bucket, sizes in engine.open.items() if bucket.source < 64]
    assert (bucket.beams, bucket.sample, sizes) == (3, False, (1,))


def test_no_request_waits_while_something_is_compiled():
    gate = Gate("compile")
    driver = compiled(priority=long_ones_first)
    driver.engine.on_call = gate
    compiling = threading.Thread(target=driver.engine.compile, args=(lambda: False, True))
    compiling.start()
    gate.wait()
    with working(driver.scheduler, 1):
        box = driver.ask([10] * 6)
        assert awaited(box) == (*[10] * 6, END) and box.job.bucket.source == 64
        gate.open()
        compiling.join(PATIENCE)
        box = driver.ask([10] * 6)
        assert awaited(box) == (*[10] * 6, END) and box.job.bucket.source == 8


def test_what_no_program_can_hold_yet_is_refused_and_does_not_wait():
    driver = compiled(priority=lambda bucket, size: int(bucket.beams > 1))
    with pytest.raises(Unavailable, match="is compiled yet"):
        driver.ask([10], num_beams=3)
    compile_in_background(driver.engine)
    box = driver.ask([10], num_beams=3)
    driver.iterate()
    assert box.finish


# ── buckets that close ────────────────────────────────────────────────────────────────────────────────────────────────


def bucket_of(engine, source, beams=1):
    return next(
        bucket
        for bucket in engine.buckets
        if (bucket.kind, bucket.source, bucket.beams, bucket.sample) == (Kind.DECODE, source, beams, False)
    )


def test_when_a_bucket_closes_what_runs_ends_there_and_what_waits_goes_elsewhere():
    driver = SchedulerDriver(FakeEngine(sizes=(1,)))
    running, waiting = driver.ask([10] * 6), driver.ask([20] * 6)
    driver.iterate()
    driver.engine.store.close(bucket_of(driver.engine, 8))
    late = driver.ask([30] * 6)
    assert late.job.bucket.source == 64
    driver.iterate(5)
    assert (running.job.bucket.source, waiting.job.bucket.source) == (8, 64)
    assert [box.finish.hypotheses[0].tokens[0] for box in (running, waiting, late)] == [10, 20, 30]


def test_a_row_count_that_closes_takes_nobody_and_its_rows_end_in_it():
    driver = SchedulerDriver(FakeEngine(sources=(64,), sizes=(1, 4)))
    running = [driver.ask([10] * 10) for _ in range(2)]
    driver.iterate()
    driver.engine.store.close(bucket_of(driver.engine, 64), 4)
    late = driver.ask([20])
    driver.iterate()
    assert len(driver.batch().jobs) == 4 and not late.events
    driver.iterate(2)
    assert all(box.finish for box in running) and driver.batch() is None
    driver.iterate()
    assert late.finish.hypotheses[0].tokens == (20, END)


def test_who_waits_for_the_last_bucket_that_closes_is_told_to_try_again():
    driver = SchedulerDriver(FakeEngine(sources=(64,), sizes=(1,)))
    running, waiting = driver.ask([10] * 6), driver.ask([20])
    driver.iterate()
    driver.engine.store.close(bucket_of(driver.engine, 64))
    driver.iterate()
    assert isinstance(waiting.error, Unavailable) and running.finish
    driver.engine.store.want([driver.engine._shape(bucket_of(driver.engine, 64), 1)])
    compile_in_background(driver.engine)
    again = driver.ask([20])
    driver.iterate()
    assert again.finish.hypotheses[0].tokens == (20, END)


# ── revisions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_revisions_of_a_model_run_side_by_side_and_the_removed_one_finishes_its_work():
    driver = SchedulerDriver(FakeEngine(revision="old", sizes=(1,)))
    old, new = driver.engine, FakeEngine(revision="new", sizes=(1,))
    running, waiting = driver.ask([10] * 6), driver.ask([20] * 6)
    driver.iterate()
    driver.scheduler.add("echo", new)
    tokenizing = driver.scheduler.reserve(old)
    driver.scheduler.remove(old)
    with pytest.raises(Unavailable, match="this revision"):
        driver.scheduler.reserve(old)
    beside = driver.ask([30] * 6, engine=new)
    driver.iterate(2)
    assert beside.finish and running.finish
    assert ("step", 1) in old.calls and ("step", 1) in new.calls
    driver.iterate(2)
    assert waiting.finish.hypotheses[0].tokens == (*[20] * 6, END)
    for box in (running, waiting):
        box.place.release()
    assert driver.scheduler.serves(old), "a place is still taken"
    late = driver.put(Generate([40]), engine=old, place=tokenizing)
    driver.iterate()
    assert late.finish.hypotheses[0].tokens == (40, END)
    tokenizing.release()
    assert not driver.scheduler.serves(old) and driver.scheduler.serves(new)
    assert {batch.revision.engine for batch in driver.scheduler._batches[0]} == {new}


def test_a_cancelled_row_of_a_removed_revision_is_freed_and_then_the_engine_is_forgotten():
    driver = SchedulerDriver()
    old, new = driver.engine, FakeEngine(revision="new")
    box = driver.ask([10] * 6)
    driver.iterate()
    driver.scheduler.add("echo", new)
    driver.scheduler.remove(old)
    driver.scheduler.cancel(box.job)
    box.place.release()
    assert driver.scheduler.serves(old), "its rows are still in use"
    driver.iterate()
    assert not driver.scheduler.serves(old)


def test_a_revision_is_replaced_under_load_and_no_request_is_lost():
    engines = [FakeEngine(revision=str(index), sizes=(1, 2)) for index in range(5)]
    driver = SchedulerDriver(engines[0], workers=2)
    boxes = []
    with working(driver.scheduler, 2):
        for index, engine in enumerate(engines):
            if index:
                driver.scheduler.add("echo", engine)
            boxes += [driver.ask([10 + number] * 5, engine=engine) for number in range(20)]
            if index:
                driver.scheduler.remove(engines[index - 1])
        answers = [awaited(box) for box in boxes]
        for box in boxes:
            box.place.release()
        wait_until(lambda: not any(map(driver.scheduler.serves, engines[:-1])))
    assert answers == [(*[10 + number] * 5, END) for _ in engines for number in range(20)]


# ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Recorder:
    """Makes programs and shapes.

    events: the programs that were compiled and the shapes that were warmed up, in order.
    """

    def __init__(self):
        self.events = []
        self.store = Store()

    def program(self, key, uses_weights=False, error=None):
        def compile():
            self.events.append(key)
            if error:
                raise error
            return f"executable {key}"

        return Program(key, compile, uses_weights)

    def shape(self, name, programs, priority=0):
        bucket = Bucket(Kind.ONCE, Generate, name, (1,), 1, 1)
        return Shape(bucket, 1, programs, lambda: self.events.append(f"warm {name}"), priority)

    def open(self):
        return sorted(bucket.name for bucket in self.store.open)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return Recorder()


def test_a_shape_opens_when_its_programs_have_run_the_most_wanted_first_and_shared_programs_once(recorder):
    shared = recorder.program("shared")
    recorder.store.want(
        [
            recorder.shape("last", [shared, recorder.program("c")], priority=2),
            recorder.shape("first", [recorder.program("a"), recorder.program("long", uses_weights=True), shared]),
            recorder.shape("next", [recorder.program("b")], priority=1),
        ]
    )
    recorder.store.compile(lambda: False)
    assert recorder.events == ["long", "a", "shared", "warm first"] and recorder.open() == ["first"]
    assert recorder.store["shared"] == "executable shared"
    compile_in_background(recorder.store)
    assert recorder.events[4:] == ["b", "warm next", "c", "warm last"] and recorder.open() == ["first", "last", "next"]


def test_an_error_ends_the_start_but_in_the_background_it_costs_only_the_shapes_that_need_the_program(recorder):
    broken = recorder.program("broken", error=RuntimeError("no memory"))
    shapes = [recorder.shape("poor", [broken, recorder.program("a")]), recorder.shape("rich", [recorder.program("b")])]
    recorder.store.want(shapes)
    with pytest.raises(RuntimeError, match="no memory"):
        recorder.store.compile(lambda: False)
    assert recorder.open() == []
    recorder.store.want(shapes)
    compile_in_background(recorder.store)
    assert recorder.open() == ["rich"] and "warm poor" not in recorder.events


def test_compiling_ends_early_when_told_to(recorder):
    recorder.store.want([recorder.shape(str(index), [recorder.program(index)]) for index in range(5)])
    recorder.store.compile(lambda: len(recorder.events) >= 2)
    assert recorder.events == [0, "warm 0"]


def test_as_many_threads_as_cores_compile_before_ready_and_each_program_once(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    recorder, together = Recorder(), threading.Barrier(4)

    def program(key):
        return Program(key, lambda: (together.wait(PATIENCE), recorder.events.append(key)))

    recorder.store.want([recorder.shape(str(index), [program(index), program(index + 4)]) for index in range(4)])
    recorder.store.compile(lambda: False)
    assert sorted(event for event in recorder.events if isinstance(event, int)) == list(range(8))
    assert recorder.open() == ["0", "1", "2", "3"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_what_compiles_in_the_background_has_a_low_priority_and_nothing_else_has():
    store, seen = Store(), []

    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    bucket = Bucket(Kind.ONCE, Generate, "any", (1,), 1, 1)
    store.want([Shape(bucket, 1, [Program("any", lambda: seen.append(niceness()))], lambda: None)])
    before = niceness()
    compile_in_background(store)
    assert seen == [max(before, NICENESS)] and niceness() == before
