"""Programs, shape buckets and revisions that come and go while workers run: on the echo engine, computed by hand."""

import os
import sys
import threading

import pytest
from bart_server.engine.store import NICENESS, Program, Shape, Store
from bart_server.scheduling.contract import Bucket, Kind
from bart_server.scheduling.errors import Unavailable
from bart_server.scheduling.tasks import Generate

from support.echo import END, FakeEngine
from tests.server.harness import PATIENCE, Gate, wait_until, working
from tests.server.test_scheduler import House
from tests.server.test_workers import awaited


def long_ones_first(bucket, size):
    """Only the longest source is there before the model is served."""
    return int(bucket.source < 64)


def behind(engine):
    """Compiles on a thread of its own, whose priority is lowered for good, and waits for its end."""
    thread = threading.Thread(target=engine.compile, args=(lambda: False, True))
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def compiled(**settings):
    """An engine whose first programs are there, and a scheduler over it."""
    engine = FakeEngine(**settings)
    engine.compile(lambda: False)
    return House(engine)


# ── buckets that open ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_takes_the_best_bucket_that_is_open_and_the_next_one_a_better_bucket_that_opens_meanwhile():
    house = compiled(priority=long_ones_first)
    first = house.ask([10] * 6)
    house.iterate()
    behind(house.engine)
    second = house.ask([20] * 6)
    house.iterate(2)
    assert (first.job.bucket.source, second.job.bucket.source) == (64, 8)
    assert first.finish.hypotheses[0].tokens == (*[10] * 6, END)
    assert second.finish.hypotheses[0].tokens == (*[20] * 6, END)


def test_who_still_waits_when_a_better_bucket_opens_is_served_in_it():
    house = compiled(priority=long_ones_first, sizes=(1,))
    running, waiting = house.ask([10] * 6), house.ask([20] * 6)
    house.iterate()
    assert waiting.job.bucket.source == 64
    behind(house.engine)
    house.iterate()
    assert waiting.job.bucket.source == 8 and waiting.job.started, "it did not wait for the row of the long bucket"
    house.iterate(2)
    assert running.finish and waiting.finish


def test_a_batch_grows_to_a_row_count_that_opens_while_it_runs():
    house = compiled(priority=lambda bucket, size: int(size > 1), sizes=(1, 4))
    boxes = [house.ask([10 + index] * 6) for index in range(3)]
    house.iterate()
    assert len(house.batch().jobs) == 1
    behind(house.engine)
    house.iterate()
    assert len(house.batch().jobs) == 4
    house.iterate(3)
    assert [box.finish.hypotheses[0].tokens for box in boxes] == [(*[10 + index] * 6, END) for index in range(3)]


def test_no_request_waits_while_something_is_compiled():
    gate = Gate("compile")
    house = compiled(priority=long_ones_first)
    house.engine.on_call = gate
    compiling = threading.Thread(target=house.engine.compile, args=(lambda: False, True))
    compiling.start()
    gate.wait()
    with working(house.scheduler, 1):
        box = house.ask([10] * 6)
        assert awaited(box) == (*[10] * 6, END) and box.job.bucket.source == 64
        gate.open()
        compiling.join(PATIENCE)
        box = house.ask([10] * 6)
        assert awaited(box) == (*[10] * 6, END) and box.job.bucket.source == 8


def test_what_no_program_can_hold_yet_is_refused_and_does_not_wait():
    house = compiled(priority=lambda bucket, size: int(bucket.beams > 1))
    with pytest.raises(Unavailable, match="is compiled yet"):
        house.ask([10], num_beams=3)
    behind(house.engine)
    box = house.ask([10], num_beams=3)
    house.iterate()
    assert box.finish


# ── buckets that close ────────────────────────────────────────────────────────────────────────────────────────────────


def bucket_of(engine, source, beams=1):
    return next(
        bucket
        for bucket in engine.buckets
        if (bucket.kind, bucket.source, bucket.beams, bucket.sample) == (Kind.DECODE, source, beams, False)
    )


def test_when_a_bucket_closes_what_runs_ends_there_and_what_waits_goes_elsewhere():
    house = House(FakeEngine(sizes=(1,)))
    running, waiting = house.ask([10] * 6), house.ask([20] * 6)
    house.iterate()
    house.engine.store.close(bucket_of(house.engine, 8))
    late = house.ask([30] * 6)
    assert late.job.bucket.source == 64
    house.iterate(5)
    assert (running.job.bucket.source, waiting.job.bucket.source) == (8, 64)
    assert [box.finish.hypotheses[0].tokens[0] for box in (running, waiting, late)] == [10, 20, 30]


def test_a_row_count_that_closes_takes_nobody_and_its_rows_end_in_it():
    house = House(FakeEngine(sources=(64,), sizes=(1, 4)))
    running = [house.ask([10] * 10) for _ in range(2)]
    house.iterate()
    house.engine.store.close(bucket_of(house.engine, 64), 4)
    late = house.ask([20])
    house.iterate()
    assert len(house.batch().jobs) == 4 and not late.events
    house.iterate(2)
    assert all(box.finish for box in running) and house.batch() is None
    house.iterate()
    assert late.finish.hypotheses[0].tokens == (20, END)


