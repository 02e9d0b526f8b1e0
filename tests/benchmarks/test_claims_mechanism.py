"""What each spectral mode rewards and what it cannot see, on one real head with a texture of known statistics."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture(scope="module")
def losses():
    """By (blur, texture): the losses of a head of 48³ voxels by mode and reconstruction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        from claims.heads import load_heads
        from claims.mechanism import DOSES, score
        from claims.reconstructions import reconstruct

        (head,) = load_heads(None, side=48, spacing=2.0, most=1)
        return {(dose.blur, dose.std): score(reconstruct(head, dose, seed=0)) for dose in DOSES}


def test_the_truth_scores_0_in_every_mode(losses):
    assert max(values["perfect"] for by_mode in losses.values() for values in by_mode.values()) < 1e-12


def test_the_voxel_error_asks_for_the_smooth_guess_or_the_texture_itself(losses):
    for by_mode in losses.values():
        v = by_mode["voxel error"]
        assert v["half locked"] < v["smooth"] < v["half right"] < v["right"]
        assert v["right"] == pytest.approx(v["wrong"], rel=0.1)  # it cannot tell textures apart


def test_log_magnitude_prefers_the_smooth_guess_where_detail_is_known_and_texture_where_it_is_not(losses):
    known, unknown = losses[0.0, 0.2]["log_magnitude"], losses[1.0, 0.5]["log_magnitude"]
    assert known["smooth"] < known["half right"] < known["right"] < known["wrong"]
    assert unknown["right"] < unknown["half right"] < unknown["smooth"] < unknown["wrong"]


@pytest.mark.parametrize("mode", ["complex", "phase_aware"])
def test_modes_that_see_the_phase_never_reward_a_texture_that_only_looks_right(losses, mode):
    for by_mode in losses.values():
        v = by_mode[mode]
        assert v["half locked"] < v["smooth"] < v["half right"] < v["right"] < v["wrong"]
        assert v["shifted"] > 0.5 * v["smooth"]


@pytest.mark.parametrize("mode", ["log_magnitude", "magnitude"])
def test_magnitudes_cannot_see_a_shift(losses, mode):
    assert max(by_mode[mode]["shifted"] for by_mode in losses.values()) < 1e-12


def test_radial_log_power_orders_textures_by_their_statistics(losses):
    for by_mode in losses.values():
        v = by_mode["radial_log_power"]
        assert v["right"] < v["half right"] < v["smooth"]
        assert v["right"] < v["half wrong"] < v["wrong"]
        assert v["half locked"] < v["smooth"]


def test_the_gradient_of_log_magnitude_is_tens_of_times_that_of_voxels_and_nearly_orthogonal():
    from claims.heads import load_heads
    from claims.mechanism import DOSES, pulls
    from claims.reconstructions import reconstruct

    (head,) = load_heads(None, side=48, spacing=2.0, most=1)
    case = reconstruct(head, DOSES[-1], seed=0)
    by_mode = pulls(case.mosaics["smooth"], case)
    assert by_mode["log_magnitude"][0] > 20
    assert abs(by_mode["log_magnitude"][1]) < 0.1
    assert by_mode["complex"][1] > 0.6  # it is a high-passed voxel error
