"""The training runs of both claims: arms, measures and how they are read. Written before the runs.

**Runs.** Heads at 40 × 48 × 40 voxels, patches of 8, encoder 192 × 6, predictor and decoder 2 layers, batch 8, `MAE_STEPS` and
`JEPA_STEPS` steps, three seeds; the people of `held_out.csv` are seen by no run. Augmentation, masks and rates are the
defaults, but: the depth is always the axial axis, as a few hundred steps are too few to learn three orientations; the
teacher's momentum starts at `EMA_START` and not at 0.998, at which the teacher would still be made of its random initial
weights for the most part after so few steps (their share is the product of all momenta); two arms with the published momentum,
one seed, show what that does.

**Claim 1**: `mae_spectral` at λ = 0, 0.01, 0.1 and 1 with `log_magnitude`, and `radial_log_power` at the weight that the table
of claims-mechanism.md recommends. λ = 0 is `mae`: same masks, same initial weights. Before the first step and at two
checkpoints:

1. for encoder and decoder, the norm of the spectral gradient over the voxel error's, and the cosine of the two, batch by
   batch. λ · ratio above 1: the spectral term *steers*. Cosines below 0 in every seed with a mean below −0.1: it *interferes*;
   above 0 and 0.1: it *helps*; else it is *orthogonal*;
2. the power and the correlation of hidden patches with the truth by bands of frequency, and the voxel error. A weight
   *restores* power if the mean over the bands from 0.3 on of |log power ratio| is below that of λ = 0 in every seed; it
   restores *structure* if the mean correlation of these bands is above that of λ = 0 in every seed.

The recommended λ is the largest of `log_magnitude` whose voxel error at the last step, mean over seeds, is at most 1 % above
that of λ = 0 and which restores power; if none does, 0.01 stays, the published weight. `radial_log_power` is *recommended at
its weight* under the same two conditions.

**Claim 2**: `jepa`, `jepa_vcr` at three weights around the published 0.25 and `jepa_sigreg` at two, all with one mask for a
micro-step. Of mean-pooled features of whole volumes, of student and teacher, before the first step and at the end: RankMe,
effective rank, standard deviation over volumes and the covariance's eigenvalues over `VIEWS` augmented views of each held-out
person, which are more volumes than features; at every checkpoint the same over the people themselves, and the cosine of
student's and teacher's tokens. A random encoder stands beside them: that of the same seeds before the first step. The encoder
that is kept is the teacher.

1. An arm is *collapsed* if its effective rank over the views is below half of that of the random encoder, or its standard
   deviation is; in every seed.
2. VCR *prevents collapse* if `jepa` is collapsed and `jepa_vcr` at 0.25 is not; it *raises* a measure if it has more of it
   than `jepa` in every seed.
3. A pilot's finding, RankMe 12 without VCR, 120 with it, 110 at random, and standard deviations of .34 and 1.04, *holds* if
   RankMe of `jepa` is below half of the random encoder's, that of `jepa_vcr` is above the random encoder's, and the standard
   deviation is raised, each in every seed. The pilot did not say whether it centred features: both RankMe and the effective
   rank, which is RankMe of centred features, are asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretraining.runs import Bench, Run, spectral_run

MAE_STEPS, JEPA_STEPS, CHECKPOINTS, BATCH, SIZE = 200, 120, 2, 8, (40, 48, 40)
EMA_START, PUBLISHED_EMA_START = 0.94, 0.998
SEEDS = (0, 1, 2)
HEADS, VIEWS = 59, 10
WORDS = (
    *"model.depth=6 model.predictor.depth=2 model.decoder.depth=2 data.augment.orientation=false".split(),
    *"data.verify=size val.every=0 observe.every=0 wandb.mode=disabled".split(),
)
RADIAL_WEIGHT = 1e-4
WEIGHTS = (0.0, 0.01, 0.1, 1.0)
VCR_WEIGHTS = (0.05, 0.25, 1.0)
SIGREG_WEIGHTS = (0.1, 1.0)
PUBLISHED_VCR = "jepa_vcr 0.25"
RADIAL = f"radial {RADIAL_WEIGHT:g}"
Arms = dict[str, list[Run]]
"""By name, the runs of an arm, one for each seed."""


@dataclass(frozen=True)
class Scale:
    """How much is done; `short` is for continuous integration and says nothing about the claims."""

    mae_steps: int = MAE_STEPS
    jepa_steps: int = JEPA_STEPS
    checkpoints: int = CHECKPOINTS
    seeds: tuple[int, ...] = SEEDS
    heads: int = HEADS
    views: int = VIEWS
    every_arm: bool = True

    def bench(self, out: Path, claim: int) -> Bench:
        """Where the runs of a claim lie and what they have in common."""
        return Bench(out.resolve(), self.mae_steps if claim == 1 else self.jepa_steps, BATCH, SIZE, self.checkpoints, WORDS)


FULL = Scale()
SHORT = Scale(mae_steps=2, jepa_steps=2, checkpoints=1, seeds=(0,), heads=6, views=2, every_arm=False)


def mae_arms(scale: Scale) -> Arms:
    """λ = 0 first, `radial_log_power` last."""
    weights = WEIGHTS if scale.every_arm else WEIGHTS[:1]
    arms = {f"λ {weight:g}": [spectral_run(weight, seed) for seed in scale.seeds] for weight in weights}
    words = ("objective.mode=radial_log_power", f"objective.spectral_weight={RADIAL_WEIGHT}")
    return arms | {RADIAL: [Run("mae_spectral", f"radial{RADIAL_WEIGHT:g}", words, seed) for seed in scale.seeds]}


def weight_of(arm: str) -> float:
    """λ of an arm of `mae_arms`."""
    return float(arm.split()[1])


def jepa_arms(scale: Scale) -> Arms:
    """`jepa` first, then its regularised forms by weight."""
    given = {("jepa", 0.0): ("objective.shared_mask=true",)}
    given |= {("jepa_vcr", w): (f"objective.vcr_weight={w}",) for w in (VCR_WEIGHTS if scale.every_arm else (0.25,))}
    given |= {("jepa_sigreg", w): (f"objective.sigreg_weight={w}",) for w in (SIGREG_WEIGHTS if scale.every_arm else ())}
    return {
        f"{objective} {weight:g}".removesuffix(" 0"): _jepa_runs(objective, f"weight{weight:g}", words, EMA_START, scale.seeds)
        for (objective, weight), words in given.items()
    }


def published_momentum(scale: Scale) -> Arms:
    """`jepa` and `jepa_vcr` with the published momentum, one seed: exploratory."""
    if not scale.every_arm:
        return {}
    given = {"jepa": "objective.shared_mask=true", "jepa_vcr": "objective.vcr_weight=0.25"}
    return {
        f"{objective}, momentum {PUBLISHED_EMA_START}": _jepa_runs(objective, "published", (word,), PUBLISHED_EMA_START, (0,))
        for objective, word in given.items()
    }


def _jepa_runs(objective: str, arm: str, words: tuple[str, ...], start: float, seeds: tuple[int, ...]) -> list[Run]:
    return [Run(objective, arm, (*words, f"objective.ema_start={start}"), seed) for seed in seeds]
