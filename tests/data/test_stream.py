from pathlib import Path

import pytest

from mri_fm.config import Config, load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.stream import describe_stream
from mri_fm.errors import UserError

WORDS = ["data.size=[8,16,16]", "run.dir=R", "train.global_batch=4"]


def lines(root: Path, *words: str, world: int = 1) -> list[str]:
    config: Config = load_config("mae", [*WORDS, f"data.corpus={root}", *words])
    return describe_stream(Corpus.open(root, "size").select("train"), config, world)


def test_the_plain_shuffle_needs_no_words(ellipsoids: Path) -> None:
    assert lines(ellipsoids, world=4) == []


def test_a_mixture_is_spelt_out(ellipsoids: Path) -> None:
    (line,) = lines(ellipsoids, "data.mixture={T1: 1}", "data.mixture_by=[contrast]")
    assert line == "mixture: T1 100.0% (4 units, once in 4 positions); left out: T2 (3 units)"


def test_steps_that_repeat_samples_are_announced(ellipsoids: Path) -> None:
    (line,) = lines(ellipsoids, "train.global_batch=8")
    assert line == "7 training volumes are fewer than train.global_batch=8: steps repeat some"


def test_sessions_and_views_are_spelt_out(sessions: Path) -> None:
    words = ["data.session_contrasts=3", "data.views=2"]
    assert lines(sessions, *words) == [
        "sessions: 4 of 7 volumes, 3 contrasts each, 41.7% of them repeated",
        "each of the 4 positions of a step holds 6 volumes: 24 in all",
    ]
    with pytest.raises(UserError, match="has 4 training sessions for 8 ranks"):
        lines(sessions, *words, "train.global_batch=8", world=8)


@pytest.mark.parametrize("word", ["data.size=[32,64,64]", "data.curriculum=[{until: 0.5, size: [32,64,64]}]"])
def test_inputs_far_larger_than_any_volume_are_refused(ellipsoids: Path, word: str) -> None:
    with pytest.raises(
        UserError, match=r"inputs of \[32, 64, 64\] have more than 8 times .* the largest, vol004, has 24x24x24"
    ):
        lines(ellipsoids, word)


def test_more_ranks_than_volumes_are_refused(ellipsoids: Path) -> None:
    with pytest.raises(UserError, match="has 7 training volumes for 8 ranks"):
        lines(ellipsoids, "train.global_batch=8", world=8)
