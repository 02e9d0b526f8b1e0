import time

import pytest

from mri_fm.data.retry import NETWORK, STORED, Backoff, retried


class Flaky:
    """Fails with each given error, then gives 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def test_waits_double_up_to_the_longest() -> None:
    assert list(Backoff(tries=5, first_s=1, longest_s=3).waits()) == [1, 2, 3, 3]
    assert Backoff(tries=5, first_s=1, longest_s=3).total_s == 9
    assert list(Backoff(tries=1, first_s=1).waits()) == []
    assert NETWORK.total_s == 3
    assert STORED.tries == 2


def test_a_transient_error_is_tried_again_after_growing_waits(slept: list[float]) -> None:
    action = Flaky(TimeoutError(), ConnectionError())
    assert retried(action, (TimeoutError, ConnectionError), Backoff(tries=3, first_s=1)) == 7
    assert action.calls == 3
    assert 0.5 <= slept[0] < 1
    assert slept[1] == pytest.approx(2 * slept[0])


def test_the_last_error_is_raised(slept: list[float]) -> None:
    action = Flaky(TimeoutError("first"), TimeoutError("second"), TimeoutError("third"))
    with pytest.raises(TimeoutError, match="second"):
        retried(action, (TimeoutError,), Backoff(tries=2, first_s=1))
    assert action.calls == 2
    assert len(slept) == 1


def test_another_error_is_raised_at_once(slept: list[float]) -> None:
    action = Flaky(KeyError())
    with pytest.raises(KeyError):
        retried(action, (TimeoutError,), NETWORK)
    assert action.calls == 1
    assert not slept
