"""Signs of representational collapse, on features of a fixed batch.

Collapse is complete (all volumes look the same: `feature_std` falls to 0) or dimensional (features live in few directions: the
ranks fall while `feature_std` may stay). All ranks are scale-free, so that of noise around a constant is high: read them beside
`feature_std`. No value is read on the host.

Axes: N volumes, Q views of a volume, T tokens, D width, K min(N, D).
"""

from __future__ import annotations

import torch
from torch import Tensor

_FLOOR = 1e-10  # an eigenvalue below this share of the first is rounding


def feature_std(features_ND: Tensor) -> Tensor:
    """Mean over the width of the standard deviation over volumes; 0 when all volumes look the same to the encoder.

    Args:
        features_ND: at least two volumes' pooled features.

    Returns:
        A float32 scalar in feature units.
    """
    return features_ND.float().std(dim=0).mean()


def dimension_std(features_ND: Tensor) -> dict[str, Tensor]:
    """The spread over the width of what `feature_std` is the mean of: dead features show in the least.

    Source: the standard deviation per dimension of SimSiam (Chen & He, CVPR 2021, §4.1), here without its l2 normalisation.

    Returns:
        "feature_std_min", "feature_std_median", "feature_std_max": float32 scalars in feature units.
    """
    std_D = features_ND.float().std(dim=0)
    return {"feature_std_min": std_D.min(), "feature_std_median": std_D.median(), "feature_std_max": std_D.max()}


def rankme(features_ND: Tensor, epsilon: float = 1e-7) -> Tensor:
    """RankMe: the exponential of the entropy of the normalised singular values (Garrido et al., ICML 2023, eq. 1-2).

    Args:
        features_ND: pooled features, not centred.
        epsilon: added to each normalised singular value.

    Returns:
        A float32 scalar between 1 (one direction) and min(N, D).
    """
    return _entropy_rank(torch.linalg.svdvals(features_ND.float()), epsilon)


def effective_rank(features_ND: Tensor, epsilon: float = 1e-7) -> Tensor:
    """The same of centred features: how many directions the volumes differ in (Roy & Vetterli, EUSIPCO 2007).

    The mean, which all volumes share, is often the largest direction of RankMe; here it does not count.

    Returns:
        A float32 scalar between 1 and min(N − 1, D).
    """
    return _entropy_rank(torch.linalg.svdvals(_centred(features_ND)), epsilon)


def alpha_req(features_ND: Tensor) -> Tensor:
    """α-ReQ: α of the power law λ_i ∝ i^(−α) fitted to the eigenvalues of the features' covariance.

    Agrawal et al., NeurIPS 2022: near 1 is healthy; far above it, few directions carry all; near 0, features are white noise.
    The fit is least squares of log λ on log i over i = 1 … min(N − 1, D), eigenvalues below 1e-10 of the first raised to that.

    Args:
        features_ND: at least three volumes' pooled features.

    Returns:
        A float32 scalar.
    """
    eigenvalue_K = torch.linalg.svdvals(_centred(features_ND)).square()[: len(features_ND) - 1]
    largest = eigenvalue_K[0].clamp_min(torch.finfo(torch.float32).tiny)
    y_K = (eigenvalue_K / largest).clamp_min(_FLOOR).log()
    x_K = torch.arange(1, len(y_K) + 1, device=y_K.device, dtype=torch.float32).log()
    x_K, y_K = x_K - x_K.mean(), y_K - y_K.mean()
    return -(x_K * y_K).sum() / x_K.square().sum()


def lidar(views_NQD: Tensor, delta: float = 1e-4, epsilon: float = 1e-7) -> Tensor:
    """LiDAR: the effective rank of what tells volumes apart beside what tells views of one volume apart.

        Σ_b = mean over n of (μ_n − μ)(μ_n − μ)ᵀ,  Σ_w = mean over n, q of (z_nq − μ_n)(z_nq − μ_n)ᵀ + δI
        LiDAR = exp(entropy of the normalised eigenvalues of Σ_w^(−1/2) Σ_b Σ_w^(−1/2))

    Thilak et al., ICLR 2024, §3. Features that follow the mask and not the volume count for little, which RankMe does not see.

    Args:
        views_NQD: pooled features of Q views (here: masks) of each volume.
        delta: the paper's δ, in squared feature units.
        epsilon: added to each normalised eigenvalue.

    Returns:
        A float32 scalar between 1 and min(N − 1, D).
    """
    mean_ND = views_NQD.float().mean(dim=1)
    residual_MD = (views_NQD.float() - mean_ND[:, None]).flatten(0, 1)
    within_DD = residual_MD.T @ residual_MD / len(residual_MD)
    within_DD.diagonal().add_(delta)
    # Σ_w = L Lᵀ: L⁻¹ Σ_b L⁻ᵀ has the eigenvalues asked for, the squared singular values of L⁻¹ (μ_n − μ) / √N.
    lower_DD, _ = torch.linalg.cholesky_ex(within_DD)
    told_DN = torch.linalg.solve_triangular(lower_DD, _centred(mean_ND).T, upper=False)
    return _entropy_rank(torch.linalg.svdvals(told_DN).square(), epsilon)


def cosine(student_BTD: Tensor, teacher_BTD: Tensor) -> Tensor:
    """Mean over tokens of the cosine between the student's and the teacher's features of the same whole volume, float32 (B,).

    Near 1 the teacher says what the student says; 1 throughout is a teacher that follows too fast (momentum too low) or
    features that have collapsed (BYOL, Grill et al., NeurIPS 2020, §5, on slow targets).
    """
    return torch.nn.functional.cosine_similarity(student_BTD.float(), teacher_BTD.float(), dim=2).mean(dim=1)


def _centred(features_ND: Tensor) -> Tensor:
    features_ND = features_ND.float()
    return features_ND - features_ND.mean(dim=0)


def _entropy_rank(spectrum_K: Tensor, epsilon: float) -> Tensor:
    share_K = spectrum_K / spectrum_K.sum().clamp_min(epsilon) + epsilon
    return torch.exp(-(share_K * share_K.log()).sum())
