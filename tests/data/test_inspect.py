import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from mri_fm.config import load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.inspect import inspect_lines, main
from mri_fm.data.loader import TrainLoader
from mri_fm.errors import UserError, run_main

WORDS = ["data.size=[8,16,16]", "model.patch=[8,8,8]"]


def lines(capsys: pytest.CaptureFixture, root: Path, *arguments: str) -> list[str]:
    main(["--corpus", str(root), "--seed", "5", *arguments, *WORDS])
    return capsys.readouterr().out.splitlines()


def test_lines_are_the_same_for_every_world_and_start(ellipsoids: Path, capsys: pytest.CaptureFixture) -> None:
    whole = lines(capsys, ellipsoids, "--steps", "4")
    assert [json.loads(line)["step"] for line in whole] == [0, 1, 2, 3]
    for world in ("2", "4", "8"):
        assert lines(capsys, ellipsoids, "--world", world, "--steps", "4") == whole
    for start in range(1, 4):
        assert lines(capsys, ellipsoids, "--world", "2", "--start", str(start), "--steps", "1") == whole[start : start + 1]
    assert lines(capsys, ellipsoids, "--steps", "4", "train.accumulation=2", "--world", "2") == whole


MIXED = ["data.mixture={T1: 3, T2: 1}", "data.mixture_by=[contrast]"]


GROWING = ["data.curriculum=[{until: 0.25, size: [8,8,16]}, {until: 0.5, size: [16,8,8]}]", "train.steps=4"]


VIEWS = ["data.views=2", "data.crop_foreground=0.95"]
SESSIONS = ["data.session_contrasts=2", "data.views=2", "data.temperature=2", *GROWING]
STREAMS = {"mixture": MIXED, "sessions": SESSIONS, "views": MIXED + GROWING + VIEWS}


@pytest.mark.parametrize("options", STREAMS.values(), ids=STREAMS.keys())
def test_lines_are_the_same_for_every_world_start_and_worker_count_of_any_stream(
    sessions: Path, capsys: pytest.CaptureFixture, options: list[str]
) -> None:
    options = [*options, "data.verify=size"]
    whole = lines(capsys, sessions, "--steps", "4", *options)
    assert whole != lines(capsys, sessions, "--steps", "4", "data.verify=size")
    for world in ("2", "4", "8"):
        assert lines(capsys, sessions, "--world", world, "--steps", "4", *options) == whole
    for start in range(1, 4):
        arguments = ["--world", "2", "--start", str(start), "--steps", "1", "train.accumulation=2"]
        assert lines(capsys, sessions, *arguments, *options) == whole[start : start + 1]
    assert lines(capsys, sessions, "--start", "2", "--steps", "2", "data.workers=2", "data.threads=2", *options) == whole[2:]


def test_after_its_stages_a_curriculum_is_the_stream_without_one(ellipsoids: Path, capsys: pytest.CaptureFixture) -> None:
    plain, grown = lines(capsys, ellipsoids, "--steps", "4"), lines(capsys, ellipsoids, "--steps", "4", *GROWING)
    assert [a == b for a, b in zip(plain, grown, strict=True)] == [False, False, True, True]
    assert [json.loads(a)["keys"] == json.loads(b)["keys"] for a, b in zip(plain, grown, strict=True)] == [True] * 4


def test_a_mixture_serves_its_shares(ellipsoids: Path, capsys: pytest.CaptureFixture) -> None:
    keys = [key for line in lines(capsys, ellipsoids, "--steps", "4", *MIXED) for key in json.loads(line)["keys"]]
    t1 = [key for key in keys if int(key[3:]) % 2 == 0]
    assert len(t1) == 24
    assert sorted(t1[:4]) == ["vol000", "vol002", "vol004", "vol006"]


def test_lines_are_what_training_sees(ellipsoids: Path) -> None:
    config = load_config("mae", [*WORDS, f"data.corpus={ellipsoids}", "run.dir=unset", "seed=5", "data.device=cpu"])
    (line,) = inspect_lines(config, world=1, start=3, steps=1)
    corpus = Corpus.open(ellipsoids)
    source = TrainLoader(
        corpus,
        corpus.select("train"),
        config.data,
        seed=5,
        global_batch=8,
        accumulation=1,
        rank=0,
        world=1,
        start_step=3,
        device=torch.device("cpu"),
    )
    batch = next(source)
    source.close()
    checksums = [zlib.crc32(x.numpy().tobytes()) for x in batch.x_BCZYX]
    assert json.loads(line) == {"step": 3, "keys": list(batch.keys), "checksums": checksums}


def test_the_real_command_prints_only_json(corpus: Path, capsys: pytest.CaptureFixture) -> None:
    command = [sys.executable, "-m", "mri_fm.data.inspect", "--corpus", str(corpus), "--seed", "5"]
    run = subprocess.run([*command, "--world", "4", "--start", "1", "--steps", "2"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    main(["--corpus", str(corpus), "--seed", "5", "--start", "1", "--steps", "2"])
    assert run.stdout == capsys.readouterr().out
    assert [len(json.loads(line)["keys"]) for line in run.stdout.splitlines()] == [8, 8]


def test_a_batch_that_does_not_divide_exits_with_2(ellipsoids: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_main(lambda: main(["--corpus", str(ellipsoids), "--world", "3"]))
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: train.global_batch=8 does not divide")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--world", "0"), ("--start", "-1"), ("--steps", "-1")])
def test_senseless_numbers_are_user_errors(ellipsoids: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=arguments[0]):
        lines(capsys, ellipsoids, *arguments)
