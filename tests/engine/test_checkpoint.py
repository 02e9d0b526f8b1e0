"""Which checkpoints are found, refused and kept; those of real engines are in test_saving.py and test_training.py."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from mri_fm.engine.checkpoint import Checkpointer, find_checkpoint
from mri_fm.engine.environment import Environment
from mri_fm.engine.publication import (
    CHECKSUM_FILE,
    LATEST_FILE,
    META_FILE,
    PARTIAL,
    Retention,
    complete_steps,
    step_name,
    verify_checkpoint,
)
from mri_fm.engine.stored import rank_file
from mri_fm.engine.writer import Order, carry_out
from mri_fm.errors import UserError
from mri_fm.run_config import CheckpointConfig
from tests.checkpoints import write_checkpoint

MAIN = Environment(rank=0, world=1, local_rank=0, local_world=1)
IDENTITY = {"values": {"model.depth": 2, "data.corpus": "c"}, "at_default": []}


@pytest.fixture(autouse=True, scope="module")
def group_of_one():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def write(run_dir, step, retention=Retention(keep_last=2)):  # noqa: B008  immutable
    return write_checkpoint(run_dir, step, {"w": torch.full((64,), float(step))}, IDENTITY, retention)


@pytest.fixture
def checkpointer(tmp_path):
    return Checkpointer(tmp_path, CheckpointConfig(), environment=MAIN, identity=IDENTITY)


def test_the_newest_are_kept_and_latest_names_the_newest(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert complete_steps(tmp_path / "checkpoints") == [2, 3]
    assert find_checkpoint(tmp_path).name == step_name(3)


def test_milestones_are_kept_beside_the_newest(tmp_path):
    for step in range(2, 13, 2):
        write(tmp_path, step, Retention(keep_last=1, keep_every=4))
    assert complete_steps(tmp_path / "checkpoints") == [4, 8, 12]


def test_milestones_must_be_steps_that_are_written():
    assert CheckpointConfig(every=5, keep_every=10).keep_every == 10
    for keep_every in (-5, 7):
        with pytest.raises(UserError, match=r"multiple of checkpoint\.every=5"):
            CheckpointConfig(every=5, keep_every=keep_every)


def test_a_step_is_found_or_the_kept_ones_are_named(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert find_checkpoint(tmp_path, 2).name == step_name(2)
    with pytest.raises(UserError, match="no checkpoint of step 1, but of 2, 3;"):
        find_checkpoint(tmp_path, 1)


@pytest.mark.parametrize("damage", ["cut", "altered", "removed", "unlisted", "record cut", "meta altered"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(checkpointer, tmp_path, damage, capsys):
    for step in (1, 2):
        write(tmp_path, step)
    file = tmp_path / "checkpoints" / step_name(2) / rank_file(0)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif damage == "removed":
        file.unlink()
    elif damage == "unlisted":
        (file.parent / CHECKSUM_FILE).unlink()
    elif damage == "record cut":
        (file.parent / CHECKSUM_FILE).write_text("{")
    else:
        (file.parent / META_FILE).write_text((file.parent / META_FILE).read_text().replace('"skips": 0', '"skips": 1'))
    assert checkpointer.find() == checkpointer.folder / step_name(1)
    assert step_name(2) in capsys.readouterr().out
    with pytest.raises(UserError, match=step_name(2)):
        find_checkpoint(tmp_path)


def test_what_lies_beyond_the_newest_is_removed_and_not_kept_in_its_place(tmp_path):
    for step in (1, 3):
        write(tmp_path, step)
    (tmp_path / "checkpoints" / step_name(3) / rank_file(0)).write_bytes(b"")
    write(tmp_path, 2, Retention(keep_last=1))
    assert complete_steps(tmp_path / "checkpoints") == [2]
    assert find_checkpoint(tmp_path).name == step_name(2)


def test_a_partial_checkpoint_is_never_taken(checkpointer):
    (checkpointer.folder / f"{step_name(5)}.0123{PARTIAL}").mkdir(parents=True)
    assert checkpointer.find() is None


def test_only_damaged_checkpoints_stop_the_run(checkpointer, tmp_path):
    (write(tmp_path, 1) / rank_file(0)).write_bytes(b"")
    with pytest.raises(UserError, match="is whole"):
        checkpointer.find()


def test_a_checkpoint_of_another_run_is_refused_by_key(tmp_path):
    write(tmp_path, 1)
    identity = {"values": IDENTITY["values"] | {"model.depth": 3}, "at_default": []}
    other = Checkpointer(tmp_path, CheckpointConfig(), environment=MAIN, identity=identity)
    with pytest.raises(UserError, match=r"model\.depth differ"):
        other.find()


def test_verify_accepts_what_publish_wrote(tmp_path):
    assert verify_checkpoint(write(tmp_path, 1)) is None


def test_no_checkpoint_says_how_one_comes_about(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint\.every"):
        find_checkpoint(tmp_path)


def record_durability(monkeypatch) -> list[tuple[str, str, int]]:
    """What is synced, with its size then, and what is renamed, with its new name; both really happen."""
    events: list[tuple[str, str, int]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(("synced", path.name, path.stat().st_size))

    def renamed(move, source, target) -> None:
        move(source, target)
        events.append(("named", Path(target).name, 0))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", partial(renamed, rename))
    monkeypatch.setattr(os, "replace", partial(renamed, replace))
    return events


def test_everything_is_on_the_disk_before_latest_says_so(tmp_path, monkeypatch):
    """What the writer process does, in this one: each file whole, the checksums, the folder's name, and only then `latest`."""
    folder = tmp_path / f"{step_name(3)}{PARTIAL}"
    folder.mkdir()
    (folder / META_FILE).write_text("{}")
    state = os.memfd_create("state")
    os.write(state, bytes(range(100)))
    events = record_durability(monkeypatch)
    carry_out(Order(state, 100, str(folder), rank_file(0), step=3, world=1, publishes=True, keep_last=2, keep_every=0))
    assert verify_checkpoint(tmp_path / step_name(3)) is None
    named = events.index(("named", step_name(3), 0))
    for file in (tmp_path / step_name(3)).iterdir():
        while_written = f".{file.name}.tmp" if file.name == CHECKSUM_FILE else file.name
        assert ("synced", while_written, file.stat().st_size) in events[:named]
    parent = tmp_path.name
    assert [name for _, name, _ in events[named + 1 :]] == [parent, f".{LATEST_FILE}.tmp", LATEST_FILE, parent]
