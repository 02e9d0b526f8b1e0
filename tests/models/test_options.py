"""The encoder and the heads with the options of `ModelConfig`."""

import pytest
import torch
from torch import nn

from mri_fm.config import load_config
from mri_fm.engine.setup import parameter_groups
from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.heads import decoder, predictor
from mri_fm.models.layers import drop_path_gates
from mri_fm.models.vit import VisionTransformer
from mri_fm.objectives import OBJECTIVES

SIZE, PATCH = (8, 12, 16), [4, 4, 8]
GIVEN = ["run.dir=x", "data.corpus=y"]
EVERY = {
    "position": "rope",
    "registers": 3,
    "qk_norm": True,
    "mlp": "swiglu",
    "drop_path": 0.3,
    "layer_scale": 0.5,
}
MILLIMETRES = {"position": "rope", "rope_spacing": True}


def config(**options) -> ModelConfig:
    heads = {"predictor": HeadConfig(24, 2, 3), "decoder": HeadConfig(24, 2, 3)}
    return ModelConfig(**{"width": 24, "depth": 3, "heads": 3, "patch": PATCH, **heads, **options})


def encoder(size=SIZE, **options) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer.from_config(config(**options), size, seed=5)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


PRESETS = ["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge", "vit_giant", "vit_gigantic"]
SWIGLU = {  # 3·D·s + 2·s of every layer less 2·D·h + h, where s = ⅔·h to a multiple of 8
    "vit_tiny": 12 * 256,
    "vit_small": 12 * 512,
    "vit_base": 12 * 1024,
    "vit_large": 24 * (2 * 2728 - 4096 + 1024 * (3 * 2728 - 2 * 4096)),
    "vit_huge": 32 * (2 * 3416 - 5120 + 1280 * (3 * 3416 - 2 * 5120)),
    "vit_giant": 40 * 2048,
    "vit_gigantic": 48 * (2 * 5464 - 8192 + 1664 * (3 * 5464 - 2 * 8192)),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_that_each_option_adds(preset):
    def count(**options) -> int:
        model = load_config("mae", [*GIVEN, f"model={preset}", *(f"model.{k}={v}" for k, v in options.items())]).model
        with torch.device("meta"):
            return parameters(VisionTransformer.from_config(model, (32, 64, 64)))

    model = load_config("mae", [*GIVEN, f"model={preset}"]).model
    width, depth = model.width, model.depth
    plain = count()
    assert count(position="rope", drop_path=0.2) == plain
    assert count(registers=4) - plain == 4 * width
    assert count(qk_norm=True) - plain == 2 * depth * width // model.heads
    assert count(layer_scale=1e-5) - plain == 2 * depth * width
    assert count(mlp="swiglu") - plain == SWIGLU[preset]
    assert abs(SWIGLU[preset]) < 0.002 * plain


def test_parameters_that_options_add_to_the_heads_behind_base():
    def count(*words) -> tuple[int, int]:
        model = load_config("mae", [*GIVEN, "model=vit_base", *words]).model
        with torch.device("meta"):
            behind = VisionTransformer.from_config(model, (32, 64, 64))
            return parameters(predictor(model, behind)), parameters(decoder(model, behind))

    plain = count()
    assert count("model.position=rope", "model.registers=4", "model.drop_path=0.2") == plain
    for word, layer in (
        ("model.qk_norm=true", 2 * 64),
        ("model.layer_scale=1e-5", 2 * 384),
        ("model.mlp=swiglu", 512),
    ):
        assert count(word) == (plain[0] + 6 * layer, plain[1] + 8 * layer)


@pytest.mark.parametrize("options", [{key: value} for key, value in EVERY.items()] + [EVERY])
def test_every_parameter_is_used_and_the_shapes_stay(options):
    model = config(**options)
    student = VisionTransformer.from_config(model, SIZE)
    x, positions = torch.randn(2, 1, *SIZE), torch.arange(2)
    assert student(x, positions_B=positions).shape == (2, 12, 24)
    visible, hidden = torch.tensor([[0, 3, 4], [1, 2, 3]]), torch.tensor([[1, 2, 5], [0, 5, 11]])
    tokens = student(x, visible, positions_B=positions)
    assert tokens.shape == (2, 3, 24)
    heads = [predictor(model, student), decoder(model, student)]
    sum(head(tokens, visible, hidden).square().sum() for head in heads).backward()
    for name, parameter in [(n, p) for module in (student, *heads) for n, p in module.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_rope_sees_where_tokens_lie_to_one_another_and_nothing_else():
    rope, table = encoder(position="rope").double(), encoder().double()
    x = torch.randn(1, 1, 4, 4, 8, dtype=torch.float64).repeat(1, 1, 2, 3, 2)  # all patches are equal, the grid is 2×3×2
    x[:, :, :, 4:8] *= -1
    here, shifted = torch.tensor([[0, 2]]), torch.tensor([[7, 9]])  # y 0 and 1; then one down and one to the right
    torch.testing.assert_close(rope(x, here), rope(x, shifted), rtol=0, atol=1e-12)
    assert (table(x, here) - table(x, shifted)).abs().max() > 1e-3
    turned = torch.tensor([[0, 3]])  # the same patches, of which one lies elsewhere
    assert (rope(x, here) - rope(x, turned)).abs().max() > 1e-6


def test_rope_replaces_the_table_in_the_heads_too():
    model = config(position="rope")
    student = encoder(position="rope")
    head = predictor(model, student).double()
    tokens = torch.randn(1, 2, 24, dtype=torch.float64)
    out = head(tokens, torch.tensor([[0, 1]]), torch.tensor([[2, 3]]))
    shifted = head(tokens, torch.tensor([[6, 7]]), torch.tensor([[8, 9]]))
    torch.testing.assert_close(out, shifted, rtol=0, atol=1e-12)
    assert (out[:, 0] - out[:, 1]).abs().max() > 1e-6


def test_spacing_reaches_the_attention_of_encoder_and_heads():
    student, x = encoder(**MILLIMETRES).double(), torch.randn(2, 1, *SIZE, dtype=torch.float64)
    thick = torch.tensor([[3.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    mixed, one = student(x, spacing_B3=thick), student(x, spacing_B3=torch.ones(2, 3))
    assert (mixed[0] - one[0]).abs().max() > 1e-4
    torch.testing.assert_close(mixed[1], one[1], rtol=0, atol=1e-12)
    head = decoder(config(**MILLIMETRES), student).double()
    visible, hidden = torch.tensor([[0, 3]] * 2), torch.tensor([[1, 11]] * 2)
    mixed, one = (head(one[:, :2], visible, hidden, spacing_B3=spacing) for spacing in (thick, torch.ones(2, 3)))
    assert (mixed[0] - one[0]).abs().max() > 1e-6
    torch.testing.assert_close(mixed[1], one[1], rtol=0, atol=1e-12)


def test_registers_take_part_and_stay_out_of_the_output():
    student, x = encoder(registers=3), torch.randn(2, 1, *SIZE)
    before = student(x)
    assert before.shape == (2, 12, 24)
    with torch.no_grad():
        student.register_token[1] = torch.linspace(-1, 1, 24)
    assert (student(x) - before).abs().max() > 1e-4


def test_the_output_is_the_patches_and_not_the_registers():
    with_registers, without, x = encoder(registers=3), encoder(), torch.randn(2, 1, *SIZE)
    without.load_state_dict(with_registers.state_dict(), strict=False)
    for block in [*with_registers.blocks, *without.blocks]:
        nn.init.zeros_(block.attention.out.weight)  # no token hears of another
    torch.testing.assert_close(with_registers(x), without(x), rtol=0, atol=1e-6)


def test_learned_tokens_and_gains_do_not_decay():
    decayed, free = (group["params"] for group in parameter_groups(encoder(**EVERY).named_parameters()))
    assert {p.ndim for p in decayed} == {2}
    tokens = [p for p in free if p.ndim == 2]
    assert [p.shape for p in tokens] == [(3, 24)]
    assert len(decayed) == 1 + 3 * 4  # the embedding, and four products in each layer


@pytest.mark.parametrize("position", ["sincos", "rope"])
@pytest.mark.parametrize("patch", [[8, 8, 8], [4, 8, 8]])
def test_an_encoder_embeds_volumes_of_other_sizes(position, patch):
    student = encoder((32, 64, 64), position=position, patch=patch)
    with torch.no_grad():
        small = student(torch.randn(1, 1, 32, 64, 64))
        assert student(torch.randn(1, 1, 48, 96, 96)).shape == (1, 48 // patch[0] * 144, 24)
        assert student(torch.randn(1, 1, 16, 40, 64), torch.tensor([[0, 9]])).shape == (1, 2, 24)
    assert small.shape == (1, 32 // patch[0] * 64, 24)


def test_positions_of_another_size_lie_in_the_trained_field_of_view():
    """A volume of constant patches, cut twice as finely along x: the middle two tokens of the fine one enclose the coarse."""
    student = encoder((4, 4, 24), patch=[4, 4, 8]).double()
    flat = torch.zeros(1, 1, 4, 4, 48, dtype=torch.float64)
    placed = []
    student.blocks[0].register_forward_pre_hook(lambda block, arguments: placed.append(arguments[0]))
    student(flat), student(flat[..., :24])
    fine, coarse = placed
    sine = 16  # the sine of x at frequency 1 in a table of 24 features
    angle = torch.arcsin((fine - student.embedding.bias)[0, :2, sine])
    torch.testing.assert_close(angle, torch.tensor([-0.25, 0.25], dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.arcsin(coarse[0, 1, sine]), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_heads_follow_to_other_sizes(position):
    model, student = config(position=position), encoder(position=position)
    head = decoder(model, student).double()
    larger = encoder((8, 12, 32), position=position)
    grown = decoder(model, larger).double()
    grown.load_state_dict(head.state_dict())
    visible, hidden, tokens = torch.tensor([[0, 9]]), torch.tensor([[5, 20]]), torch.randn(1, 2, 24, dtype=torch.float64)
    out = head(tokens, visible, hidden, grid=larger.grid)
    assert out.shape == (1, 2, 128)
    assert (out - grown(tokens, visible, hidden)).abs().max() > 1e-6  # which counts in patches of its own, finer grid


def test_drop_path_does_not_depend_on_the_batch_around_a_sample():
    student, x = encoder(**EVERY).double(), torch.randn(4, 1, *SIZE, dtype=torch.float64)
    positions = torch.tensor([3, 11, 0, 1 << 33])
    together = student(x, positions_B=positions)
    for row in range(4):
        alone = student(x[row : row + 1], positions_B=positions[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)
    assert (student(x, positions_B=positions + 1) - together).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mae", "jepa"])
def test_each_layer_of_the_student_has_its_own_gates_of_the_runs_seed(name):
    objective = OBJECTIVES[name](OBJECTIVES[name].Config(), config(drop_path=0.9), SIZE, 9)
    seen, positions = [], torch.arange(50, 54)
    for block in objective.student.blocks:
        block.register_forward_pre_hook(lambda block, arguments: seen.append(arguments[2]))
    objective(Inputs(torch.randn(4, 1, *SIZE), positions, 48), {})
    assert torch.stack(seen, dim=1).equal(drop_path_gates(0.9, 3, seed=9, positions_B=positions))


def test_drop_path_needs_positions_in_training_and_is_off_in_evaluation():
    student, x = encoder(drop_path=0.9), torch.randn(2, 1, *SIZE)
    with pytest.raises(ValueError, match="positions_B"):
        student(x)
    same = encoder()
    assert student.eval()(x, positions_B=torch.arange(2)).equal(same(x))


@pytest.mark.parametrize("name", ["mae_spectral", "jepa_vcr"])
def test_objectives_train_with_every_option_and_by_position_alone(name):
    objective = OBJECTIVES[name](OBJECTIVES[name].Config(), config(**EVERY), SIZE, 0)
    x, schedule = torch.randn(2, 1, *SIZE), {"spectral_weight": 0.01}

    def loss(start: int) -> torch.Tensor:
        return objective(Inputs(x, torch.arange(start, start + 2), 0), schedule)[0]

    first = loss(0)
    first.backward()
    torch.manual_seed(1)
    assert loss(0).equal(first)
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)


def test_the_teacher_drops_nothing_and_follows_every_parameter():
    jepa = OBJECTIVES["jepa"](OBJECTIVES["jepa"].Config(), config(**EVERY), SIZE, 0).train()
    x = torch.randn(1, 1, *SIZE)
    assert jepa.student.training
    assert jepa.teacher(x).equal(jepa.student.eval()(x))
    assert [t.shape for t, _ in jepa.ema_pairs()] == [p.shape for p in jepa.student.parameters()]


def test_bf16_weights_with_every_option():
    x, positions = torch.randn(2, 1, *SIZE), torch.arange(2)
    exact = encoder(**EVERY)(x, positions_B=positions)
    low = encoder(**EVERY).to(torch.bfloat16)(x, positions_B=positions)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["model.position=alibi"], "model.position=alibi is not one of sincos, rope, learned"),
        (["model.mlp=relu"], "model.mlp=relu is not one of gelu, swiglu"),
        (["model.registers=-1"], "model.registers=-1 must be 0 or more"),
        (["model.drop_path=1.0"], "model.drop_path=1.0 must be at least 0 and below 1"),
        (["model.drop_path=.nan"], "model.drop_path=nan must be"),
        (["model.layer_scale=-1e-5"], "model.layer_scale=-1e-05 must be 0 (none) or more"),
        (["model.rope_base=1"], "model.rope_base=1.0 must be above 1"),
        (["model.rope_spacing=true"], "set model.position=rope"),
        (["model.mlp_ratio=0"], "model.mlp_ratio=0.0 must be above 0"),
        (["model.heads=0"], "model.heads=0 must be at least 1"),
        (["model.predictor.depth=0"], "model.predictor.depth=0 must be at least 1"),
        (["model.position=rope", "model.decoder.heads=96"], "model.decoder.heads=96 leaves 2 features"),
        (["model.qknorm=true"], "did you mean 'model.qk_norm'"),
        (["model.qk_norm=maybe"], "model.qk_norm=maybe"),
    ],
)
def test_a_mistake_is_one_line(words, part):
    with pytest.raises(UserError) as caught:
        load_config("mae", [*GIVEN, "model=vit_tiny", *words])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
