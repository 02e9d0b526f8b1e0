"""Several tasks of one command: values, times, a table of the user's, one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mri_fm.errors import UserError
from mri_fm.evaluate.__main__ import main

FEW = ["--refits", "1", "--permutations", "2", "--probes", "linear"]


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Path]:
    """A classification by a finer rule than the label's, a regression of the age, and a survival out of a CSV."""
    lines = [f"v{i:03d},{100 + 37 * i % 200 - 60 * (i % 2)},{int(i % 5 > 0)}" for i in range(24)]
    (tmp_path / "visits.csv").write_text("key,days,died\n" + "\n".join(lines) + "\n")
    common = "group: rendering\nsplit: {folds: 3}\n"
    texts = {
        "lesion": common
        + "label: atrophy\nclasses: {none: [0], lesion: [1]}\ncontrasts: [T1, T2]\nmetric: balanced_accuracy\n",
        "years": common + "kind: regression\nlabel: age\nmetric: mae\n",
        "days": common + "kind: survival\nlabel: days\nevent: died\ntable: visits.csv\n",
    }
    files = {name: tmp_path / f"{name}.yaml" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    return files


def words(run: Path, corpus: Path, out: Path, *names: Path) -> list[str]:
    return ["--run", str(run), "--corpus", str(corpus), "--out", str(out), "--task", *map(str, names), *FEW]


def test_two_tasks_share_a_page_and_their_p_values_are_corrected(
    tasks: dict[str, Path], jepa_run: Path, labelled_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(jepa_run, labelled_corpus, tmp_path / "out", tasks["lesion"], tasks["years"]))
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    lesion, years = content["tasks"]["lesion"], content["tasks"]["years"]
    assert set(content["holm"]) == {"lesion", "years"}
    assert lesion["label_permutation"]["p_holm"] == pytest.approx(min(1.0, 2 * lesion["label_permutation"]["p"]))
    assert (lesion["metric"], years["metric"]) == ("balanced_accuracy", "mae")
    assert lesion["balanced_accuracy"] > 0.9
    assert lesion["n_volumes"] < years["n_volumes"] == 24
    assert set(years["methods"]["nuisance"]) == {"r2", "mae", "pearson"}
    assert years["covariates"]["sex"] == "no column 'sex'"
    assert years["confounders"]["not_done"]["unseen_sites"] == "column site holds one site"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<section>") == 2
    assert "corrected over the 2 tasks" in page
    printed = capsys.readouterr().out
    assert "years: no column 'sex'" in printed  # said before anything is embedded
    assert printed.index("years: no column 'sex'") < printed.index("fitting")


@pytest.mark.slow
def test_times_to_an_event_out_of_a_table(
    tasks: dict[str, Path], jepa_run: Path, labelled_corpus: Path, tmp_path: Path
) -> None:
    main(words(jepa_run, labelled_corpus, tmp_path / "out", tasks["days"]))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["metric"] == "c_index"
    assert 0 <= result["supervised"]["c_index"] <= 1
    assert result["learning_curve"] == []


@pytest.mark.slow
def test_tuned_encoders_stand_beside_frozen_ones(
    tasks: dict[str, Path], jepa_run: Path, labelled_corpus: Path, tmp_path: Path
) -> None:
    main([*words(jepa_run, labelled_corpus, tmp_path / "out", tasks["lesion"]), "--finetune", "partial:1"])
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {"finetuned_partial:1/trained", "finetuned_partial:1/random_init"} <= set(result["methods"])
    assert "gain_over_random_init" in result["probes"]["finetuned_partial:1"]


def test_a_size_that_the_encoder_never_saw_is_refused(
    tasks: dict[str, Path], jepa_run: Path, labelled_corpus: Path, tmp_path: Path
) -> None:
    asked = words(jepa_run, labelled_corpus, tmp_path / "out", tasks["lesion"])
    with pytest.raises(UserError, match="--size 64 64 64: the encoder never saw this input size, but 16 32 32; take one"):
        main([*asked, "--size", "64", "64", "64"])
