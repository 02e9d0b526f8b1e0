"""Embeddings are made once, by any number of ranks, found again, and refused where they were cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mri_fm.config import Config, config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.engine.environment import Environment, read_environment
from mri_fm.errors import UserError
from mri_fm.evaluate.cache import META, Embedded, Kept, embed_cached
from mri_fm.evaluate.evaluation import ALONE, untrained
from mri_fm.evaluate.volumes import Volumes
from mri_fm.models.vit import VisionTransformer
from tests.distributed import run_ranks


@dataclass(frozen=True)
class Setting:
    """A run's configuration, its encoder, and seven volumes."""

    config: Config
    corpus: Corpus
    encoder: VisionTransformer

    def embed(self, folder: Path, said: list[str], environment: Environment = ALONE, **change: Any) -> Embedded:
        given = {"encoders": {"trained": self.encoder}, "samples": self.corpus.samples[:7], "data": self.config.data} | change
        volumes = Volumes(self.corpus, given["samples"], given["data"], batch_size=2)
        kept = Kept(("pooled", "tokens"))
        return embed_cached(given["encoders"], volumes, kept, folder=folder, environment=environment, say=said.append)


@pytest.fixture
def setting(jepa_run: Path, labelled_corpus: Path) -> Setting:
    config = config_from_yaml(jepa_run / "config.yaml")
    return Setting(config, Corpus.open(labelled_corpus, "size"), untrained(config).encoder())


def test_a_second_call_is_a_hit_and_says_so(setting: Setting, tmp_path: Path) -> None:
    said: list[str] = []
    first = setting.embed(tmp_path, said)
    assert said == ["embedding 7 volumes: trained, input, 1 ranks"]
    said.clear()
    again = setting.embed(tmp_path, said, encoders={"other name": setting.encoder})
    assert said == [f"cache hit: other name, input of 7 volumes in {tmp_path}"]
    torch.testing.assert_close(again.encoders["other name"]["pooled"], first.encoders["trained"]["pooled"], rtol=0, atol=0)
    assert first.encoders["trained"]["tokens"].dtype == torch.float16
    assert {"voxels", "volumes", "slices", "moments", "spacing"} == set(first.inputs)


def test_other_weights_volumes_or_input_are_made_anew(setting: Setting, tmp_path: Path) -> None:
    setting.embed(tmp_path, [])
    data = setting.config.data
    other = untrained(replace(setting.config, seed=setting.config.seed + 1)).encoder()
    changes: list[tuple[dict[str, Any], int]] = [
        ({"encoders": {"trained": other}}, 1),
        ({"samples": setting.corpus.samples[1:8]}, 2),
        ({"data": replace(data, evaluation=replace(data.evaluation, crop="whole"))}, 2),
        ({"data": replace(data, threads=2)}, 0),
    ]
    for change, folders in changes:
        before = set(tmp_path.iterdir())
        setting.embed(tmp_path, [], **change)
        assert len(set(tmp_path.iterdir()) - before) == folders


@pytest.mark.parametrize("damage", ["cut", "flipped", "no meta"])
def test_a_cut_cache_is_refused(damage: str, setting: Setting, tmp_path: Path) -> None:
    setting.embed(tmp_path, [])
    file = next(tmp_path.glob("*/pooled.npy"))
    content = bytearray(file.read_bytes())
    if damage == "no meta":
        (file.parent / META).unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(bytes(content[:-4] if damage == "cut" else content))
    with pytest.raises(UserError, match=r"was cut or altered .*remove the folder, it is made again"):
        setting.embed(tmp_path, [])


def test_two_ranks_embed_every_volume_once_and_as_one_rank_does(setting: Setting, tmp_path: Path) -> None:
    def work(rank: int) -> int:
        environment = read_environment()
        torch.distributed.init_process_group("gloo")
        return len(setting.embed(tmp_path / "two", [], environment).encoders)

    assert run_ranks(work, 2) == [1, 0]  # rank 0 goes on with them
    alone, said = setting.embed(tmp_path / "one", []), list[str]()
    together = setting.embed(tmp_path / "two", said)
    assert said == [f"cache hit: trained, input of 7 volumes in {tmp_path / 'two'}"]
    for name, rows in (alone.encoders["trained"] | alone.inputs).items():
        np.testing.assert_array_equal(rows.numpy(), (together.encoders["trained"] | together.inputs)[name].numpy())
    assert not list((tmp_path / "two").glob("parts-*"))


def test_what_one_rank_meets_ends_all(setting: Setting, tmp_path: Path) -> None:
    class Broken(VisionTransformer):
        """Fails on one of the volumes, which rank 1 embeds."""

        def forward(self, x_BCZYX: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            tokens = super().forward(x_BCZYX, *args, **kwargs)
            return tokens / 0 if torch.distributed.get_rank() == 1 else tokens

    setting.encoder.__class__ = Broken

    def work(rank: int) -> str:
        environment = read_environment()
        torch.distributed.init_process_group("gloo")
        with pytest.raises(UserError) as caught:
            setting.embed(tmp_path, [], environment)
        return str(caught.value)

    errors = run_ranks(work, 2)
    assert errors[0] == errors[1]
    assert "the trained encoder's embedding of volume v001 is not finite" in errors[0]
