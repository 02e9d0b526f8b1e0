"""The corpus of the training runs: people to learn from, and people held out whom no run has seen.

The scans are linked into one raw folder with a labels.csv that names them, and built by the real command.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

from mri_fm.data.split_files import Scan, read_split
from preprocessing.sample_data import lay_out

ROOT = Path(__file__).parents[2]
HELD_OUT = Path(__file__).with_name("held_out.csv")
"""Every third person of OpenNeuro ds002748 with a T1, in order of number: 20 of 59."""
LABELS = ("path", "dataset", "subject", "kind", "scan_uid")
DATASET = "claims"


def build_corpus(bids: Path | None, out: Path, *, heads: int) -> Path:
    """The corpus, up to date: the split "train", and "test" for those held out.

    Args:
        bids: a folder with *_T1w.nii.gz; None: renderings of the heads that installed packages ship, of several
            contrasts; those held out are of the same heads.
        out: where the folders go.
        heads: how many at most.
    """
    scans = find_scans(bids, out, heads)
    raw, corpus, held_out = out / "raw", out / "corpus", out / "held_out.csv"
    _link(scans, raw)
    _write(held_out, ("subject_id", "scan_uid"), choose_held_out(list(scans), read_split(HELD_OUT)))
    words = ["--raw", str(raw), "--out", str(corpus), "--holdout", str(held_out), "--val-fraction", "0", "--workers", "1"]
    command = [sys.executable, "-m", "preprocessing.build_shards", *words]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)  # the output is for tables
    return corpus


def find_scans(bids: Path | None, out: Path, heads: int) -> dict[Scan, Path]:
    """The first scans in order of name, by (subject, scan); renderings are of several contrasts."""
    if bids is None:
        with redirect_stdout(sys.stderr):
            labels = lay_out(out / "packages", heads)
        files = sorted(out / "packages" / label.path for label in labels if label.kind == "variant")
    else:
        files = sorted(bids.rglob("*_T1w.nii.gz"))[:heads]
    if not files:
        raise SystemExit(f"no *_T1w.nii.gz under {bids}")
    return {(path.name.split("_")[0], path.name.removesuffix(".nii.gz")): path for path in files}


def choose_held_out(scans: list[Scan], fixed: list[Scan]) -> list[Scan]:
    """Those of the fixed list; in a folder that has none of them, every third."""
    return [scan for scan in scans if scan in fixed] or scans[::3]


def _link(scans: dict[Scan, Path], raw: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    rows = []
    for (subject, name), path in scans.items():
        link = raw / path.name
        if not link.is_symlink():
            link.symlink_to(path.resolve())
        rows.append((link.name, DATASET, subject, "individual", name))
    _write(raw / "labels.csv", LABELS, rows)


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table; one that says the same stays as it is, so that the corpus is up to date."""
    text = "".join(",".join(row) + "\n" for row in [header, *rows])
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)
