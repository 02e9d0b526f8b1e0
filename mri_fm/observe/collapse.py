"""Signs of representational collapse, on features of a fixed batch.

Axes: N volumes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def feature_std(features_ND: Tensor) -> Tensor:
    """Mean over the width of the standard deviation over volumes; 0 when all volumes look the same to the encoder.

    Args:
        features_ND: at least two volumes' pooled features.

    Returns:
        A float32 scalar in feature units.
    """
    return features_ND.float().std(dim=0).mean()


def rankme(features_ND: Tensor, epsilon: float = 1e-7) -> Tensor:
    """RankMe: the exponential of the entropy of the normalised singular values (Garrido et al., ICML 2023, eq. 1-2).

    Args:
        features_ND: pooled features, not centred.
        epsilon: added to each normalised singular value.

    Returns:
        A float32 scalar between 1 (one direction) and min(N, D).
    """
    singular = torch.linalg.svdvals(features_ND.float())
    share = singular / singular.sum().clamp_min(epsilon) + epsilon
    return torch.exp(-(share * share.log()).sum())
