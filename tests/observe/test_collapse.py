"""Each metric against a float64 reference, and on a healthy and a collapsed case that are built to be so."""

import numpy as np
import pytest
import torch

from mri_fm.observe.collapse import alpha_req, cosine, dimension_std, effective_rank, feature_std, lidar, rankme


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def entropy_rank(spectrum: np.ndarray, epsilon: float = 1e-7) -> float:
    share = spectrum / spectrum.sum() + epsilon
    return float(np.exp(-(share * np.log(share)).sum()))


def reference_rankme(features: np.ndarray) -> float:
    return entropy_rank(np.linalg.svd(features.astype(np.float64), compute_uv=False))


def reference_effective_rank(features: np.ndarray) -> float:
    return reference_rankme(features - features.astype(np.float64).mean(axis=0))


def reference_alpha(features: np.ndarray) -> float:
    eigenvalues = np.linalg.eigvalsh(np.cov(features.astype(np.float64), rowvar=False))[::-1]
    count = min(len(features) - 1, features.shape[1])
    kept = np.maximum(eigenvalues[:count] / eigenvalues[0], 1e-10)
    return -float(np.polyfit(np.log(np.arange(1, count + 1)), np.log(kept), 1)[0])


def reference_lidar(views: np.ndarray, delta: float = 1e-4) -> float:
    views = views.astype(np.float64)
    n, q, d = views.shape
    means = views.mean(axis=1)
    between = np.cov(means, rowvar=False, bias=True)
    residual = (views - means[:, None]).reshape(n * q, d)
    values, vectors = np.linalg.eigh(residual.T @ residual / (n * q) + delta * np.eye(d))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    spectrum = np.linalg.eigvalsh(root @ between @ root)[::-1]
    return entropy_rank(np.maximum(spectrum, 0)[: min(n, d)])


@pytest.mark.parametrize("shape", [(20, 48), (48, 20)])
@pytest.mark.parametrize(
    ("metric", "reference"),
    [(rankme, reference_rankme), (effective_rank, reference_effective_rank), (alpha_req, reference_alpha)],
)
def test_ranks_equal_the_float64_reference(metric, reference, shape):
    features = draw(*shape) * np.linspace(0.1, 2, shape[1], dtype=np.float32) + 1
    assert float(metric(torch.from_numpy(features))) == pytest.approx(reference(features), rel=1e-4)


@pytest.mark.parametrize("shape", [(20, 4, 48), (48, 4, 20)])
def test_lidar_equals_the_float64_reference(shape):
    views = draw(shape[0], 1, shape[2]) + 0.3 * draw(*shape, seed=1)
    assert float(lidar(torch.from_numpy(views))) == pytest.approx(reference_lidar(views), rel=1e-4)


def test_healthy_features_have_full_rank_and_collapsed_ones_rank_one():
    healthy = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(64, 16)))[0].T).float()
    assert float(rankme(healthy)) == pytest.approx(16, rel=1e-3)
    collapsed = torch.ones(16, 64) + 1e-6 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    assert float(rankme(collapsed)) == pytest.approx(1, abs=0.01)
    assert float(feature_std(collapsed)) < 1e-4


def test_what_all_volumes_share_hides_the_rank_from_rankme_alone():
    features = torch.from_numpy(draw(32, 16)) + 1000
    assert float(rankme(features)) < 1.5
    assert float(effective_rank(features)) > 13
    line = torch.from_numpy(draw(32, 1) * draw(1, 16, seed=1))
    assert float(effective_rank(line)) == pytest.approx(1, abs=0.01)


def test_alpha_finds_the_power_law_and_is_steep_for_one_direction():
    orthonormal = np.linalg.qr(draw(200, 32) - draw(200, 32).mean(axis=0))[0]
    for alpha in (0.5, 1.0, 2.0):
        features = torch.from_numpy(orthonormal * np.arange(1, 33) ** (-alpha / 2)).float()
        assert float(alpha_req(features)) == pytest.approx(alpha, rel=0.05)
    assert float(alpha_req(torch.from_numpy(draw(32, 1) * draw(1, 16, seed=1)))) > 4


def test_lidar_falls_where_views_differ_more_than_volumes():
    """Volumes differ in all directions; then all but one of these are drowned by what the mask does."""
    volumes, masks = draw(64, 1, 16), draw(64, 4, 16, seed=1)
    healthy = float(lidar(torch.from_numpy(volumes + 0.01 * masks)))
    drowned = 100 * masks
    drowned[..., 0] = 0
    assert healthy > 12
    assert float(lidar(torch.from_numpy(volumes + drowned))) < 1.1
    assert float(rankme(torch.from_numpy((volumes + drowned).mean(axis=1)))) > 10  # which RankMe does not see


def test_feature_std_ignores_the_mean():
    features = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    assert float(feature_std(features + 100)) == pytest.approx(float(feature_std(features)), rel=1e-4)
    assert float(feature_std(3 * features)) == pytest.approx(3 * float(feature_std(features)), rel=1e-4)


def test_a_dead_dimension_shows_in_the_least():
    features = draw(32, 9)
    features[:, 3] = 5
    spread = {name: float(value) for name, value in dimension_std(torch.from_numpy(features)).items()}
    std = np.sort(features.astype(np.float64).std(axis=0, ddof=1))
    assert list(spread.values()) == pytest.approx([std[0], std[4], std[8]], abs=1e-6)
    assert spread["feature_std_min"] == 0


def test_the_cosine_of_student_and_teacher():
    student, teacher = draw(3, 5, 8), draw(3, 5, 8, seed=1)
    product = (student * teacher).sum(axis=2) / np.linalg.norm(student, axis=2) / np.linalg.norm(teacher, axis=2)
    found = cosine(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.tolist() == pytest.approx(product.mean(axis=1).tolist(), abs=1e-6)
    assert cosine(torch.from_numpy(student), torch.from_numpy(2 * student)).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
