"""The scheduler with a fake engine and a clock that only the test moves: all numbers can be computed by hand."""

import dataclasses

import pytest
from bart_server.scheduling.admission import Budget
from bart_server.scheduling.contract import Bucket, Delta, Description, Failure, Finish, Hypothesis, Request
from bart_server.scheduling.errors import MAX_QUOTED, DeadlineExceeded, DeviceFault, Overloaded, Unavailable, clipped
from bart_server.scheduling.observer import Observer
from bart_server.scheduling.scheduler import MAX_SUCCESSIVE_FAULTS, PACE_WEIGHT, Scheduler
from bart_server.scheduling.tasks import Classify, Generate

from support.echo import END, FakeEngine
from tests.server.harness import Clock, Mailbox


class SchedulerDriver:
    """A scheduler without worker threads, whose iterations the test itself calls, over a fake engine and a Clock."""

    def __init__(self, engine=None, budget=None, chunk=4, **settings):
        self.clock = Clock()
        self.engine = engine or FakeEngine()
        self.scheduler = Scheduler(budget or Budget(), chunk, clock=self.clock, **settings)
        self.scheduler.add("echo", self.engine)

    def ask(self, source, deadline=None, stream=False, engine=None, **options):
        return self.put(Generate(source, options, stream), deadline, engine)

    def classify(self, source):
        return self.put(Classify(source))

    def put(self, task_input, deadline=None, engine=None, place=None):
        box, engine = Mailbox(), engine or self.engine
        [request] = engine.requests(task_input)
        box.place = place or self.scheduler.reserve(engine)
        box.job = self.scheduler.submit(box.place, request, box, deadline)
        return box

    def iterate(self, count=1, worker=0):
        for _ in range(count):
            self.scheduler.iterate(worker)

    def batch(self, worker=0):
        """The worker's batch that has a state; None if it has none."""
        return next((batch for batch in self.scheduler._batches[worker] if batch.jobs), None)

    def calls(self):
        calls = list(self.engine.calls)
        self.engine.calls.clear()
        return calls


def test_an_answer_is_the_echo():
    driver = SchedulerDriver()
    box = driver.ask([10, 11, 12])
    driver.iterate(1)
    [answer] = box.finish.hypotheses
    assert (answer.tokens, answer.score, answer.stopped) == ((10, 11, 12, END), -3.0, True)
    assert driver.scheduler.iterate() is False


def test_a_length_limit_is_told_from_an_end():
    driver = SchedulerDriver()
    box = driver.ask([10, 11, 12], max_new_tokens=2)
    driver.iterate(1)
    [answer] = box.finish.hypotheses
    assert (answer.tokens, answer.stopped) == ((10, 11), False)


def test_a_stream_gets_each_chunk_once_and_then_the_end():
    driver = SchedulerDriver(chunk=2)
    box = driver.ask([10, 11, 12], stream=True)
    driver.iterate(2)
    assert box.deltas == [(10, 11), (12, END)]
    assert box.finish.hypotheses[0].tokens == (10, 11, 12, END)


def test_a_beam_stream_sends_only_what_all_beams_agree_on():
    driver = SchedulerDriver(chunk=2)
    box = driver.ask([10, 11, 12, 13, 14], stream=True, num_beams=3)
    driver.iterate(3)
    assert box.deltas == [(10, 11), (12, 13, 14, END)]  # after 2, 4 and 6 steps; the last two tokens may change


def test_those_who_wait_together_are_encoded_together():
    driver = SchedulerDriver()
    for token in (10, 20, 30):
        driver.ask([token])
    driver.iterate(1)
    assert driver.calls() == [("encode", 3), ("insert", 3), ("step", 3)]


def test_a_newcomer_joins_the_running_batch_within_one_chunk():
    driver = SchedulerDriver()
    first = driver.ask([10] * 8)
    driver.iterate(1)
    second = driver.ask([20])
    driver.iterate(1)
    assert second.finish.hypotheses[0].tokens == (20, END)
    assert not first.events
    driver.iterate(1)
    assert first.finish.hypotheses[0].tokens == (*[10] * 8, END)


def test_finished_rows_leave_at_once_and_the_batch_shrinks():
    driver = SchedulerDriver()
    for source in ([10] * 8, [20], [30]):
        driver.ask(source)
    driver.iterate(1)
    batch = driver.batch()
    assert len(batch.jobs) == 1  # 3 rows ran in the shape of 4; one is left
    driver.iterate(2)
    assert batch.state is None and batch.jobs == []


