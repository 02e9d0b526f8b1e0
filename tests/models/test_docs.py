"""What docs/models.md says is what the code does."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from mri_fm.config import load_config
from mri_fm.model_config import ModelConfig
from train import parse

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
SIZES = {"name", "width", "depth", "heads", "mlp_ratio", "patch", "predictor", "decoder"}


def test_the_command_selects_every_option():
    block = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S)[0]
    words = shlex.split(block.replace("\\\n", " "))
    assert words[:4] == ["deepspeed", "--num_gpus", "2", "train.py"]
    options = parse(words[4:])
    model, plain = load_config(options.objective, options.words).model, ModelConfig()
    same = {f.name for f in fields(ModelConfig) if getattr(model, f.name) == getattr(plain, f.name)}
    assert same - SIZES == {"rope_base", "moe_active", "moe_shared", "moe_width", "moe_every", "moe_bias_rate"}


def test_the_table_has_every_option_with_its_default():
    rows = dict(re.findall(r"^\| `model\.(\w+)` \| ([^,|]+)", PAGE, flags=re.M))
    assert set(rows) == {f.name for f in fields(ModelConfig)} - SIZES
    for name, default in rows.items():
        value = default.strip().strip("`").removesuffix(" (none)")
        assert (
            load_config("mae", ["run.dir=x", "data.corpus=y", f"model.{name}={value}"]).model
            == load_config("mae", ["run.dir=x", "data.corpus=y"]).model
        )


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "large", "huge", "giant", "gigantic"])
def test_the_sizes_are_those_of_the_presets(preset):
    row = re.search(rf"^\| `vit_{preset}` \| (\d+) \| (\d+) \| (\d+) \| ([\d/]+) \|", PAGE, flags=re.M)
    assert row is not None
    model = load_config("mae", ["run.dir=x", "data.corpus=y", f"model=vit_{preset}"]).model
    assert [int(row[i]) for i in (1, 2, 3)] == [model.width, model.depth, model.heads]
    numerator, _, denominator = row[4].partition("/")
    assert model.mlp_ratio == pytest.approx(int(numerator) / int(denominator or 1))
