"""The tables of the training runs and the sentences that the rules give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pretraining.report import mean_and_std, table
from pretraining.runs import Measures

from claims import verdicts
from claims.design import PUBLISHED_VCR, RADIAL, WEIGHTS, weight_of
from claims.gradients import PARTS, agreement, cosine, ratio
from claims.measures import NETWORKS, correlation, power
from claims.power import BANDS
from claims.spread import directions_for

Curves = Mapping[str, Sequence[Mapping[int, Measures]]]
"""By arm, the measures of each seed by step."""


def at(curves: Curves, step: int) -> dict[str, list[Measures]]:
    """The measures of one step by arm."""
    return {arm: [by_step[step] for by_step in runs] for arm, runs in curves.items()}


def pooled(by_seed: Sequence[Measures], name: str) -> list[float]:
    """A measure of all seeds together."""
    return [value for measures in by_seed for value in measures[name]]


def modes_of(arm: str) -> tuple[str, ...]:
    """Whose gradients an arm shows; without a spectral term those that it would have."""
    if arm == RADIAL:
        return ("radial_log_power",)
    return ("log_magnitude", "radial_log_power") if weight_of(arm) == 0 else ("log_magnitude",)


def gradient_table(curves: Curves, steps: Sequence[int]) -> str:
    """Ratio and cosine of the two gradients over training, by arm and part of the network."""
    rows = []
    for arm, runs in curves.items():
        for mode in modes_of(arm):
            row = [arm, mode]
            for part in PARTS:
                for name in (ratio(mode, part), cosine(mode, part)):
                    over = [f"{np.mean(pooled([run[step] for run in runs], name)):.2g}" for step in steps[:-1]]
                    row.append(" → ".join([*over, mean_and_std(pooled([run[steps[-1]] for run in runs], name), ".2g")]))
            last = [run[steps[-1]] for run in runs]
            pulled = weight_of(arm) * verdicts.seed_means(last, ratio(mode, "encoder")).mean()
            row += [f"{pulled:.2g}", verdicts.direction(verdicts.seed_means(last, cosine(mode, "encoder")))]
            batches = pooled(last, agreement("encoder"))
            row.append(mean_and_std(batches, ".2g") if batches else "")
            rows.append(row)
    header = ["arm", "mode", *(f"{what}, {part}" for part in PARTS for what in ("ratio", "cosine"))]
    return table([*header, "λ · ratio, encoder", "encoder", "agreement of batches"], rows)


def reconstruction_table(last: Mapping[str, Sequence[Measures]]) -> str:
    """Voxel error, power and correlation by band at the last step, mean (standard deviation over people and seeds)."""
    without = next(iter(last.values()))
    rows = []
    for arm, by_seed in last.items():
        yes = [verdicts.restores_power(by_seed, without), verdicts.restores_structure(by_seed, without)]
        rows.append(
            [
                arm,
                mean_and_std(pooled(by_seed, "voxel_error")),
                f"{verdicts.excess_error(by_seed, without):+.1%}",
                *(mean_and_std(pooled(by_seed, power(band)), ".2f") for band in range(len(BANDS))),
                *(mean_and_std(pooled(by_seed, correlation(band)), ".2f") for band in range(len(BANDS))),
                *("" if by_seed is without else str(restores) for restores in yes),
            ]
        )
    bands = [f"{low:g}–{high:g}" for low, high in BANDS]
    header = [
        "arm",
        "voxel error",
        "over λ 0",
        *(f"power {band}" for band in bands),
        *(f"correlation {band}" for band in bands),
    ]
    return table([*header, "restores power", "restores structure"], rows)


def weight_sentence(last: Mapping[str, Sequence[Measures]]) -> str:
    """What the rule recommends."""
    by_weight = {weight: last[f"λ {weight:g}"] for weight in WEIGHTS if f"λ {weight:g}" in last}
    radial = "recommended" if verdicts.affordable(last[RADIAL], by_weight[0.0]) else "not recommended"
    return f"By the rule: λ = {verdicts.recommended_weight(by_weight):g}; `radial_log_power` is {radial} at its weight.\n"


def spread_table(last: Mapping[str, Sequence[Measures]]) -> str:
    """Ranks and spread over the views by arm, mean (standard deviation over seeds); the first arm is the random encoder."""
    random = next(iter(last.values()))
    rows = []
    for arm, by_seed in last.items():
        row = [arm]
        for network in NETWORKS[::-1]:
            for name in ("rankme", "effective_rank", "std"):
                row.append(mean_and_std(verdicts.seed_means(by_seed, f"{network} views {name}")))
        directions = [directions_for(m["teacher views eigenvalues"], 0.9) for m in by_seed]
        row += [mean_and_std(directions, ".2g"), mean_and_std(verdicts.seed_means(by_seed, "teacher people std"))]
        row += [
            mean_and_std(pooled(by_seed, "agreement")),
            "" if by_seed is random else str(verdicts.collapsed(by_seed, random)),
        ]
        rows.append(row)
    names = ("RankMe", "effective rank", "std")
    header = ["arm", *(f"{network} {name}" for network in NETWORKS[::-1] for name in names)]
    return table([*header, "directions for 90 %", "teacher std, people", "agreement", "collapsed"], rows)


def vcr_sentences(last: Mapping[str, Sequence[Measures]]) -> str:
    """What the rules say of VCR at its published weight."""
    random, jepa, vcr = next(iter(last.values())), last["jepa"], last[PUBLISHED_VCR]
    prevents = verdicts.collapsed(jepa, random) and not verdicts.collapsed(vcr, random)
    raised = [name for name in ("rankme", "effective_rank", "std") if verdicts.raises(vcr, jepa, f"teacher views {name}")]
    holds = [name for name in ("rankme", "effective_rank") if verdicts.pilot_holds(jepa, vcr, random, name)]
    return (
        f"By the rules, of the teacher: `{PUBLISHED_VCR}` prevents collapse: {prevents}; it raises, against `jepa` in every "
        f"seed: {', '.join(raised) or 'nothing'}; the pilot's finding holds in: {', '.join(holds) or 'neither rank'}.\n"
    )