def test_a_batch_does_not_shrink_while_somebody_waits_for_its_rows():
    driver = SchedulerDriver()
    driver.ask([10] * 8)
    for index in range(5):
        driver.ask([20 + index])
    driver.iterate()
    assert len(driver.batch().live()) == 1 and len(driver.batch().jobs) == 4
    driver.iterate()
    assert len(driver.batch().jobs) == 1


def test_more_than_the_rows_wait_their_turn():
    driver = SchedulerDriver()
    boxes = [driver.ask([10 + index]) for index in range(6)]
    driver.iterate(1)
    assert [bool(box.events) for box in boxes] == [True] * 4 + [False] * 2
    driver.iterate(1)
    assert all(box.finish for box in boxes)


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_empty_batch_is_replaced_and_not_filled(cancelled):
    driver = SchedulerDriver(FakeEngine(sizes=(1,)))
    boxes = [driver.ask([10] * (8 if cancelled else 1)) for _ in range(3)]
    for box in boxes:
        driver.iterate(1)
        if cancelled:
            driver.scheduler.cancel(box.job)
    assert driver.calls() == [("encode", 1), ("insert", 1), ("step", 1)] * 3


def test_the_earliest_deadline_goes_first():
    driver = SchedulerDriver()
    boxes = [driver.ask([10], deadline=driver.clock() + seconds) for seconds in (50, 40, 30, 20, 10)]
    driver.iterate(1)
    assert [bool(box.events) for box in boxes] == [False, True, True, True, True]


def test_without_a_deadline_one_is_due_a_minute_after_arrival():
    driver = SchedulerDriver(FakeEngine(sizes=(1,)))
    patient = driver.ask([10])
    driver.clock.time += 31
    urgent = [driver.ask([20], deadline=driver.clock() + 30) for _ in range(2)]
    driver.iterate(1)
    assert patient.events and not any(box.events for box in urgent)


def test_different_beams_and_sampling_run_side_by_side():
    driver = SchedulerDriver()
    boxes = [driver.ask([10, 11]), driver.ask([20, 21], num_beams=3), driver.ask([30, 31], do_sample=True)]
    driver.iterate(1)
    assert [box.finish.hypotheses[0].tokens for box in boxes] == [(10, 11, END), (20, 21, END), (30, 31, END)]


def test_hypotheses_come_best_first():
    driver = SchedulerDriver()
    box = driver.ask([10, 11, 12], num_beams=3, num_return_sequences=3)
    driver.iterate(1)
    assert [h.score for h in box.finish.hypotheses] == [-3.0, -4.0, -5.0]


def test_cancel_while_queued_costs_the_device_nothing():
    driver = SchedulerDriver()
    box = driver.ask([10])
    driver.scheduler.cancel(box.job)
    driver.iterate(1)
    assert driver.calls() == [] and box.events == []


def test_cancel_while_encoding_frees_the_row_before_the_first_step():
    driver = SchedulerDriver()
    boxes = []

    def cancel_the_first(verb, requests):
        if verb == "encode":
            driver.scheduler.cancel(boxes[0].job)

    driver.engine.on_call = cancel_the_first
    boxes += [driver.ask([10]), driver.ask([20])]
    driver.iterate(1)
    assert driver.calls() == [("encode", 2), ("insert", 2), ("step", 1)]
    assert boxes[0].events == [] and boxes[1].finish.hypotheses[0].tokens == (20, END)


def test_cancel_while_decoding_frees_the_row_within_one_chunk_and_leaves_neighbors_alone():
    driver = SchedulerDriver()
    gone, stays = driver.ask([10] * 8), driver.ask([20] * 7)
    driver.iterate(1)
    driver.scheduler.cancel(gone.job)
    driver.iterate(1)
    assert driver.calls() == [("encode", 2), ("insert", 2), ("step", 2), ("step", 1)]
    assert gone.events == [] and stays.finish.hypotheses[0].tokens == (*[20] * 7, END)


def test_a_deadline_that_passes_in_the_queue_is_answered():
    driver = SchedulerDriver(FakeEngine(sizes=(1,)))
    driver.ask([10] * 8, deadline=driver.clock() + 1)
    late = driver.ask([20], deadline=driver.clock() + 2)
    driver.iterate(1)
    driver.clock.time += 3
    driver.iterate(1)
    assert isinstance(late.error, DeadlineExceeded)
    assert driver.calls() == [("encode", 1), ("insert", 1), ("step", 1)]


