import numpy as np
import pytest
import torch

from mri_fm.observe.collapse import feature_std, rankme


def reference_rankme(features: np.ndarray, epsilon: float = 1e-7) -> float:
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = singular / singular.sum() + epsilon
    return float(np.exp(-(share * np.log(share)).sum()))


def test_rankme_equals_the_float64_reference():
    features = np.random.default_rng(0).normal(size=(20, 48)).astype(np.float32)
    assert float(rankme(torch.from_numpy(features))) == pytest.approx(reference_rankme(features), rel=1e-5)


def test_healthy_features_have_full_rank_and_collapsed_ones_rank_one():
    healthy = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(64, 16)))[0].T).float()
    assert float(rankme(healthy)) == pytest.approx(16, rel=1e-3)
    collapsed = torch.ones(16, 64) + 1e-6 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    assert float(rankme(collapsed)) == pytest.approx(1, abs=0.01)
    assert float(feature_std(collapsed)) < 1e-4


def test_feature_std_ignores_the_mean():
    features = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    assert float(feature_std(features + 100)) == pytest.approx(float(feature_std(features)), rel=1e-4)
    assert float(feature_std(3 * features)) == pytest.approx(3 * float(feature_std(features)), rel=1e-4)
