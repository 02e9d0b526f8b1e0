import logging

import pytest

from mri_fm.data.skips import Skip, SkipCount, listed
from mri_fm.errors import UserError


def skip(position: int, key: str = "vol003") -> Skip:
    return Skip(position, key, "train-000001.tar", "the payload's checksum differs")


def test_skips_are_logged_by_name_in_position_order_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    counted = SkipCount(3, "corpus")
    counted.add([skip(9, "b"), skip(4, "a"), skip(9, "b")])  # two views of position 9
    counted.add([skip(12, "a")])
    assert counted.total == 3
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "position 4: skipped a in train-000001.tar",
        "position 9: skipped b in train-000001.tar",
        "position 12: skipped a in train-000001.tar",
    ]


def test_over_budget_everything_seen_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    counted = SkipCount(2, "corpus")
    counted.add([skip(1, "a"), skip(2, "b")])
    with pytest.raises(UserError, match=r"3 bad samples exceed data.skip_budget=2: a in .*, b in .* \(the .*\); repair corpus"):
        counted.add([skip(3, "a")])


def test_a_restored_count_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    counted = SkipCount(5, "corpus", quiet=True)
    counted.total = 5
    with pytest.raises(UserError, match=r"6 bad samples exceed data.skip_budget=5: a in"):
        counted.add([skip(1, "a")])
    assert not caplog.records


def test_a_long_list_is_cut() -> None:
    assert listed([skip(n, f"v{n}") for n in range(7)]).endswith("and 2 more")
    assert listed([]) == ""