def test_a_deadline_that_passes_while_decoding_frees_the_row():
    driver = SchedulerDriver()
    late = driver.ask([10] * 8, deadline=driver.clock() + 1)
    driver.iterate(1)
    driver.clock.time += 2
    driver.iterate(1)
    assert isinstance(late.error, DeadlineExceeded)
    assert driver.batch() is None


def test_without_a_free_place_a_call_is_refused_at_once():
    driver = SchedulerDriver(budget=Budget(requests=2))
    driver.ask([10]), driver.ask([20])
    with pytest.raises(Overloaded, match="the limit is 2") as refusal:
        driver.ask([30])
    assert 0 < refusal.value.retry_after <= 30
    assert driver.calls() == []


def test_a_full_scheduler_refuses_at_once_by_padded_tokens_times_beams():
    driver = SchedulerDriver(FakeEngine(sources=(8,)), Budget(cost=(8 + 64) * 3))
    driver.ask([10], num_beams=3, max_new_tokens=64)  # (8 + 63) x 3 = 213 of 216
    with pytest.raises(Overloaded, match="213 padded tokens x beams"):
        driver.ask([20], max_new_tokens=1)


def test_room_is_given_back_however_a_request_ends():
    driver = SchedulerDriver(budget=Budget(requests=3))
    place = driver.scheduler.reserve(driver.engine, 3)
    place.release()
    place.release()
    with driver.scheduler.reserve(driver.engine) as reservation:
        [request] = driver.engine.requests(Generate([10]))
        job = driver.scheduler.submit(reservation, request, Mailbox())
        driver.scheduler.cancel(job)
        driver.scheduler.cancel(job)
        driver.scheduler.submit(reservation, request, Mailbox(), driver.clock() - 1)
        driver.scheduler.submit(reservation, request, Mailbox())
        driver.iterate(1)
    assert driver.scheduler.idle()
    assert driver.scheduler._admission.cost == 0


def work_at_one_second_a_step(driver):
    """Serves ten requests of cost 9, of which each takes one second, so that the scheduler knows the throughput."""

    def tick(verb, requests):
        driver.clock.time += verb == "step"

    driver.engine.on_call = tick
    for _ in range(10):
        driver.ask([10], max_new_tokens=1)
        driver.iterate(1)


def test_what_cannot_meet_its_deadline_is_refused_at_once():
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)))
    work_at_one_second_a_step(driver)  # a request of cost 9 takes about a second
    for _ in range(5):
        driver.ask([10], max_new_tokens=1, deadline=driver.clock() + 5.5)
    with pytest.raises(Overloaded, match=r"the answer would take about 6.0 s, the deadline is in 5.5 s") as refusal:
        driver.ask([10], max_new_tokens=1, deadline=driver.clock() + 5.5)
    assert refusal.value.retry_after == pytest.approx(5.0, abs=0.11)
    driver.ask([10], max_new_tokens=1, deadline=driver.clock() + 5.4)  # due first, so nothing is ahead of it


def test_a_deadline_is_believed_possible_until_the_speed_is_known():
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)))
    assert driver.ask([10], deadline=driver.clock() + 0.001)


def test_the_retry_hint_is_a_second_until_the_speed_is_known():
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)), Budget(requests=4))
    driver.scheduler.reserve(driver.engine, 4)
    with pytest.raises(Overloaded) as unknown:
        driver.scheduler.reserve(driver.engine)
    assert unknown.value.retry_after == 1.0


def test_a_fault_in_a_step_fails_its_batch_and_nothing_else():
    driver = SchedulerDriver()
    doomed, other = driver.ask([10] * 6), driver.ask([20] * 6, num_beams=3)

    def break_the_greedy_bucket(verb, requests):
        if verb == "step" and "num_beams" not in requests[0].payload:
            raise RuntimeError("XLA:RESOURCE_EXHAUSTED")

    driver.engine.on_call = break_the_greedy_bucket
    driver.iterate(1)
    driver.engine.on_call = lambda verb, requests: None
    driver.iterate(1)
    assert isinstance(doomed.error, DeviceFault)
    assert other.finish.hypotheses[0].tokens == (*[20] * 6, END)
    after = driver.ask([30])
    driver.iterate(1)
    assert after.finish


