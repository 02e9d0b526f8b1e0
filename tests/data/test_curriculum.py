from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.config import Config, DataConfig, StageConfig, config_from_yaml, load_config, to_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.curriculum import Curriculum
from mri_fm.data.loader import TrainLoader
from mri_fm.data.stream import describe_stream
from mri_fm.errors import UserError

STAGES = "data.curriculum=[{until: 0.25, size: [8,8,8]}, {until: 0.5, size: [8,16,8]}]"


def config(*words: str) -> Config:
    return load_config("mae", ["data.corpus=C", "run.dir=R", "data.size=[16,16,16]", "model.patch=[4,4,4]", *words])


def test_stages_end_at_their_fraction_of_the_run() -> None:
    curriculum = Curriculum.of(config(STAGES).data, 8)
    assert [curriculum.size(step) for step in range(10)] == [(8, 8, 8)] * 2 + [(8, 16, 8)] * 2 + [(16, 16, 16)] * 6
    assert curriculum.describe() == "curriculum: inputs of 8x8x8 until step 2, 8x16x8 until step 4, then 16x16x16"


@given(st.integers(1, 10**6))
def test_sizes_never_go_back(steps: int) -> None:
    stages = [StageConfig(0.25, [8, 8, 8]), StageConfig(0.5, [8, 16, 8])]
    curriculum = Curriculum.of(DataConfig(corpus="C", size=[16, 16, 16], curriculum=stages), steps)
    volumes = [curriculum.sizes.index(curriculum.size(step)) for step in range(0, steps, max(1, steps // 97))]
    assert volumes == sorted(volumes)
    assert curriculum.size(steps) == (16, 16, 16)


def test_without_stages_the_size_is_fixed_and_the_length_of_the_run_is_not_needed() -> None:
    assert Curriculum.of(config().data, None).size(10**9) == (16, 16, 16)
    with pytest.raises(ValueError, match="its number of steps is needed"):
        Curriculum.of(config(STAGES).data, None)


def shapes(root: Path, **layout: int) -> list[tuple[int, ...]]:
    data = config(STAGES).data
    corpus = Corpus.open(root, "size")
    rest = {"seed": 1, "global_batch": 4, "accumulation": 2, "rank": 0, "world": 2, "steps": 8} | layout
    loader = TrainLoader(corpus, corpus.select("train"), data, device=torch.device("cpu"), **rest)
    batches = list(islice(loader, 12))
    loader.close()
    return [tuple(batch.x_BCZYX.shape) for batch in batches]


def test_all_micro_steps_and_ranks_of_a_step_have_its_size_and_a_resume_finds_it(ellipsoids: Path) -> None:
    expected = [(1, 1, 8, 8, 8)] * 4 + [(1, 1, 8, 16, 8)] * 4 + [(1, 1, 16, 16, 16)] * 4
    assert shapes(ellipsoids) == shapes(ellipsoids, rank=1) == expected
    assert shapes(ellipsoids, start_step=3)[:10] == expected[6:] + [(1, 1, 16, 16, 16)] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.curriculum=[{until: 0.5, size: [8,12,8]}]"], r"data\.curriculum\[0\]\.size: height 12 does not divide"),
        (["data.curriculum=[{until: 0.5, size: [8,8]}]"], r"data\.curriculum\[0\]\.size=\[8, 8\] must have 3 numbers"),
        (["data.curriculum=[{until: 0.5, size: [8,8,0]}]"], r"data\.curriculum\[0\]\.size: width 0 does not divide"),
        (["data.curriculum=[{until: 0.5, size: [8,8,8]}]"], r"data\.curriculum\[0\]\.size=\[8, 8, 8\] is a single patch"),
        (["data.curriculum=[{until: 1.0, size: [8,8,16]}]"], r"ends its stages at \[1\.0\]: these must ascend between 0 and 1"),
        (["data.curriculum=[{until: 0.0, size: [8,8,16]}]"], r"ends its stages at \[0\.0\]"),
        (["data.curriculum=[{until: .nan, size: [8,8,16]}]"], r"ends its stages at \[nan\]"),
        (["data.curriculum=[{until: .5, size: [8,8,16]}, {until: .2, size: [8,8,8]}]"], r"ends its stages at \[0\.5, 0\.2\]"),
        (["data.curriculum=[{until: 0.5}]"], r"data\.curriculum\[0\]\.size"),
        (["data.curriculum=[{til: 0.5}]"], "til"),
    ],
)
def test_stages_without_sense_are_user_errors(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config("model.patch=[8,8,8]", *words)
    assert "\n" not in str(error.value)


def test_a_curriculum_survives_config_yaml_and_is_announced(ellipsoids: Path, tmp_path: Path) -> None:
    resolved = config(STAGES, "train.steps=8", "train.global_batch=4")
    (tmp_path / "config.yaml").write_text(to_yaml(resolved))
    assert config_from_yaml(tmp_path / "config.yaml") == resolved
    (line,) = describe_stream(Corpus.open(ellipsoids, "size").select("train"), resolved, 1)
    assert line == "curriculum: inputs of 8x8x8 until step 2, 8x16x8 until step 4, then 16x16x16"
