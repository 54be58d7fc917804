"""With which error a Call ends, and its request id."""

import pytest
from bart_server.scheduling.errors import Cancelled, DeadlineExceeded
from bart_server.services.call import CANCELLED_EARLY, Call


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [(None, Cancelled), (60.0, Cancelled), (CANCELLED_EARLY / 2, DeadlineExceeded), (-60.0, DeadlineExceeded)],
)
def test_a_call_whose_task_is_cancelled_about_at_its_deadline_was_late(timeout, kind):
    assert type(Call(timeout).cancellation()) is kind


def test_whoever_registered_hears_of_a_cancellation_and_the_call_is_over():
    call, errors = Call(60.0), []
    for _ in range(2):
        call.on_cancel(errors.append)
    call.check()
    assert 59 < call.remaining() <= 60 and Call().remaining() is None
    call.cancel()
    assert [type(error) for error in errors] == [Cancelled] * 2
    with pytest.raises(Cancelled):
        call.check()
    with pytest.raises(DeadlineExceeded):
        Call(0.0).check()


def test_a_call_has_an_id_of_its_own_unless_it_brings_one():
    assert Call(request_id="abc").facts == {"request_id": "abc"}
    assert len(Call().request_id) == 32 and Call().request_id != Call().request_id
