"""Is it the disease, or the scanner, the site, the age? And does any method look at what it is tested on?

Axes: S units, T tested units, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mri_fm.errors import UserError
from mri_fm.evaluate.adjust import fit_harmonised, fit_residual, numeric, with_covariates
from mri_fm.evaluate.compare import out_of_fold
from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.linear import fit_linear
from mri_fm.evaluate.metrics import Scores, measure
from mri_fm.evaluate.splits import Split, cross_validation
from mri_fm.evaluate.statistics import Resamples, interval
from mri_fm.evaluate.table import Column
from mri_fm.evaluate.target import Ints, Target
from mri_fm.evaluate.task import Task, numbered
from mri_fm.evaluate.training import Fit

LEAST = 8  # groups of a site that a probe is asked for
LEAST_OF_A_SUBGROUP, LEAST_OF_A_CLASS = 20, 5  # units; of fewer a bootstrap says too little
AGE_BANDS = (0, 18, 40, 60, 75, 200)
RESAMPLES = 1000
Pipeline = Callable[[Target], tuple[Ints, Scores]]
"""All that turns labels into out-of-fold scores: choices of features, strengths and thresholds included."""


def confounders(task: Task, features: Features, splits: Sequence[Split], *, seed: int) -> dict[str, Any]:
    """The headline probe beside itself without age and sex, harmonised over sites, on unseen sites; and asked for the site.

    What a missing column or too few units forbid is said under `not_done`, by name.

    Args:
        task: with its covariates.
        features: pooled, of the trained encoder.
        splits: of the headline's first refit.
        seed: keys folds and resamples.
    """
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    people = [name for name in ("age", "sex") if name in task.covariates]
    complete = np.array([all(task.covariates[n][i] is not None for n in people) for i in range(len(task.target))])
    if people:
        cause_SC = np.stack([numeric(task.covariates[name]) for name in people], axis=1)
        adjusted = with_covariates(features, cause_SC)
        found["without_age_and_sex"] = {"columns": people, "n_imputed": int((~complete).sum())} | _value(
            task, adjusted, partial(fit_residual, covariates=len(people)), splits, seed
        )
    else:
        report = covariate_report(task)
        missing["without_age_and_sex"] = f"{report['age']}, {report['sex']}"
    sites = task.covariates.get("site") or task.covariates.get("scanner")
    column = task.spec.covariates.site if "site" in task.covariates else task.spec.covariates.scanner
    if sites is None or len({site for site in sites if site is not None}) < 2:
        reason = covariate_report(task)["site"] if sites is None else f"column {column} holds one site"
        missing |= dict.fromkeys(("harmonised", "unseen_sites", "site_from_embedding"), reason)
    else:
        cause_SC = np.stack([*(numeric(task.covariates[n]) for n in people), _site_numbers(sites)], axis=1)
        harmonised = with_covariates(features, cause_SC)
        found["harmonised"] = {"columns": people, "site": column} | _value(
            task, harmonised, partial(fit_harmonised, covariates=len(people)), splits, seed
        )
        for name, work in (("unseen_sites", _unseen_sites), ("site_from_embedding", _read_site)):
            try:
                found[name] = work(task, features, sites, seed)
            except UserError as error:
                missing[name] = str(error)
    return {**found, "not_done": missing}


def _value(task: Task, features: Features, fit: Fit, splits: Sequence[Split], seed: int) -> dict[str, Any]:
    tested_T, scores = out_of_fold(features, task.target, task.group_S, splits, fit, seed=seed)
    return _summary(task.spec.metric, scores, task.group_S[tested_T], seed)


def _summary(metric: str, scores: Scores, group_T: Ints, seed: int) -> dict[str, Any]:
    resampled = Resamples.draw(group_T, seed=seed, count=RESAMPLES).values([partial(measure, metric, scores)])
    return {metric: float(measure(metric, scores)[0]), "interval": interval(resampled)}


def _site_numbers(sites: Column) -> np.ndarray:
    return numbered([str(site) for site in sites]).astype(np.float64)


def _unseen_sites(task: Task, features: Features, sites: Column, seed: int) -> dict[str, Any]:
    """Folds that are disjoint by site: what a clinic that gave no training data may expect."""
    site_S = numbered([str(site) for site in sites])
    rows = np.flatnonzero([site is not None for site in sites])
    folds = min(task.spec.split.folds, len(np.unique(site_S[rows])))
    target = task.target[rows]
    splits = cross_validation(target, _joined(site_S[rows], task.group_S[rows]), folds, seed=seed)
    tested_T, scores = out_of_fold(features[rows], target, task.group_S[rows], splits, fit_linear, seed=seed)
    return {"folds": folds, "sites": len(np.unique(site_S[rows]))} | _summary(
        task.spec.metric, scores, task.group_S[rows][tested_T], seed
    )


def _joined(site_S: Ints, group_S: Ints) -> Ints:
    """Numbers that are equal wherever site or group are, directly or through others: a person may have visited two sites."""
    joined_S = site_S.copy()
    while True:
        before_S = joined_S.copy()
        for number_S in (group_S, site_S):
            least = np.full(int(number_S.max()) + 1, joined_S.max() + 1)
            np.minimum.at(least, number_S, joined_S)
            joined_S = least[number_S]
        if np.array_equal(before_S, joined_S):
            return joined_S


def _read_site(task: Task, features: Features, sites: Column, seed: int) -> dict[str, Any]:
    """Can the site be read from the embedding? AUROC of a linear probe, one site against the rest, 0.5: it cannot."""
    names = [str(site) for site in sites]
    common = sorted(
        n for n in set(names) - {"None"} if len({g for g, s in zip(task.group_S, names, strict=True) if s == n}) >= LEAST
    )
    rows = np.flatnonzero([name in common for name in names])
    if len(common) < 2:
        raise UserError(f"fewer than two sites with {LEAST} groups")
    target = Target.of_classes(np.array([common.index(names[i]) for i in rows], dtype=np.int64), tuple(common))
    splits = cross_validation(target, task.group_S[rows], min(5, LEAST), seed=seed)
    tested_T, scores = out_of_fold(features[rows], target, task.group_S[rows], splits, fit_linear, seed=seed)
    return {"sites": len(common)} | _summary("auroc", scores, task.group_S[rows][tested_T], seed)


def subgroups(task: Task, scores: Sequence[Scores], tested_T: Ints, *, seed: int) -> list[dict[str, Any]]:
    """The task's metric within each sex, age band, site and scanner that has enough units, with intervals; small ones named."""
    found = []
    for name, column in task.covariates.items():
        labels = [_band(column[i]) if name == "age" else column[i] for i in tested_T]
        for value in sorted({label for label in labels if label is not None}, key=str):
            rows = np.flatnonzero([label == value for label in labels])
            part = [one[rows] for one in scores]
            line: dict[str, Any] = {"column": name, "value": str(value), "n": len(rows)}
            if _is_large(part[0].target):
                methods = [partial(measure, task.spec.metric, one) for one in part]
                drawn = Resamples.draw(task.group_S[tested_T[rows]], seed=seed, count=RESAMPLES)
                value_R = [float(method(None)[0]) for method in methods]
                line |= {task.spec.metric: float(np.mean(value_R)), "interval": interval(drawn.values(methods))}
            found.append(line)
    return found