def test_a_fault_in_the_encoder_spares_the_running_batch():
    driver = SchedulerDriver()
    running = driver.ask([10] * 6)
    driver.iterate(1)

    def break_the_encoder(verb, requests):
        if verb == "encode":
            raise MemoryError

    driver.engine.on_call = break_the_encoder
    doomed = driver.ask([20])
    driver.iterate(1)
    assert isinstance(doomed.error, DeviceFault)
    assert running.finish.hypotheses[0].tokens == (*[10] * 6, END)


def test_a_device_that_always_fails_ends_the_scheduler():
    deaths = []
    driver = SchedulerDriver()
    driver.scheduler._on_death = deaths.append

    def always(verb, requests):
        raise RuntimeError("lost")

    driver.engine.on_call = always
    boxes = [driver.ask([10], max_new_tokens=1) for _ in range(20 * MAX_SUCCESSIVE_FAULTS)]
    driver.scheduler.run()
    assert len(deaths) == 1
    assert all(isinstance(box.error, DeviceFault | Unavailable) for box in boxes)
    assert str(boxes[-1].error) == "the server is broken and about to end"
    with pytest.raises(Unavailable, match="the server is broken"):
        driver.ask([10])


def fail_in(verb):
    def on_call(called, requests):
        if called == verb:
            raise RuntimeError("lost")

    return on_call


def test_a_step_that_always_fails_ends_the_scheduler_though_the_encoder_works():
    driver = SchedulerDriver(FakeEngine(on_call=fail_in("step")))
    for _ in range(MAX_SUCCESSIVE_FAULTS - 1):
        driver.ask([10])
        driver.iterate()
    driver.ask([10])
    with pytest.raises(RuntimeError, match="3 device calls in succession failed"):
        driver.iterate()


@pytest.mark.parametrize("succeeding", ["step", "run"])
def test_a_computation_that_succeeds_ends_a_succession_of_faults(succeeding):
    driver = SchedulerDriver()
    for _ in range(2):
        for _ in range(MAX_SUCCESSIVE_FAULTS - 1):
            driver.engine.on_call = fail_in("encode")
            driver.ask([10])
            driver.iterate()
        driver.engine.on_call = lambda verb, requests: None
        box = driver.ask([20]) if succeeding == "step" else driver.classify([20])
        driver.iterate()
        assert box.finish
    driver.engine.on_call = fail_in("encode")
    for _ in range(MAX_SUCCESSIVE_FAULTS - 1):
        driver.ask([10])
        driver.iterate()
    driver.ask([10])
    with pytest.raises(RuntimeError, match="in succession"):
        driver.iterate()


def test_a_fault_in_a_classification_fails_its_batch_and_nothing_else():
    driver = SchedulerDriver(FakeEngine(on_call=fail_in("run")))
    boxes, other = [driver.classify([10]) for _ in range(2)], driver.ask([20])
    driver.iterate()
    assert [type(box.error) for box in boxes] == [DeviceFault] * 2
    assert other.finish


@pytest.mark.parametrize("verb", ["run", "results"])
def test_an_engine_that_gives_too_few_answers_is_an_error(verb):
    driver = SchedulerDriver()
    setattr(driver.engine, verb, lambda *arguments: [])
    driver.classify([10]) if verb == "run" else driver.ask([10])
    with pytest.raises(ValueError, match="shorter than argument 1"):
        driver.iterate()


def test_a_buckets_pace_moves_towards_each_measurement_of_which_one_counts_at_most_twice_the_pace():
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)))
    scheduler = driver.scheduler

    def latency_after(seconds):
        """The seconds that a request of cost 9 is expected to take after one that took `seconds`."""

        def tick(verb, requests):
            driver.clock.time += seconds if verb == "step" else 0

        driver.engine.on_call = tick
        box = driver.ask([10], max_new_tokens=1)
        driver.iterate()
        return scheduler._latency(box.job.bucket, box.job.request)

    assert latency_after(9.0) == pytest.approx(9.0)
    assert latency_after(13.5) == pytest.approx(first := 9 + PACE_WEIGHT * 4.5)
    assert latency_after(900.0) == pytest.approx(second := first + PACE_WEIGHT * first)
    assert latency_after(1.0) == pytest.approx(second + PACE_WEIGHT * (1 - second))


