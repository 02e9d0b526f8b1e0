"""Every command of the README is run: by the test that is named here, or by `make demo`."""

import re
from pathlib import Path

import pytest

from launch import demo

ROOT = Path(__file__).parents[1]
COVERED = {
    "make demo": "Makefile",
    "make test": ".ci/run",
    "source .venv/bin/activate": "Makefile",
    "python -m preprocessing.build_shards": "launch/demo.py",
    "python -m preprocessing.check": "tests/preprocessing/test_check.py",
    "python -m mri_fm.data.inspect": "tests/data/test_inspect.py",
    "python -m mri_fm.data.preview": "tests/data/test_preview.py",
    "deepspeed --num_gpus 2 train.py": "launch/demo.py",
    "deepspeed --hostfile launch/hostfile.example --num_nodes 8 train.py": "tests/end_to_end/test_train.py",
    "python -m mri_fm.evaluate": "launch/demo.py",
    "python -m mri_fm.observe.report": "tests/observe/test_report.py",
    "python -m mri_fm.export": "tests/export/test_run.py",
    "mri-fm embed": "tests/export/test_table.py",
}
"""Start of the command and the file that runs it."""


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line.split("#")[0]).strip() for line in lines if line.strip()]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_covered(command):
    assert any(command.startswith(start) for start in COVERED), f"say in COVERED what runs `{command}`"


@pytest.mark.parametrize("start", COVERED)
def test_nothing_is_listed_that_the_readme_lacks(start):
    assert any(command.startswith(start) for command in commands())
    assert (ROOT / COVERED[start]).is_file()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_the_example_hostfile_has_eight_nodes_and_the_documents_exist():
    assert len((ROOT / "launch/hostfile.example").read_text().splitlines()) == 8
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).is_file(), target


def test_the_demo_trains_as_the_readme_says():
    words = demo.train_command("jepa_vcr", Path("RUN"))
    assert Path(words[0]).name == "deepspeed"
    assert words[1:3] == ["--num_gpus", "2"]
    assert words[5:8] == ["train.py", "--objective", "jepa_vcr"]
