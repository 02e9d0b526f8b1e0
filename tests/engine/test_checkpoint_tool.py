import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mri_fm.engine.checkpoint_tool import main
from mri_fm.engine.publication import META_FILE
from mri_fm.engine.stored import rank_file
from mri_fm.errors import UserError
from tests.checkpoints import write_checkpoint

WEIGHTS = {
    "student.w": torch.arange(6, dtype=torch.float32).view(2, 3),
    "teacher.w": torch.ones(2, 3),
    "student.half": torch.ones(3, dtype=torch.bfloat16),
    "student.count": torch.tensor([3]),
}


@pytest.fixture
def run_dir(tmp_path):
    for step in (1, 2):
        write_checkpoint(tmp_path, step, WEIGHTS)
    return tmp_path


def test_inspect_says_what_each_checkpoint_is_of(run_dir, capsys):
    assert main(["inspect", str(run_dir)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step-00000001: step 1, position 1, 16 weights,")
    assert second.startswith("step-00000002 (latest): step 2,")


def test_inspect_names_what_is_missing(run_dir, capsys):
    (run_dir / "checkpoints/step-00000001" / META_FILE).unlink()
    assert main(["inspect", str(run_dir)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "step-00000001: meta.json is missing"


def test_verify_tells_the_damaged_from_the_whole(run_dir, capsys):
    assert main(["verify", str(run_dir)]) == 0
    damaged = run_dir / "checkpoints/step-00000001" / rank_file(0)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["verify", str(run_dir)]) == 1
    assert main(["verify", str(damaged.parent)]) == 1
    assert main(["verify", str(run_dir / "checkpoints/step-00000002")]) == 0
    assert "step-00000001: rank-00000.safetensors was cut or altered" in capsys.readouterr().out


def test_consolidate_writes_whole_fp32_weights(run_dir):
    out = run_dir / "weights.safetensors"
    assert main(["consolidate", str(run_dir), "--out", str(out)]) == 0
    file = load_file(out)
    assert set(file) == set(WEIGHTS)
    assert file["student.half"].dtype == torch.float32
    assert all(torch.equal(file[name].double(), tensor.double()) for name, tensor in WEIGHTS.items())


def test_consolidate_takes_one_part(run_dir):
    out = run_dir / "student.safetensors"
    assert main(["consolidate", str(run_dir), "--out", str(out), "--part", "student"]) == 0
    assert set(load_file(out)) == {"w", "half", "count"}
    with pytest.raises(UserError, match="parts are student, teacher"):
        main(["consolidate", str(run_dir), "--out", str(out), "--part", "encoder"])


def test_consolidate_refuses_a_damaged_checkpoint(run_dir):
    (run_dir / "checkpoints/step-00000002" / rank_file(0)).write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000002 is damaged: rank-00000\.safetensors"):
        main(["consolidate", str(run_dir), "--out", str(run_dir / "out")])


def test_the_command_ends_in_one_line_where_there_is_nothing(tmp_path):
    command = [sys.executable, "-m", "mri_fm.engine.checkpoint", "inspect", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: no checkpoint at")
    assert len(ended.stderr.splitlines()) == 1
