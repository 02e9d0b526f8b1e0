"""The demo's one page: corpus, loss curves, a reconstruction and its spectrum beside the truth, the probe.

Axes: C channel, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import zarr
from matplotlib.figure import Figure

from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.schema import ARCHIVE_DIR, MANIFEST_FILE
from mri_fm.engine.weights import load_objective
from mri_fm.objectives.mae import MAE
from mri_fm.observe.page import html_image, html_page, html_table, html_tiles
from mri_fm.observe.pictures import reconstruction_figure
from mri_fm.observe.recorder import read_metrics
from preprocessing.gallery import choose_for_gallery, middle_slices

COLLAPSE_RATIO = 0.5
SHOWN = 8  # volumes in the corpus picture


def write_demo_report(out: Path, summary: dict[str, Any], reconstructed: str) -> None:
    """Write `out`/report.html, self-contained, from the demo's summary and run folders.

    Args:
        out: the demo's folder, with corpus/, probe/ and one folder per objective.
        summary: what goes into summary.json.
        reconstructed: the MAE run whose reconstruction is shown.
    """
    sections = [
        _corpus_section(out / "corpus", summary["corpus"]),
        _training_section(out, summary["runs"]),
        _resume_section(summary["resume"]),
        _reconstruction_section(out, reconstructed),
        _probe_section(summary["probe"]),
        _versions_section(summary),
    ]
    (out / "report.html").write_text(html_page("mri-fm demo", "\n".join(sections)), encoding="utf-8")


def collapse_warnings(runs: dict[str, Any]) -> list[str]:
    """One sentence for each JEPA run whose feature standard deviation has halved."""
    found = []
    for name, run in runs.items():
        if "feature_std" in run:
            first, last = run["feature_std"]
            if last <= COLLAPSE_RATIO * first:
                found.append(
                    f"{name}: the feature standard deviation fell from {first:.3g} to {last:.3g}, which is a sign of collapse."
                )
    return found


def _corpus_section(corpus: Path, counts: dict[str, int]) -> str:
    tiles = html_tiles([(name.replace("_", " "), str(value)) for name, value in counts.items()])
    return f"""<h1>From raw MRI to a probed encoder</h1>
<p class="note">Everything on this page was measured by <code>make demo</code> on this machine, at a size that two CPU cores
train in minutes. It shows that the parts work together, not what the method can do.</p>
<h2>Corpus</h2>{tiles}{html_image(_corpus_figure(corpus), "middle slices of some volumes")}
<p>Variants are rendered from real anatomy and are no people; distinct brains count the anatomies behind all volumes.
<a href="corpus/report.html">The corpus report</a> has pictures, and what was refused and why.</p>"""


def _corpus_figure(corpus: Path) -> Figure:
    rows = choose_for_gallery(pq.read_table(corpus / MANIFEST_FILE).to_pylist(), SHOWN)
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    for axis, row in zip(figure.subplots(2, SHOWN // 2).flat, rows, strict=False):
        volume_ZYX = zarr.open_array(corpus / ARCHIVE_DIR / row["key"] / "0", mode="r")
        axis.imshow(middle_slices(volume_ZYX, row["spacing"]), cmap="gray")
        axis.set_title(f"{row['base']} {row['contrast']}, {row['kind']}", fontsize=8)
    for axis in figure.axes:
        axis.axis("off")
    return figure


def _training_section(out: Path, runs: dict[str, Any]) -> str:
    head = ("objective", "steps", "first loss", "last loss", "volumes/s", "feature std", "RankMe")
    warnings = "".join(f'<p class="warn">{escape(text)}</p>' for text in collapse_warnings(runs))
    return f"""<h2>Pretraining</h2>{html_image(_loss_curves(out, list(runs)), "loss curves")}
{html_table(head, [_run_row(name, run) for name, run in runs.items()])}
<p class="note">First and last loss are means over the first and the last fifth of the steps; losses of different objectives are
on different scales. Feature std and RankMe are of the student's pooled features on a fixed batch.</p>
{warnings or '<p class="note">No feature standard deviation halved, so there is no sign of collapse.</p>'}"""


def _run_row(name: str, run: dict[str, Any]) -> list[str]:
    ends = [" → ".join(f"{value:.3g}" for value in run.get(key, ())) for key in ("feature_std", "rankme")]
    return [
        name,
        str(run["steps"]),
        f"{run['first_loss']:.4f}",
        f"{run['last_loss']:.4f}",
        f"{run['volumes_per_s']:.1f}",
        *ends,
    ]


def _loss_curves(out: Path, objectives: Sequence[str]) -> Figure:
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(objectives)), objectives, strict=True):
        records = read_metrics(out / name)
        axis.plot([r["step"] for r in records], [r["loss"] for r in records], color="#2463b0")
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
    return figure


def _resume_section(resume: dict[str, Any]) -> str:
    outcome = "bitwise the same losses as" if resume["bitwise"] else "<b>other losses than</b>"
    return f"""<h2>Kill and resume</h2>
<p>The <code>{escape(resume["objective"])}</code> run above was ended with SIGKILL half-way and the same command was given
again. It went on from its last checkpoint and logged {outcome} a second run that was never disturbed.</p>"""


def _reconstruction_section(out: Path, run: str) -> str:
    figure = reconstruction_figure(*_reconstruct(out, run))
    return f"""<h2>Reconstruction by {escape(run)}</h2>{html_image(figure, "reconstruction and spectrum")}
<p class="note">Middle slice of a training volume's centre crop, three quarters of its patches hidden. Spectrum: log magnitude
of the volume's 3D Fourier transform, its central plane, and its mean over shells of equal frequency. Where the reconstruction
lies below the truth, it lacks detail.</p>"""


def _reconstruct(out: Path, run: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    loaded = load_objective(out / run)
    if not isinstance(loaded.objective, MAE):
        raise TypeError(f"{run} reconstructs no voxels")
    corpus = Corpus.open(out / "corpus", verify="size")
    sample = corpus.select("train")[:1]
    (batch,) = evaluation_batches(corpus, sample, loaded.config.data, batch_size=1, device=torch.device("cpu"))
    mosaic_BCZYX, hidden_BCZYX = loaded.objective.reconstruct(batch)
    truth, mosaic, hidden = (t[0, 0].numpy() for t in (batch.x_BCZYX, mosaic_BCZYX, hidden_BCZYX))
    return truth, mosaic, hidden


def _probe_section(probe: dict[str, Any]) -> str:
    low, high = probe["interval"]
    rows = [
        ("pretrained, frozen, linear probe", f"{probe['auroc']:.3f} [{low:.3f}, {high:.3f}]"),
        ("random encoder, linear probe", f"{probe['random_init_auroc']:.3f}"),
        ("raw voxels", f"{probe['raw_voxel_auroc']:.3f}"),
    ]
    return f"""<h2>Probe: {escape(probe["label"])}</h2>{html_table(("features", "AUROC [95 % interval]"), rows)}
<p class="warn">{escape(probe["caption"])}</p>
<p><a href="probe/report.html">The probe report</a> has curves, all intervals and how they were made.</p>"""


def _versions_section(summary: dict[str, Any]) -> str:
    rows = list(summary["versions"].items())
    return f"<h2>What ran</h2><p>{summary['wall_s']:.0f} s in all.</p>{html_table(('package', 'version'), rows)}"