def _is_large(target: Target) -> bool:
    """Whether there are enough units, and of every class, for an interval."""
    of_class = np.bincount(target.labels, minlength=target.outputs) if target.classes else np.array([len(target)])
    return len(target) >= LEAST_OF_A_SUBGROUP and int(of_class.min()) >= LEAST_OF_A_CLASS


def _band(age: float | None) -> str | None:
    if age is None:
        return None
    upper = next(i for i, edge in enumerate(AGE_BANDS) if age < edge or i == len(AGE_BANDS) - 1)
    return f"{AGE_BANDS[upper - 1]}–{AGE_BANDS[upper] - 1}" if upper < len(AGE_BANDS) - 1 else f"{AGE_BANDS[-2]}+"


def audit(pipeline: Pipeline, target: Target, splits: Sequence[Split], *, seed: int) -> None:
    """Find a pipeline that looks at test labels: it runs again with those of one test part shuffled, which may change nothing.

    Args:
        pipeline: all of it, from labels to scores; it is free to choose anything by them.
        target: the true labels.
        splits: that the pipeline uses.
        seed: keys the shuffle.

    Raises:
        UserError: scores of the test part moved.
    """
    test = splits[0].test
    order_S = np.arange(len(target))
    order_S[test] = np.roll(test[drawer(seed, Draw.AUDIT).permutation(len(test))], 1)
    spoilt = target[order_S]
    if np.array_equal(spoilt.value_S, target.value_S):  # a shuffle that changes no label proves nothing
        order_S[test] = test[np.argsort(target.value_S[test], kind="stable")][::-1]
        spoilt = target[order_S]
    (tested_T, honest), (_, other) = pipeline(target), pipeline(spoilt)
    rows = np.isin(tested_T, test)
    if not all(np.array_equal(getattr(honest, n)[rows], getattr(other, n)[rows]) for n in ("score_SK", "balanced_S", "f1_S")):
        raise UserError("scores of a test part changed with its labels: something was chosen on test data; mend the pipeline")


def covariate_report(task: Task) -> Mapping[str, str]:
    """What of the covariates is absent or incomplete, by name."""
    report = {}
    for name in ("age", "sex", "site", "scanner"):
        column = getattr(task.spec.covariates, name)
        if name not in task.covariates:
            report[name] = f"'{column}' is the label" if column == task.spec.label else f"no column '{column}'"
        elif missing := sum(value is None for value in task.covariates[name]):
            report[name] = f"'{column}' is missing for {missing} of {len(task.target)} units"
    return report
