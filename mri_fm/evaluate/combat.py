"""ComBat harmonisation of features over sites (Johnson, Li & Rabinovic, Biostatistics 2007), learned on training units alone.

Each feature is a mean, an effect of covariates that is kept, and an additive and a multiplicative effect of the site. The
sites' effects are shrunk to what the sites have in common (empirical Bayes) and taken away. Nothing here sees a label, and
what a test unit is given was estimated without it.

Axes: S units, F features, C covariates, I sites.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mri_fm.evaluate.target import Floats, Ints

ITERATIONS = 30


@dataclass(frozen=True, eq=False)
class ComBat:
    """Fitted effects; sites are numbers 0…I-1, in the order of training."""

    coefficient_CF: Floats  # the mean's is the first
    deviation_F: Floats
    shift_IF: Floats
    scale_IF: Floats

    @classmethod
    def fit(cls, feature_SF: Floats, site_S: Ints, covariate_SC: Floats) -> ComBat:
        """Estimate the effects.

        Args:
            feature_SF: of training units.
            site_S: their sites, 0…I-1; each has at least two units.
            covariate_SC: what is kept, for instance age and sex; (S, 0) keeps nothing but the mean.
        """
        sites = int(site_S.max()) + 1
        site_SI = np.eye(sites)[site_S]
        share_I = site_SI.mean(axis=0)
        design = np.concatenate([site_SI, covariate_SC - covariate_SC.mean(axis=0)], axis=1)
        effect, *_ = np.linalg.lstsq(design, feature_SF, rcond=None)
        mean_F, slope_CF = share_I @ effect[:sites], effect[sites:]
        deviation_F = np.sqrt(np.maximum(((feature_SF - design @ effect) ** 2).mean(axis=0), 1e-12))
        coefficient_CF = np.concatenate([(mean_F - covariate_SC.mean(axis=0) @ slope_CF)[None], slope_CF])
        standard_SF = (feature_SF - _expected(coefficient_CF, covariate_SC)) / deviation_F
        shrunk = [_shrink(standard_SF[site_S == site]) for site in range(sites)]
        shift_IF, scale_IF = (np.stack(parts) for parts in zip(*shrunk, strict=True))
        return cls(coefficient_CF, deviation_F, shift_IF, scale_IF)

    def apply(self, feature_SF: Floats, site_S: Ints, covariate_SC: Floats) -> Floats:
        """Features without the effect of their site; a site that training had not (-1) keeps them as they are."""
        expected_SF = _expected(self.coefficient_CF, covariate_SC)
        standard_SF = (feature_SF - expected_SF) / self.deviation_F
        adjusted_SF = (standard_SF - self.shift_IF[site_S]) / self.scale_IF[site_S]
        return np.where(site_S[:, None] >= 0, adjusted_SF * self.deviation_F + expected_SF, feature_SF)


def _expected(coefficient_CF: Floats, covariate_SC: Floats) -> Floats:
    return coefficient_CF[0] + covariate_SC @ coefficient_CF[1:]


def _shrink(standard_SF: Floats) -> tuple[Floats, Floats]:
    """Posterior means of one site's shift and scale, (F,): normal and inverse-gamma priors fitted over the features."""
    count = len(standard_SF)
    raw_shift_F, raw_variance_F = standard_SF.mean(axis=0), standard_SF.var(axis=0, ddof=1)
    prior_mean, prior_variance = raw_shift_F.mean(), max(float(raw_shift_F.var()), 1e-12)
    center, spread = float(raw_variance_F.mean()), max(float(raw_variance_F.var()), 1e-12)
    shape, rate = 2 + center**2 / spread, center + center**3 / spread  # by the method of moments
    shift_F, variance_F = raw_shift_F, np.maximum(raw_variance_F, 1e-12)
    for _ in range(ITERATIONS):  # the two conditional posteriors depend on each other
        shift_F = (count * prior_variance * raw_shift_F + variance_F * prior_mean) / (count * prior_variance + variance_F)
        square_F = ((standard_SF - shift_F) ** 2).sum(axis=0)
        variance_F = (rate + square_F / 2) / (count / 2 + shape - 1)
    return shift_F, np.sqrt(variance_F)