def test_nothing_is_kept_of_an_engine_that_was_removed():
    driver = SchedulerDriver()
    box = driver.ask([10])
    driver.iterate()
    box.place.release()
    driver.scheduler.remove(driver.engine)
    scheduler = driver.scheduler
    assert not (scheduler._revisions or scheduler._paces or scheduler._queues or scheduler._jobs)
    assert scheduler._batches == ((),)


class Recorder(Observer):
    """Records how many requests wait for each engine call, and the token count or failure of each request that ends."""

    def __init__(self):
        self.calls, self.ends = [], []
        self.requests = self.cost = self.waiting = None

    def queued(self, requests, cost, waiting):
        self.requests, self.cost, self.waiting = requests, cost, waiting

    def calling(self, requests):
        self.calls.append(requests)

    def finished(self, model, bucket, tokens, queued, computed):
        self.ends.append(tokens)

    def failed(self, model, bucket, reason):
        self.ends.append(reason)


def test_the_observer_hears_how_many_requests_wait_for_each_engine_call_and_when_it_has_ended():
    waiting = []
    observer = Recorder()
    driver = SchedulerDriver(observer=observer)
    driver.engine.on_call = lambda verb, requests: waiting.append((verb, observer.calls[-1]))
    stays, cancelled, classified = driver.ask([10] * 8), driver.ask([20] * 8), driver.classify([30])
    driver.iterate()
    assert waiting == [("encode", 2), ("insert", 2), ("step", 2), ("run", 1)]
    assert observer.calls[1::2] == [0] * (len(observer.calls) // 2)
    driver.scheduler.cancel(cancelled.job)
    observer.calls.clear()
    driver.iterate()
    assert observer.calls[:4] == [0, 0, 1, 0], "nobody waits while a cancelled row is freed"
    driver.iterate()
    assert stays.finish and classified.finish
    assert observer.ends == [0, "Cancelled", 9]


def test_the_observer_hears_what_is_in_flight_and_how_many_wait_for_a_row():
    observer = Recorder()
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)), observer=observer)
    boxes = [driver.ask([10, 11], max_new_tokens=2) for _ in range(2)] + [driver.classify([10])]
    cost = 2 * (8 + 2) + 8
    assert (observer.requests, observer.cost, observer.waiting) == (3, cost, 3)
    driver.iterate()
    assert (observer.requests, observer.cost, observer.waiting) == (1, 8 + 2, 1)
    driver.iterate()
    assert all(box.finish for box in boxes)
    assert (observer.requests, observer.cost, observer.waiting) == (0, 0, 0)


@pytest.mark.parametrize("length", [MAX_QUOTED, MAX_QUOTED + 1, 10 * MAX_QUOTED])
def test_a_long_text_of_the_callers_is_cut_in_a_message(length):
    text = "x" * length
    assert clipped(text) == (text if length == MAX_QUOTED else "x" * (MAX_QUOTED - 1) + "…")


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_that_is_cancelled_inside_its_last_step_ends_once(fails):
    observer = Recorder()
    driver = SchedulerDriver(observer=observer)

    def cancel_in_the_step(verb, requests):
        if verb == "step":
            driver.scheduler.cancel(box.job)
            if fails:
                raise RuntimeError("lost")

    driver.engine.on_call = cancel_in_the_step
    box = driver.ask([10])
    driver.iterate()
    assert observer.ends == ["Cancelled"] and box.events == []


def test_nan_is_a_fault_and_no_answer():
    class Broken(FakeEngine):
        def results(self, bucket, state, rows):
            spoiled = super().results(bucket, state, rows)
            return [tuple(type(h)(h.tokens, float("nan"), h.stopped) for h in answer) for answer in spoiled]

        def run(self, bucket, size, requests):
            return [(0.0, float("nan")) for _ in requests]

    driver = SchedulerDriver(Broken())
    boxes = [driver.ask([10]), driver.classify([10])]
    driver.iterate(1)
    assert all(isinstance(box.error, DeviceFault) for box in boxes)


