"""The two budgets, the measured throughput and the pause that a refused caller gets, with numbers computed by hand."""

import pytest
from bart_server.scheduling.admission import HALF_LIFE, MAX_RETRY_AFTER, MIN_OBSERVED, Admission, Budget, Throughput
from bart_server.scheduling.errors import Overloaded


def work(throughput, begin, end, cost):
    """Records one iteration, from `begin` to `end` in seconds, that finishes requests of this cost."""
    throughput.began(begin)
    throughput.retired(cost)
    throughput.ended(end, worked=True)


def measured(budget, cost_per_second=10):
    """An Admission that has measured ten seconds of work."""
    admission = Admission(budget)
    work(admission.throughput, 100.0, 110.0, 10 * cost_per_second)
    return admission


def test_cost_takes_as_long_as_it_took_before():
    throughput = Throughput()
    work(throughput, 100.0, 110.0, cost=50)
    assert throughput.seconds(20) == pytest.approx(4.0)


def test_after_its_half_life_a_measurement_has_half_its_weight_whether_or_not_work_is_done():
    throughput = Throughput()
    work(throughput, 100.0, 110.0, cost=100)
    work(throughput, 105.0 + HALF_LIFE, 110.0 + HALF_LIFE, cost=900)
    assert throughput.seconds(100 / 2 + 900) == pytest.approx(10 / 2 + 5)


def test_one_stall_of_the_device_at_most_halves_the_throughput():
    throughput = Throughput()
    for second in range(4):
        work(throughput, 100.0 + second, 101.0 + second, cost=10)
    before = throughput.seconds(10)
    work(throughput, 104.0, 144.0, cost=10)  # 40 s instead of 1 s
    assert before == pytest.approx(1.0, rel=0.1)
    assert throughput.seconds(10) < 2 * before


def test_with_nothing_ahead_no_deadline_is_too_soon():
    admission = measured(Budget(requests=4, cost=1000), cost_per_second=1)
    admission.admit(100, 0, 0.001)
    with pytest.raises(Overloaded):
        admission.admit(100, 1, 0.001)


def test_nothing_is_estimated_before_enough_was_seen():
    throughput = Throughput()
    work(throughput, 100.0, 100.0 + 0.9 * MIN_OBSERVED, cost=10)
    assert throughput.seconds(10) is None
    idle = Throughput()
    work(idle, 100.0, 110.0, cost=0)
    assert idle.seconds(10) is None
    exactly = Throughput()
    work(exactly, 100.0, 100.0 + MIN_OBSERVED, cost=10)
    assert exactly.seconds(10) == pytest.approx(MIN_OBSERVED)


def test_an_iteration_without_work_does_not_count_and_what_was_retired_counts_later():
    throughput = Throughput()
    throughput.began(0.0)
    throughput.retired(5)
    throughput.ended(50.0, worked=False)
    work(throughput, 100.0, 110.0, cost=5)
    assert throughput.seconds(10) == pytest.approx(10.0)


def test_without_a_place_the_refusal_names_the_numbers_and_when_the_excess_is_done():
    admission = measured(Budget(requests=4, cost=1000))
    admission.reserve(4)
    admission.admit(400, 0, None)
    with pytest.raises(Overloaded) as refusal:
        admission.reserve(2)
    assert str(refusal.value) == "4 requests are in flight, this call brings 2; the limit is 4"
    assert refusal.value.retry_after == pytest.approx(20.0)  # two of 100 each, at 10 a second
    admission.release(2)
    admission.reserve(2)


def test_without_room_the_refusal_names_the_numbers_and_when_the_excess_is_done():
    admission = measured(Budget(requests=4, cost=1000))
    admission.admit(900, 0, None)
    admission.admit(100, 0, None)  # fills the budget
    with pytest.raises(Overloaded) as refusal:
        admission.admit(25, 0, None)
    message = "1000 padded tokens x beams are in flight, this request brings 25; the limit is 1000"
    assert (str(refusal.value), refusal.value.retry_after) == (message, 2.5)
    admission.retire(100, served=False)
    admission.admit(25, 0, None)


def test_what_cannot_end_before_its_deadline_is_refused_and_what_ends_just_then_is_not():
    admission = measured(Budget(requests=4, cost=1000))
    admission.admit(10, 40, 5.0)
    with pytest.raises(Overloaded, match=r"the answer would take about 5.0 s, the deadline is in 4.9 s") as refusal:
        admission.admit(10, 40, 4.9)
    assert refusal.value.retry_after == 4.0


def test_who_is_served_next_still_takes_its_own_time():
    admission = measured(Budget(requests=4, cost=1000))
    admission.admit(10, 40, 6.0, latency=2.0)  # four seconds of other requests, then its own two
    with pytest.raises(Overloaded, match=r"the answer would take about 6.0 s, the deadline is in 5.9 s"):
        admission.admit(10, 40, 5.9, latency=2.0)


@pytest.mark.parametrize(("excess", "seconds"), [(0.1, 0.1), (25.01, 2.6), (299, 29.9), (500, MAX_RETRY_AFTER)])
def test_the_hint_is_rounded_up_to_a_tenth_of_a_second_within_its_limits(excess, seconds):
    admission = measured(Budget(requests=4, cost=1000))
    with pytest.raises(Overloaded) as refusal:
        admission.admit(1000 + excess, 0, None)
    assert refusal.value.retry_after == pytest.approx(seconds)


def test_only_what_was_served_says_something_about_the_throughput():
    admission = Admission(Budget())
    admission.admit(100, 0, None)
    admission.admit(30, 0, None)
    admission.throughput.began(0.0)
    admission.retire(100, served=False)
    admission.retire(30, served=True)
    admission.throughput.ended(3.0, worked=True)
    assert admission.cost == 0 and admission.throughput.seconds(30) == pytest.approx(3.0)