def test_who_waits_for_the_last_bucket_that_closes_is_told_to_try_again():
    house = House(FakeEngine(sources=(64,), sizes=(1,)))
    running, waiting = house.ask([10] * 6), house.ask([20])
    house.iterate()
    house.engine.store.close(bucket_of(house.engine, 64))
    house.iterate()
    assert isinstance(waiting.error, Unavailable) and running.finish
    house.engine.store.want([house.engine._shape(bucket_of(house.engine, 64), 1)])
    behind(house.engine)
    again = house.ask([20])
    house.iterate()
    assert again.finish.hypotheses[0].tokens == (20, END)


# ── revisions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_revisions_of_a_model_run_side_by_side_and_the_removed_one_finishes_its_work():
    house = House(FakeEngine(revision="old", sizes=(1,)))
    old, new = house.engine, FakeEngine(revision="new", sizes=(1,))
    running, waiting = house.ask([10] * 6), house.ask([20] * 6)
    house.iterate()
    house.scheduler.add("echo", new)
    tokenizing = house.scheduler.reserve(old)
    house.scheduler.remove(old)
    with pytest.raises(Unavailable, match="this revision"):
        house.scheduler.reserve(old)
    beside = house.ask([30] * 6, engine=new)
    house.iterate(2)
    assert beside.finish and running.finish
    assert ("step", 1) in old.calls and ("step", 1) in new.calls
    house.iterate(2)
    assert waiting.finish.hypotheses[0].tokens == (*[20] * 6, END)
    for box in (running, waiting):
        box.place.release()
    assert house.scheduler.serves(old), "a place is still taken"
    late = house.put(Generate([40]), engine=old, place=tokenizing)
    house.iterate()
    assert late.finish.hypotheses[0].tokens == (40, END)
    tokenizing.release()
    assert not house.scheduler.serves(old) and house.scheduler.serves(new)
    assert {batch.revision.engine for batch in house.scheduler._batches[0]} == {new}


def test_a_cancelled_row_of_a_removed_revision_is_freed_and_then_the_engine_is_forgotten():
    house = House()
    old, new = house.engine, FakeEngine(revision="new")
    box = house.ask([10] * 6)
    house.iterate()
    house.scheduler.add("echo", new)
    house.scheduler.remove(old)
    house.scheduler.cancel(box.job)
    box.place.release()
    assert house.scheduler.serves(old), "its rows are still in use"
    house.iterate()
    assert not house.scheduler.serves(old)


def test_a_revision_is_replaced_under_load_and_no_request_is_lost():
    engines = [FakeEngine(revision=str(index), sizes=(1, 2)) for index in range(5)]
    house = House(engines[0], workers=2)
    boxes = []
    with working(house.scheduler, 2):
        for index, engine in enumerate(engines):
            if index:
                house.scheduler.add("echo", engine)
            boxes += [house.ask([10 + number] * 5, engine=engine) for number in range(20)]
            if index:
                house.scheduler.remove(engines[index - 1])
        answers = [awaited(box) for box in boxes]
        for box in boxes:
            box.place.release()
        wait_until(lambda: not any(map(house.scheduler.serves, engines[:-1])))
    assert answers == [(*[10 + number] * 5, END) for _ in engines for number in range(20)]


# ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Recorder:
    """Makes programs that note the order in which they are compiled and shapes that note when they are warmed up."""

    def __init__(self):
        self.events = []
        self.store = Store()

    def program(self, key, long=False, error=None):
        def compile():
            self.events.append(key)
            if error:
                raise error
            return f"executable {key}"

        return Program(key, compile, long)

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
            recorder.shape("first", [recorder.program("a"), recorder.program("long", long=True), shared]),
            recorder.shape("next", [recorder.program("b")], priority=1),
        ]
    )
    recorder.store.compile(lambda: False)
    assert recorder.events == ["long", "a", "shared", "warm first"] and recorder.open() == ["first"]
    assert recorder.store["shared"] == "executable shared"
    behind(recorder.store)
    assert recorder.events[4:] == ["b", "warm next", "c", "warm last"] and recorder.open() == ["first", "last", "next"]


def test_an_error_ends_the_start_but_behind_it_costs_only_the_shapes_that_need_the_program(recorder):
    broken = recorder.program("broken", error=RuntimeError("no memory"))
    shapes = [recorder.shape("poor", [broken, recorder.program("a")]), recorder.shape("rich", [recorder.program("b")])]
    recorder.store.want(shapes)
    with pytest.raises(RuntimeError, match="no memory"):
        recorder.store.compile(lambda: False)
    assert recorder.open() == []
    recorder.store.want(shapes)
    behind(recorder.store)
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
def test_what_compiles_behind_has_a_low_priority_and_nothing_else_has():
    store, seen = Store(), []

    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    bucket = Bucket(Kind.ONCE, Generate, "any", (1,), 1, 1)
    store.want([Shape(bucket, 1, [Program("any", lambda: seen.append(niceness()))], lambda: None)])
    before = niceness()
    behind(store)
    assert seen == [max(before, NICENESS)] and niceness() == before
