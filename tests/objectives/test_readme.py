import shlex
from pathlib import Path

import mri_fm.objectives
import train
from mri_fm.config import load_config
from mri_fm.objectives import OBJECTIVES

TEXT = (Path(mri_fm.objectives.__file__).parent / "README.md").read_text()


def test_every_objective_has_its_command_and_every_command_is_understood():
    commands = [shlex.split(line) for line in TEXT.splitlines() if line.startswith("    deepspeed")]
    options = [train.parse(words[words.index("train.py") + 1 :]) for words in commands]
    assert {option.objective for option in options} == set(OBJECTIVES)
    for option in options:
        assert load_config(option.objective, option.words).objective.name == option.objective
