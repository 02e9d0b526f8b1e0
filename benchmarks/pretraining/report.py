"""Tables and curves of pretraining runs."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes

from mri_fm.config import config_from_yaml
from mri_fm.evaluate.task import Task
from pretraining.probes import DIVISIONS, FOLDS, SHUFFLES, Scores, mean_auroc, probe_curve, shuffled_auroc, task_of
from pretraining.runs import Bench, Run

mpl.use("Agg")
LEVEL = (0.025, 0.975)
Figure = tuple[float, np.ndarray]
"""AUROC, and the same on resamples of people."""
Arms = Mapping[str, Sequence[Run]]
"""The runs of each arm, one for each seed, all with the same seeds."""


def heading(bench: Bench, arms: Arms, labels: Sequence[str]) -> str:
    """What was run, where."""
    people = describe_people([task_of(bench, label) for label in labels])
    return (
        f"{setting(bench, arms)}; {people}; {DIVISIONS} divisions into {FOLDS} folds; "
        f"torch {torch.__version__}, commit {commit()}.\n"
    )


def describe_people(tasks: Sequence[Task]) -> str:
    """How many people there are, and of each class of each task."""
    counts = (
        f"{task.name} " + ", ".join(f"{np.sum(task.target.labels == k)} {name}" for k, name in enumerate(task.classes))
        for task in tasks
    )
    return f"{tasks[0].groups} people ({'; '.join(counts)})"


def setting(bench: Bench, arms: Arms) -> str:
    """Date and machine as a heading, then sizes of the network and of the runs."""
    seeds = sorted({run.seed for runs in arms.values() for run in runs})
    model = config_from_yaml(bench.folder(next(iter(arms.values()))[0]) / "config.yaml").model
    return (
        f"## {datetime.date.today()}, {platform.machine()} CPU, {torch.get_num_threads()} thread\n\n"
        f"{'×'.join(map(str, bench.size))} voxels, encoder {model.width} × {model.depth}, decoder {model.decoder.depth} and "
        f"predictor {model.predictor.depth} layers, batch {bench.batch}, {bench.steps} steps, seed {', '.join(map(str, seeds))}"
    )


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def mean_and_std(values: Sequence[float] | np.ndarray, digits: str = ".3g") -> str:
    """Mean, and the standard deviation in parentheses."""
    return f"{np.mean(values):{digits}} ({np.std(values):.1g})"


def probes(bench: Bench, arms: Arms, labels: Sequence[str]) -> dict[str, list[Scores]]:
    """The scores of each arm's runs."""
    return {arm: [probe_curve(bench, run, labels) for run in runs] for arm, runs in arms.items()}


def rows_at(curves: Sequence[Scores], step: int, label: str) -> list[list[float]]:
    """Scores at a step, of all seeds and divisions."""
    return [row for curve in curves for row in curve[step][label]]


def probe_cells(
    bench: Bench, scores: Mapping[str, list[Scores]], label: str, references: Sequence[str]
) -> dict[str, list[str]]:
    """For each arm: AUROC at the last step, and its difference from those of other arms, each with the paired interval."""
    last = {arm: rows_at(curves, bench.steps, label) for arm, curves in scores.items()}
    figures = mean_auroc(task_of(bench, label), last)
    against = {
        arm: ["" if arm == other else difference(figures[arm], figures[other]) for other in references] for arm in scores
    }
    return {arm: [with_interval(*figures[arm]), *against[arm]] for arm in scores}


def difference(ours: Figure, theirs: Figure) -> str:
    """With "below" where the whole interval lies below 0."""
    resampled = ours[1] - theirs[1]
    below = " below" if np.nanquantile(resampled, LEVEL[1]) < 0 else ""
    return with_interval(ours[0] - theirs[0], resampled, "+") + below


def chance(bench: Bench, run: Run, labels: Sequence[str]) -> str:
    """What the AUROCs of a table are to be held against: the same with shuffled labels."""
    drawn = {label: np.array(shuffled_auroc(bench, run, label)) for label in labels}
    spans = [
        f"{label} {v.mean():.2f} [{np.quantile(v, LEVEL[0]):.2f}, {np.quantile(v, LEVEL[1]):.2f}]" for label, v in drawn.items()
    ]
    return f"With labels shuffled over people ({SHUFFLES} times, features of {run.name}): {', '.join(spans)}.\n"


def with_interval(point: float, values: np.ndarray, sign: str = "") -> str:
    low, high = np.nanquantile(values, LEVEL)
    return f"{point:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def draw_probes(axes: Axes, bench: Bench, scores: Mapping[str, list[Scores]], label: str) -> None:
    """AUROC over steps with intervals, and the line of the network before its first step."""
    task = task_of(bench, label)
    for number, (arm, curves) in enumerate(scores.items()):
        steps = sorted(curves[0])
        figures = mean_auroc(task, {str(step): rows_at(curves, step, label) for step in steps})
        points = np.array([figures[str(step)][0] for step in steps])
        low, high = np.transpose([np.nanquantile(figures[str(step)][1], LEVEL) for step in steps])
        shift = (number - len(scores) / 2) * bench.steps / 150  # else the bars hide each other
        axes.errorbar(np.array(steps) + shift, points, [points - low, high - points], label=arm, marker="o", ms=3, lw=1)
        if number == 1:
            axes.axhline(points[0], color="grey", ls="--", lw=1, label="random initial weights")
    axes.axhline(0.5, color="black", lw=0.5)
    axes.set(title=f"linear probe, {label}", xlabel="step", ylabel="AUROC", ylim=(0.2, 0.9))


def draw_losses(axes: Axes, bench: Bench, arms: Arms, title: str) -> None:
    """Training loss as it was logged (thin), loss on the val split (dots); mean over seeds."""
    for number, (arm, runs) in enumerate(arms.items()):
        records = [bench.records(run) for run in runs]
        logged = [record for record in records[0] if record["step"] == 1 or record["step"] % 5 == 0]
        steps = [record["step"] for record in logged]
        mean = np.mean([[r["loss"] for r in rows if r["step"] in steps] for rows in records], axis=0)
        axes.plot(steps, mean, color=f"C{number}", lw=1, label=arm)
        watched = [record["step"] for record in records[0] if "val_loss" in record]
        val = np.mean([[r["val_loss"] for r in rows if r["step"] in watched] for rows in records], axis=0)
        axes.plot(watched, val, "o", color=f"C{number}", ms=4)
    axes.set(title=title, xlabel="step", ylabel="loss: line training, dots val")
    axes.legend(fontsize=8)


def last_val_loss(bench: Bench, runs: Sequence[Run]) -> float:
    return float(np.mean([[r["val_loss"] for r in bench.records(run) if "val_loss" in r][-1] for run in runs]))


def finished_arms(bench: Bench, arms: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """Each arm with the seeds under which all of them are finished; nothing if there is none."""
    seeds = set.intersection(*({run.seed for run in runs if bench.finished(run)} for runs in arms.values()))
    return {} if not seeds else {arm: [run for run in runs if run.seed in seeds] for arm, runs in arms.items()}


def figure_file(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
