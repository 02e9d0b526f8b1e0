"""The command, in process, on a small corpus with untrained weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.evaluate.__main__ import main
from mri_fm.evaluate.evaluation import Request, choose_encoder, evaluate, untrained
from tests.s3 import S3Server

INTERVALS = ("interval", "random_init_interval", "gain_interval")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, jepa_run: Path, labelled_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("probe") / "new" / "folder"
    words = ["--run", jepa_run, "--corpus", labelled_corpus, "--label", "atrophy", "--out", out, "--unit", "rendering"]
    main([*map(str, words), "--folds", "3", "--batch-size", "5"])
    return out


def test_result_holds_the_figures_and_where_they_come_from(evaluated: Path) -> None:
    result = json.loads((evaluated / "result.json").read_text())
    assert result["caption"] == "rendered, 3 base anatomies, no claim about people"
    assert result["classes"] == ["0", "1"]
    assert result["contrasts"] == ["FLAIR", "T1", "T2"]
    assert (result["n_volumes"], result["n_units"], result["n_missing_label"]) == (24, 12, 2)
    assert (result["encoder"], result["objective"], result["step"]) == ("teacher", "jepa", 0)
    assert result["n_seen_in_pretraining"] == 18
    assert result["auroc"] == result["probes"]["linear"]["auroc"]
    for probe in result["probes"].values():
        for name in INTERVALS:
            assert probe[name][0] <= probe[name][1]
    assert result["raw_voxel"]["interval"][0] <= result["raw_voxel_auroc"] <= result["raw_voxel"]["interval"][1]


def test_a_large_lesion_is_found_and_an_untrained_run_gains_nothing_over_its_own_start(evaluated: Path) -> None:
    result = json.loads((evaluated / "result.json").read_text())
    assert result["raw_voxel_auroc"] > 0.9
    assert result["auroc"] > 0.9
    assert result["probes"]["linear"]["gain_over_random_init"] == pytest.approx(0.0, abs=1e-9)
    assert result["probes"]["attentive"]["gain_interval"] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_report_is_one_page_that_needs_nothing_else(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert "rendered, 3 base anatomies, no claim about people" in page
    assert page.count("data:image/png;base64,") == 3 + 12
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)


def test_the_table_is_printed(
    jepa_run: Path, labelled_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", jepa_run, "--corpus", labelled_corpus, "--label", "contrast", "--out", tmp_path, "--unit", "key"]
    main([*map(str, words), "--folds", "2", "--encoder", "student", "--contrasts", "T1", "FLAIR", "--crop", "whole"])
    printed = capsys.readouterr().out
    assert "contrast: FLAIR / T1, 17 volumes, contrasts FLAIR, T1" in printed
    assert "17 volumes (8 × FLAIR, 9 × T1); contrasts FLAIR, T1;" in (tmp_path / "report.html").read_text()
    assert re.search(r"linear probe, trained encoder +0\.\d{3} +\[0\.\d{3}, [01]\.\d{3}\]", printed)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["encoder"], result["contrasts"], result["n_volumes"]) == ("student", ["FLAIR", "T1"], 17)
    assert result["input"] == {"plane": "spacing", "crop": "whole"}


@pytest.mark.slow
def test_a_corpus_on_s3_gives_the_same_figures(evaluated: Path, jepa_run: Path, labelled_corpus: Path, tmp_path: Path) -> None:
    with S3Server() as server:
        address = server.upload(labelled_corpus)
        words = ["--run", jepa_run, "--corpus", address, "--label", "atrophy", "--out", tmp_path, "--unit", "rendering"]
        main([*map(str, words), "--folds", "3", "--batch-size", "5"])
    here, there = (json.loads((folder / "result.json").read_text()) for folder in (evaluated, tmp_path))
    assert here.pop("n_seen_in_pretraining") == 18
    assert there.pop("n_seen_in_pretraining") is None  # another place
    assert here == there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": Path("nowhere")}, "--run nowhere: no such folder"),
        ({"corpus": "nowhere"}, "nowhere/corpus.json is missing"),
        ({"out": Path(__file__)}, "test_command.py is a file"),
        ({"step": 7}, "no checkpoint of step 7, but of 0"),
        ({"label": "atropy"}, "did you mean 'atrophy'"),
        ({"label": "site"}, "all 24 labelled volumes are 'one'"),
        ({"label": "age"}, "are no classes"),
        ({"unit": "subject", "folds": 5}, "3 subject units"),
        ({"reader": "archive"}, "no readable sample to serve: v000 .*what it is stored in cannot be opened or read"),
        ({"contrasts": ("T3",)}, "--contrasts T3: .*: FLAIR, T1, T2$"),
    ],
)
def test_bad_requests_end_in_one_line(
    change: dict[str, object], message: str, jepa_run: Path, labelled_corpus: Path, tmp_path: Path
) -> None:
    fields = {
        "run": jepa_run,
        "corpus": str(labelled_corpus),
        "label": "atrophy",
        "out": tmp_path,
        "unit": "rendering",
        "folds": 3,
    }
    with pytest.raises(UserError, match=message) as caught:
        evaluate(Request(**(fields | change)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_gives_no_numbers_is_refused(diverged_run: Path, labelled_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"embedding of volume v\d+ is not finite"):
        evaluate(Request(diverged_run, str(labelled_corpus), "atrophy", tmp_path, unit="rendering", folds=3))


@pytest.mark.parametrize("words", [["--folds", "1"], ["--batch-size", "0"]])
def test_numbers_that_cannot_be_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match=words[0]):
        main(["--run", "r", "--corpus", "c", "--label", "l", "--out", "o", *words])


def test_a_teacher_is_not_invented() -> None:
    words = ["model.width=24", "model.depth=1", "model.heads=2", "data.corpus=c", "run.dir=r"]
    mae = untrained(load_config("mae", words))
    assert choose_encoder(mae, None) == ("student", mae.student)
    with pytest.raises(UserError, match="no teacher"):
        choose_encoder(mae, "teacher")
    jepa = untrained(load_config("jepa", words))
    assert choose_encoder(jepa, None)[0] == "teacher"
    assert choose_encoder(jepa, "student")[1] is jepa.student
