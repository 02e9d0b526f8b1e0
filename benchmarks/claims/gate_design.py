"""The gate, and the runs behind it: what is trained, what is asked, when the gate is passed. Written before the runs.

**Data.** Renderings (`claims.rendering`) of the people of `held_out.csv` are seen by no run and are the test part of every
task; a probe learns from renderings of the others, on whom the encoders were trained without labels. Cubes of 40 voxels of
4.5 mm.

**Gate.** One `mae` and one `jepa_vcr` for each attempt, seed 0, defaults but for `WORDS`: the depth is always the axial axis,
so that a position means a place; and only as many tokens as the foreground fills. Primary tasks and how they are read,
chosen before anything was seen:

- claim 1, `sharpness`: linear probe on mean-pooled tokens, the evaluation's headline;
- claim 2, `regional`: linear probe on tokens averaged over 3³ parts of the grid, since a mean over all places cannot read it.

An encoder *passes* on a task if its AUROC on the held-out people is at least `LEAST_GAIN` above that of three random encoders
(mean) and the paired 95 % interval over people of the difference lies above 0. The gate is passed if one of the two encoders
passes on one of the two primary tasks. Other labels, probes and baselines stand in the table and decide nothing. Encoders are
looked at once, after the last step; every look is a line of `benchmarks/results/claims-looks.csv`, first or repeated.

**Attempts**, in this order, each only if the gate has not been passed: see `ATTEMPTS`. Each changes what most likely limits.

**Power**, only behind the gate: `mae` against `mae_spectral` (the published weight, 0.01) and `jepa` against `jepa_vcr`, five
seeds each, as the attempt that passed but with `POWER_STEPS`; a claim is *supported* if the mean difference over seeds on its
primary task lies above 0 with its whole interval over people and seeds. Its declared negative control (`texture` for claim 1,
`regional_correlated` for claim 2) must show less. `jepa_sigreg`, `hybrid` and the radial mode get one seed each: exploratory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretraining.runs import Bench, Run

SIDE, BATCH, RENDERINGS = 40, 8, 8
STEPS, POWER_STEPS = 4000, 2000
LEAST_GAIN = 0.08
PRIMARY = {"sharpness": "linear", "regional": "regions"}
SEED, RANDOM_ENCODERS = 0, 3
POWER_SEEDS = (0, 1, 2, 3, 4)
BUDGET = "objective.token_budget=0"  # as many tokens as the foreground of 95 % of the volumes
POOLED = "objective.shared_mask=false"  # with a budget, statistics per token slot are not defined
PUBLISHED_WEIGHT = "objective.spectral_weight=0.01"
RADIAL = ("objective.mode=radial_log_power", "objective.spectral_weight=1e-4")
WORDS = (
    *"model.depth=6 model.predictor.depth=2 model.decoder.depth=2 data.augment.orientation=false".split(),
    *"data.verify=size val.every=0 observe.every=0 wandb.mode=disabled".split(),
)


@dataclass(frozen=True)
class Attempt:
    """A try at the gate.

    Attributes:
        reason: what it changes, and why that may be what limits.
        words: what that is on the command line.
        steps: of both runs.
        renderings: of each person.
        batch: samples of a step.
    """

    reason: str
    words: tuple[str, ...] = ()
    steps: int = STEPS
    renderings: int = RENDERINGS
    batch: int = BATCH


ATTEMPTS = (
    Attempt("as the pilot, with eight times its steps"),
    Attempt(
        "tokens: patches of 4³ voxels show detail within a patch; a quarter of the batch keeps a step's cost bearable",
        ("model.patch=[4,4,4]",),
        batch=2,
    ),
    Attempt("steps: four times as many at the first attempt's patches", steps=4 * STEPS),
    Attempt("data: four times as many renderings of each person, at the first attempt's patches", renderings=4 * RENDERINGS),
)


def bench_of(out: Path, attempt: Attempt, steps: int) -> Bench:
    """Where an attempt's runs lie, beside others on the same data, and what they have in common."""
    folder = out.resolve() / f"{attempt.renderings}-renderings"
    checkpoints = max(1, steps // 500)
    return Bench(folder, steps, attempt.batch, (SIDE, SIDE, SIDE), checkpoints, WORDS)


def gate_runs(number: int) -> list[Run]:
    """One of each family for attempt `number`, from 1."""
    words = (BUDGET, *ATTEMPTS[number - 1].words)
    return [Run("mae", f"gate{number}", words, SEED), Run("jepa_vcr", f"gate{number}", (*words, POOLED), SEED)]


def power_runs(number: int) -> list[Run]:
    """As the attempt that passed: seed by seed the four arms, then the exploratory ones."""
    words = (BUDGET, *ATTEMPTS[number - 1].words)
    arms = {"mae": (), "mae_spectral": (PUBLISHED_WEIGHT,), "jepa": (), "jepa_vcr": (POOLED,)}
    paired = [Run(name, "power", (*words, *own), seed) for seed in POWER_SEEDS for name, own in arms.items()]
    single = [Run("jepa_sigreg", "power", (*words, POOLED), SEED), Run("hybrid", "power", words, SEED)]
    return paired + single + [Run("mae_spectral", "radial", (*words, *RADIAL), SEED)]
