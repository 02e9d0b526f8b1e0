import numpy as np
import pytest
import torch
from scipy import stats

from mri_fm.config import ArtefactConfig
from mri_fm.data.artefacts import Artefacts, draw_artefacts
from mri_fm.data.kspace import add_artefacts
from mri_fm.data.noise import Scan, acquire_
from mri_fm.rng import Stream, normal

SHAPE = (16, 20, 24)
SPACING = (3.0, 0.8, 1.1)
PLAIN = Scan(0.0, False, Artefacts(), SPACING)
AIR = torch.tensor([-1.5, -0.5])


def batch(scan: Scan, level: float = 0.0) -> torch.Tensor:
    x_BCZYX = torch.full((2, 1, *SHAPE), level)
    acquire_(x_BCZYX, AIR, [scan, PLAIN], torch.tensor([5, 6]), seed=3)
    return x_BCZYX


def test_gaussian_noise_is_the_counter_based_draw_of_its_position() -> None:
    x_BCZYX = batch(Scan(0.2, False, Artefacts(), SPACING))
    expected = 0.2 * normal(3, Stream.NOISE, torch.tensor([5]), x_BCZYX[0].numel())
    assert (x_BCZYX[0].flatten() - expected).abs().max() < 1e-7
    assert not x_BCZYX[1].any()


@pytest.mark.parametrize("signal", [0.0, 0.1, 1.5])
def test_rician_noise_has_the_distribution_of_a_magnitude(signal: float) -> None:
    deviation = 0.3
    x_CZYX = batch(Scan(deviation, True, Artefacts(), SPACING), level=signal + AIR[0].item())[0]
    magnitude = (x_CZYX - AIR[0]).flatten().numpy()
    assert magnitude.min() >= 0
    assert stats.kstest(magnitude, stats.rice(signal / deviation, scale=deviation).cdf).pvalue > 0.01


def test_artefacts_work_on_the_intensity_above_air() -> None:
    config = ArtefactConfig(motion=1, ghosting=1, spike=1, anisotropy=1)
    scan = Scan(0.0, False, draw_artefacts(config, seed=1, position=2), SPACING)
    x_CZYX = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32))
    alone, pair = x_CZYX[None].clone(), torch.stack([x_CZYX, x_CZYX])
    acquire_(alone, AIR[:1], [scan], torch.tensor([5]), seed=3)
    acquire_(pair, AIR, [scan, PLAIN], torch.tensor([5, 6]), seed=3)
    assert alone[0].equal(pair[0])
    assert pair[1].equal(x_CZYX)
    expected = add_artefacts(x_CZYX[0] - AIR[0], scan.artefacts, SPACING) + AIR[0]
    assert alone[0, 0].equal(expected)
    assert (alone[0] - x_CZYX).abs().max() > 0.1
