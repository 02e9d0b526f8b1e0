import json

import pytest

from mri_fm.config import load_config
from mri_fm.engine import checkpoint as module
from mri_fm.engine.checkpoint import Checkpointer, find_checkpoint, identity, step_name, verify_checkpoint
from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError

MAIN = Environment(rank=0, world=1, local_rank=0, local_world=1)


def write_checkpoint(checkpointer: Checkpointer, step: int) -> None:
    """What `save` leaves, without an engine: some files, published the same way."""
    partial = checkpointer.folder / f"{step_name(step)}.partial"
    partial.mkdir(parents=True)
    (partial / "weights.pt").write_bytes(bytes(range(256)) * step)
    (partial / module.META_FILE).write_text(json.dumps({"step": step, "world": 1, "identity": checkpointer.identity}))
    checkpointer._publish(partial, step)


@pytest.fixture
def checkpointer(tmp_path):
    return Checkpointer(tmp_path, keep_last=2, environment=MAIN, identity={"model": "m", "data.corpus": "c"})


def test_the_newest_are_kept_and_latest_names_the_newest(checkpointer, tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(checkpointer, step)
    assert sorted(p.name for p in checkpointer.folder.glob("step-*")) == [step_name(2), step_name(3)]
    assert find_checkpoint(tmp_path).name == step_name(3)


def test_a_step_is_found_or_the_kept_ones_are_named(checkpointer, tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(checkpointer, step)
    assert find_checkpoint(tmp_path, 2).name == step_name(2)
    with pytest.raises(UserError, match="no checkpoint of step 1, but of 2, 3;"):
        find_checkpoint(tmp_path, 1)


@pytest.mark.parametrize("damage", ["cut", "altered", "removed", "unlisted", "record cut"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(checkpointer, tmp_path, damage, capsys):
    for step in (1, 2):
        write_checkpoint(checkpointer, step)
    file = checkpointer.folder / step_name(2) / "weights.pt"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif damage == "removed":
        file.unlink()
    elif damage == "unlisted":
        (file.parent / module.CHECKSUM_FILE).unlink()
    else:
        (file.parent / module.CHECKSUM_FILE).write_text("{")
    assert checkpointer._find_first_whole() == step_name(1)
    assert step_name(2) in capsys.readouterr().out
    with pytest.raises(UserError, match=step_name(2)):
        find_checkpoint(tmp_path)


def test_what_lies_beyond_the_newest_is_removed_and_not_kept_in_its_place(checkpointer, tmp_path):
    for step in (1, 3):
        write_checkpoint(checkpointer, step)
    (checkpointer.folder / step_name(3) / "weights.pt").write_bytes(b"")
    checkpointer.keep_last = 1
    write_checkpoint(checkpointer, 2)
    assert [p.name for p in checkpointer.folder.glob("step-*")] == [step_name(2)]
    assert find_checkpoint(tmp_path).name == step_name(2)


def test_a_partial_checkpoint_is_never_taken(checkpointer):
    (checkpointer.folder / f"{step_name(5)}.partial").mkdir(parents=True)
    assert checkpointer._find_first_whole() is None


def test_only_damaged_checkpoints_stop_the_run(checkpointer):
    write_checkpoint(checkpointer, 1)
    (checkpointer.folder / step_name(1) / "weights.pt").write_bytes(b"")
    with pytest.raises(UserError, match="is whole"):
        checkpointer._find_first_whole()


def test_a_checkpoint_of_another_run_is_refused_by_key(checkpointer, tmp_path):
    write_checkpoint(checkpointer, 1)
    other = Checkpointer(tmp_path, keep_last=2, environment=MAIN, identity={"model": "other", "data.corpus": "c"})
    with pytest.raises(UserError, match=r"model differ"):
        other._find_first_whole()


def test_verify_accepts_what_publish_wrote(checkpointer):
    write_checkpoint(checkpointer, 1)
    assert verify_checkpoint(checkpointer.folder / step_name(1)) is None


def test_no_checkpoint_says_how_one_comes_about(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint\.every"):
        find_checkpoint(tmp_path)


def test_identity_sees_the_model_and_not_the_length_of_the_run():
    def of(*words: str) -> dict[str, str]:
        return identity(load_config("mae", ["data.corpus=C", "run.dir=R", *words]), "hash")

    assert of("train.steps=5") == of("train.steps=6")
    assert {key for key in of() if of()[key] != of("model.depth=3", "seed=9")[key]} == {"model", "seed"}
    assert {key for key in of() if of()[key] != of("data.mixture.a=1")[key]} == {"data.mixture"}


def test_everything_is_on_the_disk_before_latest_says_so(checkpointer, monkeypatch):
    """The order of what becomes durable: each file, the checksums, the folder's name, and only then `latest`."""
    synced = []
    sync = module._sync
    monkeypatch.setattr(module, "_sync", lambda path: (synced.append(path.name), sync(path)))
    write_checkpoint(checkpointer, 1)
    named = len(synced) - 1 - synced[::-1].index(".latest.tmp")
    assert {"weights.pt", module.META_FILE, f".{module.CHECKSUM_FILE}.tmp"} <= set(synced[:named])
    assert synced[named - 1] == checkpointer.folder.name
    assert synced[named + 1 :] == [checkpointer.folder.name]