def test_classifications_run_in_batches_beside_generation():
    driver = SchedulerDriver()
    generating = driver.ask([10, 11])
    boxes = [driver.classify([10] * (1 + index)) for index in range(3)]
    driver.iterate(1)
    assert generating.finish
    assert [box.finish.values for box in boxes] == [(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]
    assert ("run", 3) in driver.calls()


def test_draining_refuses_the_new_and_finishes_the_old():
    driver = SchedulerDriver()
    box = driver.ask([10] * 6)
    driver.iterate(1)
    tokenizing = driver.scheduler.reserve(driver.engine)
    driver.scheduler.drain()
    with pytest.raises(Unavailable, match="shutting down") as refusal:
        driver.ask([20])
    assert refusal.value.retry_after == 1.0
    late = Mailbox()
    driver.scheduler.submit(tokenizing, driver.engine.requests(Generate([30]))[0], late)
    assert not driver.scheduler.idle()
    driver.iterate(1)
    assert box.finish and late.finish


def test_a_stopped_scheduler_fails_what_is_left():
    driver = SchedulerDriver()
    box = driver.ask([10])
    driver.scheduler.stop()
    driver.scheduler.run()
    assert isinstance(box.error, Unavailable) and str(box.error) == "the server is shutting down"
    with pytest.raises(Unavailable, match="the server is shutting down"):
        driver.ask([20])


def test_timings_are_those_of_the_clock():
    driver = SchedulerDriver(chunk=1)

    def tick(verb, requests):
        driver.clock.time += {"encode": 2.0, "insert": 0.25, "step": 0.5}[verb]

    driver.engine.on_call = tick
    box = driver.ask([10, 11])
    driver.clock.time += 3.0
    driver.iterate(3)
    assert (box.finish.queued, box.finish.computed) == (3.0, 2.0 + 0.25 + 3 * 0.5)


@pytest.mark.parametrize("kind", [Request, Bucket, Hypothesis, Delta, Finish, Failure, Description, Generate, Classify])
def test_what_crosses_threads_cannot_be_changed(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        object.__new__(kind).anything = 1


def test_a_bucket_that_no_budget_could_hold_is_refused_at_the_start():
    with pytest.raises(ValueError, match="needs a budget of"):
        SchedulerDriver(budget=Budget(cost=10))


def test_memory_does_not_grow_under_cancellation():
    driver = SchedulerDriver(FakeEngine(sizes=(1,)))
    driver.ask([10] * 8)
    driver.iterate(1)
    for _ in range(200):
        driver.scheduler.cancel(driver.ask([20]).job)
    batch = driver.batch()
    assert batch.waiting == [] and len(driver.scheduler._jobs) == 1


def test_with_nothing_ahead_a_call_is_admitted_however_slow_the_device_was():
    driver = SchedulerDriver(FakeEngine(sources=(8,), sizes=(1,)))

    def stall(verb, requests):
        driver.clock.time += 40.0 if verb == "step" else 0.0

    driver.engine.on_call = stall
    driver.ask([10], max_new_tokens=1)
    driver.iterate()
    driver.engine.on_call = lambda verb, requests: None
    for _ in range(3):
        box = driver.ask([10], max_new_tokens=1, deadline=driver.clock() + 5.0)
        driver.iterate()
        assert box.finish


def answered_in_time(outstanding, deadline, seconds=30.0):
    """The number of requests that a device of 4 rows and 0.05 s a chunk answers in `seconds`.

    outstanding: callers, each of which sends a new request as soon as it is answered. deadline: seconds of a request.
    """
    driver = SchedulerDriver(FakeEngine(sources=(16,), sizes=(1, 2, 4)), budget=Budget(requests=512), chunk=1)

    def tick(verb, requests):
        driver.clock.time += 0.05 if verb == "step" else 0.0

    driver.engine.on_call = tick
    answered, waiting = 0, []
    end = driver.clock.time + seconds
    while driver.clock.time < end:
        for box in [box for box in waiting if box.events]:
            box.place.release()
            waiting.remove(box)
            answered += isinstance(box.events[-1], Finish)
        for _ in range(outstanding - len(waiting)):
            place = driver.scheduler.reserve(driver.engine)
            try:
                source = Generate([10] * 10, {"max_new_tokens": 11})
                waiting.append(driver.put(source, driver.clock() + deadline, place=place))
            except Overloaded:
                place.release()
        if not driver.scheduler.iterate():
            driver.clock.time += 0.05
    return answered


def test_far_too_many_callers_with_short_deadlines_do_not_keep_the_server_from_answering():
    peak = answered_in_time(outstanding=4, deadline=5.0)
    assert answered_in_time(outstanding=100, deadline=0.6) >= 0.9 * peak
