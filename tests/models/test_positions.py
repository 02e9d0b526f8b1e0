import numpy as np
import pytest
import torch

from mri_fm.models.positions import Rope, RotaryPositions, Rotation, sincos_positions

GRID, PATCH = (3, 4, 5), (8, 8, 8)
N = 60


@pytest.mark.parametrize("width", [1, 48, 192, 384, 1408, 1664])
def test_position_table_has_any_width_and_tells_all_positions_apart(width):
    table_ND = sincos_positions(width, GRID)
    assert table_ND.shape == (N, width)
    assert table_ND.dtype == torch.float32
    assert table_ND.abs().max() <= 1
    if width >= 48:
        distance = torch.cdist(table_ND.double(), table_ND.double()) + 9 * torch.eye(N)
        assert distance.min() > 0.1


def sincos_row(coordinates: tuple[float, float, float]) -> list[float]:
    phases = [c * 10000.0 ** (-k / 4) for c in coordinates for k in range(4)]
    return [wave for phase in phases for wave in (np.sin(phase), np.cos(phase))]


def test_position_table_equals_the_formula_in_float64():
    table_ND = sincos_positions(24, (2, 3, 20))
    np.testing.assert_allclose(table_ND[-1].numpy(), sincos_row((1, 2, 19)), atol=1e-7)


def test_another_grid_covers_the_same_field_of_view():
    table_ND = sincos_positions(24, (4, 3, 10), trained=(2, 3, 20))
    z, y, x = 3, 1, 2
    np.testing.assert_allclose(table_ND[(z * 3 + y) * 10 + x].numpy(), sincos_row((1.25, 1, 4.5)), atol=1e-6)


def test_the_table_is_not_shared():
    sincos_positions(24, GRID).zero_()
    assert sincos_positions(24, GRID).abs().max() > 0


def rotary(head_width: int = 16, grid=GRID, patch=PATCH, spacing: bool = False) -> RotaryPositions:
    return RotaryPositions(head_width, Rope(100.0, spacing), grid, patch)


def rotation(positions: RotaryPositions, index_BT=None, grid=None, spacing_B3=None, dtype=torch.float64, batch=1) -> Rotation:
    tokens = torch.zeros(batch, 1, 1, dtype=dtype)
    placed, turned = positions(tokens, index_BT, grid or positions.grid, spacing_B3)
    assert placed is tokens
    return turned


def test_rotation_equals_complex_multiplication_in_float64():
    width, pairs = 16, 6
    x = torch.randn(1, 1, N, width, dtype=torch.float64)
    turned = rotation(rotary(width)).turn(x)
    coordinates = torch.tensor(list(np.ndindex(*GRID)), dtype=torch.float64)
    omega = torch.tensor([1.0, 100.0 ** (-1 / 2)], dtype=torch.float64)
    angle = (coordinates[:, :, None] * omega).reshape(N, pairs)
    expected = torch.complex(x[..., :pairs], x[..., pairs : 2 * pairs]) * torch.exp(1j * angle)
    torch.testing.assert_close(turned[..., :pairs], expected.real, rtol=0, atol=1e-12)
    torch.testing.assert_close(turned[..., pairs : 2 * pairs], expected.imag, rtol=0, atol=1e-12)
    assert turned[..., 12:].equal(x[..., 12:])  # 2·⌊16/6⌋ features for each of three axes turn, four stay


def test_scores_depend_on_coordinate_differences_only():
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64).expand(2, 1, 1, N, 32)
    turn = rotation(rotary(32)).turn
    scores = (turn(q) @ turn(k).transpose(2, 3))[0, 0].reshape(*GRID, *GRID)
    torch.testing.assert_close(scores[:2, :3, :4, :2, :3, :4], scores[1:, 1:, 1:, 1:, 1:, 1:], rtol=0, atol=1e-12)
    for axis in range(3):
        step = tuple(int(a == axis) for a in range(3))
        assert (scores[0, 0, 0][step] - scores[0, 0, 0, 0, 0, 0]).abs() > 1e-3
        assert (scores[0, 0, 0][step] - scores[step][0, 0, 0]).abs() > 1e-3  # and on their sign


def test_chosen_tokens_keep_their_angles():
    index_BT = torch.tensor([[0, 7, 59], [3, 4, 5]])
    every, chosen = rotation(rotary()), rotation(rotary(), index_BT)
    for sample in range(2):
        assert chosen.cos_B1TP[sample, 0].equal(every.cos_B1TP[0, 0, index_BT[sample]])
        assert chosen.sin_B1TP[sample, 0].equal(every.sin_B1TP[0, 0, index_BT[sample]])


def test_registers_are_not_turned():
    x = torch.randn(1, 1, N + 2, 16, dtype=torch.float64)
    turned = rotation(rotary()).with_registers(2).turn(x)
    assert turned[:, :, :2].equal(x[:, :, :2])
    assert turned[:, :, 2:].equal(rotation(rotary()).turn(x[:, :, 2:]))


def test_another_grid_interpolates_the_angles():
    fine = rotation(rotary(grid=(2, 2, 2)), grid=(4, 2, 2))
    angle = torch.atan2(fine.sin_B1TP, fine.cos_B1TP)[0, 0, ::4, 0]
    torch.testing.assert_close(angle, torch.tensor([-0.25, 0.25, 0.75, 1.25], dtype=torch.float64), rtol=0, atol=1e-12)


def test_spacing_puts_coordinates_in_millimetres():
    thick, fine = torch.tensor([[4.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).double(), rotary(patch=(2, 8, 8), spacing=True)
    turned = rotation(fine, spacing_B3=thick, batch=2)
    plain, same = rotation(rotary()), rotation(rotary(spacing=True), spacing_B3=thick[1:])
    torch.testing.assert_close(turned.cos_B1TP[:1], plain.cos_B1TP, rtol=0, atol=1e-12)  # 2 voxels of 4 mm = 8 of 1 mm
    torch.testing.assert_close(same.sin_B1TP, plain.sin_B1TP, rtol=0, atol=1e-12)
    torch.testing.assert_close(turned.cos_B1TP[1, 0, -1, 0], torch.tensor(2 * 2 / 8).double().cos(), rtol=0, atol=1e-12)
    chosen = rotation(fine, torch.tensor([[59], [59]]), spacing_B3=thick, batch=2)
    assert chosen.cos_B1TP[:, :, 0].equal(turned.cos_B1TP[:, :, 59])


def test_positions_that_count_in_patches_do_not_look_at_the_spacing():
    assert rotation(rotary(), spacing_B3=torch.full((1, 3), 2.0)).cos_B1TP.equal(rotation(rotary()).cos_B1TP)


def test_positions_that_cannot_be_computed_are_refused():
    with pytest.raises(ValueError, match="a row of z, y, x each, not one of shape"):
        rotation(rotary(spacing=True), spacing_B3=torch.ones(3), batch=2)
    with pytest.raises(ValueError, match="not none"):
        rotation(rotary(spacing=True), batch=2)
    with pytest.raises(ValueError, match="at least 6"):
        rotary(5)


def test_angles_are_not_rounded_with_bf16_weights():
    positions = rotary(16, grid=(1, 1, 200)).to(torch.bfloat16)
    x = torch.randn(1, 1, 200, 16).to(torch.bfloat16)
    turned = rotation(positions, dtype=torch.bfloat16).turn(x)
    exact = rotation(positions, dtype=torch.float64).turn(x.double())
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.double(), exact, rtol=2**-8, atol=1e-3)
