"""What docs/masks.md says is what the code does."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import train
from mri_fm.config import load_config
from mri_fm.masking import KINDS
from mri_fm.objectives import OBJECTIVES
from mri_fm.objectives.base import MaskedConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "masks.md").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_commands_are_understood_and_show_every_kind():
    options = [train.parse(words[words.index("train.py") + 1 :]) for words in commands()]
    configs = [load_config(option.objective, option.words).objective for option in options]
    assert {config.mask for config in configs} == set(KINDS)
    assert {config.mask_sets for config in configs if hasattr(config, "mask_sets")} == {1, 2}
    assert any(config.foreground for config in configs)


def test_every_option_is_described():
    elsewhere = {"name", "token_budget", "require_constant_batch"}
    options = {field.name for field in fields(MaskedConfig)} - elsewhere | {"mask_sets"}
    assert {name for name in options if name not in PAGE} == set()


def test_the_objectives_with_shared_masks_and_with_sets_are_those_named():
    (sharing,) = re.findall(r"default of ([^)]*)\)", PAGE)
    assert set(re.findall(r"`(\w+)`", sharing)) == {name for name, cls in OBJECTIVES.items() if cls.Config().shared_mask}
    (several,) = re.findall(r"`objective\.mask_sets=S` \(([^)]*)\)", PAGE)
    assert set(re.findall(r"`(\w+)`", several)) == {
        name for name, cls in OBJECTIVES.items() if hasattr(cls.Config(), "mask_sets")
    }


def test_what_it_refers_to_exists():
    for path in ("docs/images/masks.png", "docs/draw_masks.py", "benchmarks/results/masking.md", "mri_fm/masking.py"):
        assert (ROOT / path).is_file()
