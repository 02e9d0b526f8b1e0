"""Whether features are collapsed: ranks beside the spread over volumes, which no rank sees, and the spectrum of the covariance.

Axes: N volumes, T tokens, D width, K min(N, D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mri_fm.observe.collapse import effective_rank, feature_std, rankme

Spread = dict[str, list[float]]


def spread_of(features_ND: Tensor) -> Spread:
    """Of pooled features: RankMe, effective rank, standard deviation over volumes, and the covariance's eigenvalues.

    Eigenvalues are in descending order, K of them, in squared feature units. The norm is that of the mean feature: what RankMe,
    which does not centre, sees beside the spread.
    """
    features_ND = features_ND.float()
    centred_ND = features_ND - features_ND.mean(dim=0)
    eigenvalue_K = torch.linalg.svdvals(centred_ND.double()).square() / (len(features_ND) - 1)
    return {
        "rankme": [float(rankme(features_ND))],
        "effective_rank": [float(effective_rank(features_ND))],
        "std": [float(feature_std(features_ND))],
        "mean_norm": [float(features_ND.mean(dim=0).norm())],
        "eigenvalues": eigenvalue_K.tolist(),
    }


def directions_for(eigenvalue_K: list[float], share: float) -> int:
    """How many directions carry this share of the variance."""
    energy_K = torch.tensor(eigenvalue_K, dtype=torch.float64).cumsum(0)
    return int((energy_K < share * energy_K[-1]).sum()) + 1
