"""The gate of the claims and the command that runs everything: rules, records, resuming."""

from __future__ import annotations

import csv
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def figures(value: float, low: float, high: float) -> dict[str, object]:
    return {"value": value, "interval": [low, high]}


def test_an_encoder_passes_by_its_margin_and_its_interval_on_a_primary_task_alone():
    from claims.factorial import LABELS
    from claims.looks import READINGS, passed

    def look(**gains: dict[str, object]) -> dict[str, dict[str, object]]:
        nothing = figures(0.0, -0.1, 0.1)
        return {label: {f"{r}/gain": gains.get(f"{label}_{r}", nothing) for r in READINGS} for label in LABELS}

    assert passed(look()) == []
    assert passed(look(sharpness_linear=figures(0.08, 0.01, 0.2))) == ["sharpness"]
    assert passed(look(sharpness_linear=figures(0.079, 0.01, 0.2))) == []
    assert passed(look(sharpness_linear=figures(0.2, -0.01, 0.4))) == []
    assert passed(look(sharpness_regions=figures(0.3, 0.2, 0.4), atrophy_linear=figures(0.3, 0.2, 0.4))) == []
    assert passed(look(regional_regions=figures(0.1, 0.05, 0.2))) == ["regional"]


def test_every_look_adds_lines_to_the_record(tmp_path: Path):
    from claims.looks import append_looks

    for run in ("one", "two"):
        append_looks(tmp_path / "looks.csv", [[run, 10, "sharpness", "linear", 1, 0.7, 0.6, figures(0.1, 0.0, 0.2)]])
    with (tmp_path / "looks.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["run"] for row in rows] == ["one", "two"]
    assert rows[0]["gain"] == "0.1000"


def test_power_has_five_paired_seeds_of_four_arms_and_single_runs_of_the_exploratory_ones():
    from claims.gate_design import ATTEMPTS, POOLED, power_runs

    assert len(ATTEMPTS) >= 3
    runs = power_runs(1)
    assert len(runs) == 23
    assert len({run.name for run in runs}) == 23
    for name in ("mae", "mae_spectral", "jepa", "jepa_vcr"):
        assert [run.seed for run in runs if run.objective == name and run.arm == "power"] == [0, 1, 2, 3, 4]
    assert all((POOLED in run.words) == (run.objective in ("jepa_vcr", "jepa_sigreg")) for run in runs)


def test_every_run_is_one_that_train_py_accepts():
    from claims.gate_design import ATTEMPTS, bench_of, gate_runs, power_runs

    from mri_fm.config import load_config

    for number, attempt in enumerate(ATTEMPTS, start=1):
        bench = bench_of(Path("out"), attempt, attempt.steps)
        for run in (*gate_runs(number), *power_runs(number)):
            config = load_config(run.objective, bench.command(run)[4:])
            assert config.train.steps == attempt.steps
            assert config.model.patch == ([4, 4, 4] if number == 2 else [8, 8, 8])


def test_a_seed_pairs_its_runs_and_the_interval_is_over_people_and_seeds():
    from claims.paired import shown, verdict

    one, two = ({"value": v, "interval": [0, 1], "refits": [v - 0.01, v + 0.01]} for v in (0.7, 0.6))
    assert shown(one, two, figures(0.1, 0.02, 0.2)) == ["0.700", "0.600", "+0.100 [+0.020, +0.200]", "+0.100 +0.100"]
    assert verdict(figures(0.1, 0.02, 0.2)) == "supported"
    assert verdict(figures(0.1, -0.02, 0.2)) == "not supported"


def test_a_corpus_of_renderings_keeps_every_voxel_and_holds_people_out(tmp_path: Path):
    from claims.people import load_people
    from claims.rendered_corpus import write_corpus
    from claims.rendering import reference_of, render
    from claims.signals import Doses

    from mri_fm.data.corpus import Corpus

    people = load_people(None, most=2)
    corpus = Corpus.open(write_corpus(tmp_path, people, {people[0].name}, renderings=8, seed=0), "size")
    assert {s.shape for s in corpus.samples} == {(40, 40, 40)}
    by_person = {(s.subject, s.split) for s in corpus.samples}
    assert len(by_person) == 2
    assert {split for _, split in by_person} == {"train", "test"}
    table = corpus.table.to_pylist()
    for name in ("sharpness", "regional"):
        assert sum(int(row[name]) for row in table) == 8
    rendering = render(0, people[0], 0, Doses(), reference_of(0, people[0], Doses()))
    (row,) = [row for row in table if row["scan_uid"] == f"{people[0].name}_00"]
    assert {name: int(row[name]) for name in rendering.labels} == rendering.labels
    assert np.count_nonzero(rendering.scan_ZYX) == pytest.approx(row["foreground_fraction"] * 40**3, rel=0.02)


def test_the_whole_command_resumes_and_names_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from claims.__main__ import Part, run_part

    def part(code: int) -> Part:
        return Part(
            "one", (sys.executable, "-c", f"import sys; print('a table'); print('why', file=sys.stderr); sys.exit({code})")
        )

    assert not run_part(part(75), tmp_path, None, 1.0)
    assert not (tmp_path / "one.md").exists()
    with pytest.raises(SystemExit, match=r"(?s)one failed with exit code 3.*why"):
        run_part(part(3), tmp_path, None, 1.0)
    assert run_part(part(0), tmp_path, None, 1.0)
    assert (tmp_path / "one.md").read_text() == "a table\n"
    assert run_part(part(3), tmp_path, None, 1.0)  # complete: not run again
    assert "complete" in capsys.readouterr().out


def test_at_the_end_of_the_time_a_part_and_what_it_started_are_told_to_stop(tmp_path: Path):
    from claims.__main__ import Part, run_part

    saved, started = tmp_path / "saved", tmp_path / "started"
    inner = f"trap 'touch {saved}; exit 75' TERM; touch {started}; sleep 60 & wait"
    outer = ("bash", "-c", f"bash -c {shlex.quote(inner)}; true")
    assert not run_part(Part("one", outer), tmp_path, None, 0.1)
    assert started.exists()
    for _ in range(100):
        if saved.exists():
            break
        time.sleep(0.1)
    assert saved.exists()


def test_the_short_form_proves_the_labels(tmp_path: Path):
    from claims.__main__ import main

    assert main(["--out", str(tmp_path), "--short", "--parts", "labels"]) == 0
    assert "oracle" in (tmp_path / "labels.md").read_text()
    assert (tmp_path / "claims-labels.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_short_form_runs_every_part(tmp_path: Path):
    from claims.__main__ import main

    assert main(["--out", str(tmp_path), "--short"]) == 0
    assert "radial_log_power" in (tmp_path / "mechanism.md").read_text()
    assert "Passed:" in (tmp_path / "gate.md").read_text()
    lines = (tmp_path / "gate" / "looks.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 6 * 2
