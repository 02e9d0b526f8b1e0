"""The paper's table from replicas of the data sets' layouts; what is not there is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.evaluate.__main__ import main, parse
from mri_fm.evaluate.paper import OBJECTIVES, TASKS, paper_table, reproduce
from tests.evaluate.conftest import WORDS, write_run
from tests.replicas import build_replica

PAPER = ["--reproduce-paper", "--refits", "1", "--permutations", "2", "--probes", "linear"]


def test_the_table_has_every_task_and_names_what_is_missing() -> None:
    figure = {"value": 0.8123, "interval": [0.71, 0.9]}
    result = {"methods": {"attentive/trained": dict.fromkeys(("auroc", "accuracy", "f1"), figure)}}
    content = {"results": {"jepa": {"abide_autism": result}}, "missing": {"mae": "no run of this objective was given"}}
    lines = paper_table(content).splitlines()
    assert lines[0].split() == ["task", "metric", *OBJECTIVES]
    assert len(lines) == 1 + 3 * len(TASKS) + 1
    (abide,) = [line for line in lines if line.startswith("ABIDE")]
    assert abide.split("AUROC")[1].split() == ["—", "—", "0.812", "[0.710,", "0.900]", "—"]
    assert lines[-1] == "missing: mae: no run of this objective was given"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--reproduce-paper", "needs --data-root"),
        ("--reproduce-paper --data-root nowhere --label x", "--task NAME…, --label COLUMN or --reproduce-paper"),
        ("--label x", "give one --run and its --corpus"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(["--run", "r", "--out", "o", *words.split()])


def test_a_corpus_without_any_of_the_data_sets_and_two_runs_alike_are_refused(
    jepa_run: Path, labelled_corpus: Path, tmp_path: Path
) -> None:
    words = ["--run", str(jepa_run), "--out", str(tmp_path), "--corpus", str(labelled_corpus), "--data-root", str(tmp_path)]
    with pytest.raises(UserError, match="none of the paper's tasks can be done"):
        main([*words, *PAPER])
    request = parse([*words, *PAPER]).request
    with pytest.raises(UserError, match="two of these have the same objective"):
        reproduce(request, [jepa_run, jepa_run], tmp_path, say=print)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        main([*words[:4], "--data-root", "nowhere", *PAPER])


@pytest.mark.slow
def test_replicas_fill_the_table_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, people in {"adni": 18, "abide1": 10, "ucsf_pdgm": 8}.items():
        build_replica(name, tmp_path / "data" / name, people=people, clean=True)
    runs = []
    for objective in ("mae", "jepa"):
        folder = tmp_path / objective
        words = [*WORDS, "model.decoder.width=24", "model.decoder.depth=1", "model.decoder.heads=2"]
        runs.append(write_run(folder, load_config(objective, [*words, "data.corpus=elsewhere", f"run.dir={folder}"])))
    words = ["--run", *map(str, runs), "--data-root", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    main([*words, *PAPER])
    content = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert set(content["results"]) == {"mae", "jepa"}
    for results in content["results"].values():
        assert {"abide_autism", "ucsf_pdgm_grade", "adni_nc_vs_ad"} <= set(results)
        assert results["ucsf_pdgm_grade"]["unit"] == "subject"
        assert results["ucsf_pdgm_grade"]["n_volumes"] > results["ucsf_pdgm_grade"]["n_units"] == 8
    assert "the corpus has none of it" in content["missing"]["nacc_nc_vs_ad"]
    assert content["missing"]["jepa_vcr"] == "no run of this objective was given"
    printed = capsys.readouterr().out
    assert "missing: nacc_nc_vs_ad: " in printed
    assert (tmp_path / "out" / "mae" / "report.html").is_file()
