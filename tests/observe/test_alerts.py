import pytest

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.observe.alerts import Alert, Alerts
from mri_fm.run_config import AlertConfig

HEALTHY = {"loss": 1.0, "step_time": 1.0, "data_wait": 0.1}


def titles(records: list[dict[str, float]], **thresholds: float) -> list[list[str]]:
    alerts = Alerts(AlertConfig(**thresholds))
    return [[alert.title for alert in alerts.check(HEALTHY | record)] for record in records]


def test_a_healthy_run_raises_nothing():
    assert not any(titles([{"loss": 1.0 / (1 + step), "feature_std": 1.0, "effective_rank": 8.0} for step in range(50)]))


def test_collapse_is_told_once_until_it_is_over():
    deviations = [0.5, 1.0, 0.3, 0.1, 0.1, 0.9, 0.1]
    found = titles([{"feature_std": deviation} for deviation in deviations])
    assert found == [[], [], [], ["collapse"], [], [], ["collapse"]]
    lines_between = titles([{"feature_std": 1.0}, {"feature_std": 0.1}, {}, {"feature_std": 0.1}])
    assert lines_between == [[], ["collapse"], [], []]  # a line that is not observed says nothing about it
    assert titles([{"feature_std": 1.0, "effective_rank": 1.2}]) == [["collapse"]]
    assert titles([{"feature_std": 1.0, "effective_rank": 1.2}], least_rank=0.0) == [[]]


def test_a_loss_far_above_its_median_is_a_spike():
    lines = [{"loss": loss} for loss in (9.0, *[1.0] * 10, 3.5, 1.0)]
    assert [i for i, found in enumerate(titles(lines)) if found] == [11]
    assert not any(titles(lines, loss_spike=4.0))
    assert not any(titles([{"loss": None}] * 20 + [{"loss": 9.0}]))  # nothing to compare with


def test_waiting_for_data_counts_when_it_lasts():
    waits = [0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9]
    found = titles([{"data_wait": wait} for wait in waits])
    assert [i for i, line in enumerate(found) if line] == [5]
    assert not any(titles([{"data_wait": wait} for wait in waits], data_wait=0.0))


def test_a_step_far_slower_than_usual_is_a_stall():
    found = titles([{"step_time": seconds} for seconds in (*[1.0] * 8, 6.0, 1.0)])
    assert found[8] == ["stall"]
    assert sum(map(len, found)) == 1


def test_an_alert_says_the_numbers():
    alerts = Alerts(AlertConfig())
    alerts.check({"feature_std": 2.0})
    assert alerts.check({"feature_std": 0.1}) == [Alert("collapse", "feature_std is 0.1, below 0.25 of its largest, 2")]


@pytest.mark.parametrize("word", ["collapse=1", "data_wait=-0.1", "loss_spike=0.5", "stall=1", "least_rank=-1"])
def test_a_threshold_that_cannot_be_is_refused(word):
    with pytest.raises(UserError, match=rf"observe\.alerts\.{word.partition('=')[0]}"):
        load_config("mae", ["data.corpus=C", "run.dir=R", f"observe.alerts.{word}"])
