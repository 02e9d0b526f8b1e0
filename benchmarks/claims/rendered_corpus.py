"""The renderings of everyone as a raw tree, and the corpus that the real build makes of it.

Axes: Z/Y/X voxels.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from claims.factorial import LABELS
from claims.heads import Head
from claims.people import SPACING
from claims.rendering import Rendering, render_all
from claims.signals import Doses

ROOT = Path(__file__).parents[2]
LABELS_FILE, HELD_OUT = "labels.csv", "held_out.csv"


def write_corpus(folder: Path, heads: Sequence[Head], held: set[str], *, renderings: int, seed: int) -> Path:
    """`folder`/corpus: who is `held` out in the split `test`, the others in `train`; what is done is not done again."""
    raw = folder / "raw"
    if not (raw / LABELS_FILE).is_file():
        _write_raw(raw, heads, held, renderings, seed)
    words = ["--raw", str(raw), "--out", str(folder / "corpus"), "--holdout", str(folder / HELD_OUT)]
    words += ["--val-fraction", "0", "--workers", "1"]
    subprocess.run(
        [sys.executable, "-m", "preprocessing.build_shards", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    return folder / "corpus"


def _write_raw(raw: Path, heads: Sequence[Head], held: set[str], renderings: int, seed: int) -> None:
    """The scans, then labels.csv: a tree that has it is complete."""
    raw.mkdir(parents=True, exist_ok=True)
    rows = []
    for head in tqdm(heads, desc="render", unit="person"):
        for rendering in render_all(seed, [head], renderings, Doses()):
            path = f"{rendering.person}/{rendering.person}_{rendering.number:02d}_T1w.nii.gz"
            (raw / path).parent.mkdir(exist_ok=True)
            nib.save(image_of(rendering), raw / path)
            rows.append({"path": path, "dataset": "signals", "subject": rendering.person, "session": str(rendering.number),
                         "contrast": "T1", "kind": "individual", "site": rendering.acquisition.site,
                         "scan_uid": f"{rendering.person}_{rendering.number:02d}",
                         **{name: str(rendering.labels[name]) for name in LABELS}})  # fmt: skip
    _write_table(
        raw.parent / HELD_OUT, [{"subject_id": r["subject"], "scan_uid": r["scan_uid"]} for r in rows if r["subject"] in held]
    )
    _write_table(raw / LABELS_FILE, rows)


def image_of(rendering: Rendering) -> nib.Nifti1Image:
    """The scan as int16, x first."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    return nib.Nifti1Image(np.ascontiguousarray(rendering.scan_ZYX.T.astype(np.int16)), affine)


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
