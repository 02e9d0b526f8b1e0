"""`python -m mri_fm.export`, on a run folder as training leaves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import xxhash
import yaml
from safetensors.torch import load_file

from mri_fm.engine.initial import REPORT_FILE
from mri_fm.engine.weights import load_objective
from mri_fm.errors import UserError
from mri_fm.export.__main__ import main
from mri_fm.export.folder import CARD_FILE
from mri_fm.export.run import Request, export_run
from tests.export.conftest import STEPS, configure, write_run


def test_the_folder_has_the_layout_of_the_hub(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", "curves.png"}
    config = json.loads((exported / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["dtype"]) == ("mri_fm", 24, "float32")
    assert config["origin"]["step"] == STEPS
    assert json.loads((exported / "preprocessor_config.json").read_text())["input"]["size"] == [16, 32, 32]


def test_nothing_says_where_run_and_corpus_lie(exported: Path, run: Path, corpus: Path) -> None:
    for path in exported.glob("*.[jm]*"):
        content = path.read_bytes()
        assert str(run.parent).encode() not in content
        assert str(corpus.parent).encode() not in content


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_weights_are_those_of_the_checkpoint(name: str, run: Path, tmp_path: Path) -> None:
    weights = load_file(export_run(Request(run, tmp_path / "out", encoder=name)) / "model.safetensors")
    expected = getattr(load_objective(run).objective, name).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)


def test_the_card_says_what_a_stranger_needs(exported: Path, corpus: Path) -> None:
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "other"
    assert front["library_name"] == "mri-fm"
    for part in ("## Data", "| small | 8 | 8 |", "T1 4, T2 4", "mask_ratio 0.75", "curves.png", "## Input", "## Intended use",
                 "## Limits", "## Licence", "Not a medical device", "size 16×32×32"):  # fmt: skip
        assert part in card
    info = json.loads((corpus / "corpus.json").read_text())
    assert info["checksums"]["manifest.parquet"] in card
    assert info["spec_hash"] in card


def test_the_card_names_the_weights_that_the_run_started_from(corpus: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", configure(tmp_path / "run", corpus))
    (run / REPORT_FILE).write_text(json.dumps({"file": "vit.safetensors", "sha256": "ab" * 32}))
    card = (export_run(Request(run, tmp_path / "out")) / CARD_FILE).read_text()
    assert f"`vit.safetensors` (SHA-256 {'ab' * 32}), whose licence" in card


def test_the_command_replaces_an_earlier_export_and_states_the_licence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for licence in ("mit", "cc-by-4.0"):
        main(["--run", str(run), "--out", str(tmp_path / "out"), "--licence", licence])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out")] * 2
    assert "license: cc-by-4.0" in (tmp_path / "out/README.md").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_corpus_out_of_reach_is_named_and_the_export_goes_on(corpus: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(corpus, tmp_path / "corpus")
    run = write_run(tmp_path / "run", configure(tmp_path / "run", moved))
    moved.rename(tmp_path / "elsewhere")
    said: list[str] = []
    card = (export_run(Request(run, tmp_path / "out"), said.append) / "README.md").read_text()
    assert "out of reach" in card
    assert "--corpus says where" in said[0]
    card = (export_run(Request(run, tmp_path / "out", corpus=str(tmp_path / "elsewhere"))) / "README.md").read_text()
    assert "| small | 8 | 8 |" in card


def refused(request: Request, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export_run(request)
    assert "\n" not in str(caught.value)
    assert not request.out.exists() or request.out.is_file() or not (request.out / "model.safetensors").exists()


def test_an_unfinished_run_is_named_and_exported_only_when_its_step_is(corpus: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", configure(tmp_path / "run", corpus), step=1)
    refused(Request(run, tmp_path / "out"), f"step 1 of {STEPS}: it is unfinished; .*--step 1")
    assert "step 1 of 3" in (export_run(Request(run, tmp_path / "out", step=1)) / "README.md").read_text()


def test_a_foreign_checkpoint_of_the_same_shape_is_named(corpus: Path, run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "run", configure(tmp_path / "run", corpus, "seed=7"))
    shutil.copyfile(run / "config.yaml", other / "config.yaml")
    refused(Request(other, tmp_path / "out"), "is of another run .* seed differ")


def test_a_cut_or_altered_checkpoint_is_named_before_it_is_loaded(run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "run")
    (weights,) = damaged.glob("checkpoints/step-*/rank-*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    refused(Request(damaged, tmp_path / "out"), "is damaged: rank-00000.safetensors was cut or altered")
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(Request(damaged, tmp_path / "out"), "is damaged: rank-00000.safetensors was cut or altered")


def test_other_mistakes_end_in_one_line(run: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("precious")
    refused(Request(tmp_path / "nowhere", tmp_path / "out"), "give the folder of a run")
    refused(Request(run, tmp_path / "full"), "holds files that are no export")
    refused(Request(run, Path(__file__)), "is a file")
    refused(Request(run, tmp_path / "out", step=2), "no checkpoint of step 2, but of 3")
    other = shutil.copytree(corpus, tmp_path / "other")
    info = json.loads((other / "corpus.json").read_text())
    pq.write_table(pq.read_table(corpus / "manifest.parquet").slice(1), other / "manifest.parquet")
    info["checksums"]["manifest.parquet"] = xxhash.xxh3_64_hexdigest((other / "manifest.parquet").read_bytes())
    (other / "corpus.json").write_text(json.dumps(info))
    refused(Request(run, tmp_path / "out", corpus=str(other)), "is not the corpus that the run was trained on")
    assert (tmp_path / "full/thesis.txt").read_text() == "precious"
