"""Mixtures of experts against a plain loop over tokens and experts, and the bias that evens out their load."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mri_fm.config import load_config
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.setup import parameter_groups
from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.flops import encoder_flops
from mri_fm.models.heads import predictor
from mri_fm.models.moe import Experts, MoE, balance_experts, grouped_product, mixtures
from mri_fm.models.vit import VisionTransformer
from mri_fm.objectives import OBJECTIVES, Objective
from tests.distributed import run_ranks

SIZE = (16, 16, 16)
HEAD = HeadConfig(24, 1, 3)
MODEL = {"width": 24, "depth": 2, "heads": 3, "patch": [4, 4, 8], "predictor": HEAD, "decoder": HEAD}
MIXED = {"moe_experts": 5, "moe_active": 2, "moe_shared": 1, "moe_width": 16, "moe_bias_rate": 0.01}


def layer(mlp: str = "gelu", *, routed: int = 5, active: int = 2, shared: int = 1, rate: float = 0.01) -> MoE:
    """A mixture of width 24 whose weights are large enough for the parts to differ."""
    torch.manual_seed(0)
    moe = MoE(24, Experts(routed, active, shared, 16, 1, rate), 0.3, mlp)
    with torch.no_grad():
        moe.router.mul_(20)
        moe.up.mul_(10)
        moe.balance_E.copy_(torch.arange(routed) - routed // 2)
    return moe


def by_loops(moe: MoE, x_ND: Tensor) -> Tensor:
    """The equations at the top of the module, token by token and expert by expert, in float64."""
    weights = {name: value.detach().double() for name, value in moe.state_dict().items()}
    rows = []
    for x_D in x_ND.double():
        p_E = (weights["router"] @ x_D).softmax(0)
        ranked = sorted(range(len(p_E)), key=lambda e: float(p_E[e] + moe.experts.bias_rate * weights["balance_E"][e]))
        y_D = torch.zeros_like(x_D)
        for e in ranked[-moe.experts.active :]:
            up = x_D @ weights["up"][e]
            hidden = F.silu(up[:16]) * up[16:] if moe.swiglu else F.gelu(up)
            y_D += len(p_E) / 4 * p_E[e] * (hidden @ weights["down"][e])
        if moe.shared is not None:
            y_D += copy.deepcopy(moe.shared).double()(x_D)
        rows.append(y_D)
    return torch.stack(rows)


@pytest.mark.parametrize(("mlp", "shared"), [("gelu", 1), ("swiglu", 0)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_mixture_is_its_equations(mlp, shared, dtype, tolerance):
    moe, x = layer(mlp, shared=shared), torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(3))
    expected = by_loops(moe, x.flatten(0, 1)).view(2, 9, 24)
    torch.testing.assert_close(moe.to(dtype)(x.to(dtype)).double(), expected, rtol=tolerance, atol=tolerance)


def test_the_gradients_are_those_of_finite_differences_and_of_the_float64_loop():
    moe, x = layer(routed=3, active=2).double(), torch.randn(1, 4, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(moe, x, fast_mode=True)
    names = [name for name, _ in moe.named_parameters()]
    low = copy.deepcopy(moe).float()
    for module, given in ((moe, x), (low, x.float())):
        module(given).square().sum().backward()
    for name in names:
        exact, fast = moe.get_parameter(name).grad, low.get_parameter(name).grad
        torch.testing.assert_close(fast.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_grouped_products_with_groups_of_no_rows():
    x, weight = torch.randn(7, 8), torch.randn(4, 8, 16)
    ends = torch.tensor([0, 3, 3, 7], dtype=torch.int32)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        product = grouped_product(x.to(dtype), weight.to(dtype), ends)
        expected = torch.cat([x[:3] @ weight[1], x[3:] @ weight[3]])
        torch.testing.assert_close(product.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_an_expert_that_nobody_chose_has_a_gradient_of_zero(dtype):
    moe = layer(rate=1e6).to(dtype)  # the bias alone decides: the last two experts
    x = torch.randn(2, 3, 24, dtype=dtype)
    moe(x).float().square().sum().backward()
    for name in ("up", "down"):
        gradient = getattr(moe, name).grad
        assert (gradient[:3] == 0).all()
        assert (gradient[3:].flatten(1).abs().amax(1) > 0).all()
    assert moe.load_E.tolist() == [0, 0, 0, 6, 6]


def test_bf16_rounds_neither_the_choice_nor_the_bias():
    moe, x = layer(), torch.randn(2, 50, 24).bfloat16()
    low = copy.deepcopy(moe).to(torch.bfloat16)
    assert low.balance_E.equal(moe.balance_E)
    same = copy.deepcopy(low).float().route(x.flatten(0, 1).float())
    gate, chosen = low.route(x.flatten(0, 1))
    assert gate.dtype == torch.float32
    assert chosen.equal(same[1])
    out = low(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double().flatten(0, 1), by_loops(low, x.flatten(0, 1)), rtol=0.05, atol=0.05)


def test_a_skewed_router_evens_out():
    torch.manual_seed(0)
    moe = MoE(8, Experts(8, 2, 0, 8, 1, 0.002), 0.02)
    x = torch.randn(1, 2000, 8)
    x[..., 0] = 1.0
    with torch.no_grad():
        moe.router.mul_(50)
        moe.router[:, 0] = torch.linspace(-2, 2, 8)  # the last experts suit every token best

    def step() -> float:
        with torch.no_grad():
            moe(x)
        return float(balance_experts(moe)["expert_load"])

    loads = [step() for _ in range(200)]
    assert loads[0] > 2
    assert loads[-1] < 1.25
    assert moe.load_E.sum() == 0


def test_the_bias_moves_by_one_and_the_teacher_takes_it_over():
    student, teacher = layer(), layer()
    student.balance_E.zero_()
    student.load_E.copy_(torch.tensor([10, 4, 4, 2, 0]))
    assert float(balance_experts(student, teacher)["expert_load"]) == pytest.approx(10 / 4)
    assert student.balance_E.tolist() == teacher.balance_E.tolist() == [-1, 0, 0, 1, 1]
    for skipped, first in ((1.0, -1), (0.0, 0)):  # a step that was left out leaves the bias as it is
        student.load_E[0] = 0
        student.load_E[1:] = 1
        balance_experts(student, teacher, torch.tensor(skipped))
        assert int(student.balance_E[0]) == first
        assert not student.load_E.any()
    assert balance_experts(nn.Linear(2, 2)) == {}


def test_evaluation_counts_nothing():
    moe = layer().eval()
    moe(torch.randn(1, 4, 24))
    assert moe.load_E.sum() == 0


def test_mixtures_stand_in_every_second_layer_of_the_encoder_alone():
    model = ModelConfig(**MODEL | {"depth": 5}, **MIXED)
    encoder = VisionTransformer.from_config(model, SIZE)
    assert [isinstance(block.mlp, MoE) for block in encoder.blocks] == [False, True, False, True, False]
    assert mixtures(predictor(model, encoder)) == []
    decayed, free = ({id(p) for p in group["params"]} for group in parameter_groups(encoder.named_parameters()))
    (first, _) = mixtures(encoder)
    assert {id(first.router), id(first.up), id(first.down)} <= decayed
    assert all(id(p) in (free if p.ndim == 1 else decayed) for p in encoder.parameters())


def test_parameters_of_base_with_the_published_mixture():
    words = ["run.dir=x", "data.corpus=y", "model=vit_base", "model.moe_experts=16"]
    with torch.device("meta"):
        encoder = VisionTransformer.from_config(load_config("mae", words).model, (32, 64, 64))
    total = sum(p.numel() for p in encoder.parameters())
    routed = 6 * 16 * 2 * 768 * 384
    shared = 6 * (2 * 768 * 768 + 768 + 768)
    plain = 85_449_984 - 6 * (2 * 768 * 3072 + 3072 + 768)
    assert total == plain + routed + shared + 6 * 16 * 768 == 120_899_328
    assert total - routed * 10 // 16 == 85_509_888  # those that a token passes


def grouped_flops(a: torch.Size, b: torch.Size, *_, out_shape: torch.Size) -> int:
    """Rows times columns times what is summed over: each row meets one expert's matrix."""
    return 2 * a[0] * a[1] * b[-1]


@pytest.mark.parametrize("options", [{}, {"mlp": "swiglu", "registers": 2, "moe_every": 1, "moe_shared": 0}])
def test_the_flops_are_what_torch_counts(options):
    model = ModelConfig(**MODEL | MIXED | options)
    encoder = VisionTransformer.from_config(model, SIZE).eval()
    counts = []
    for device in ("cpu", "meta"):
        x = torch.zeros(1, 1, *SIZE, device=device)
        mapping = {torch.ops.aten._grouped_mm: grouped_flops}
        counter = FlopCounterMode(display=False, custom_mapping=mapping)
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            encoder.to(device)(x)
        counts.append(counter.get_total_flops() - 2 * encoder.num_tokens * 128 * 24)
    assert counts == [pytest.approx(encoder_flops(model, encoder.num_tokens))] * 2


def objective(name: str, **options) -> Objective:
    return OBJECTIVES[name](OBJECTIVES[name].Config(), ModelConfig(**MODEL, **MIXED, **options), SIZE, 0).train()


def train(name: str, rank: int = 0, world: int = 1) -> tuple[list[float], list[list[int]]]:
    """Metric "expert_load" of three steps on a batch of four, of which a rank takes its share, and the student's bias."""
    made = objective(name, drop_path=0.3)
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    x = torch.randn(4, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    loads = []
    for _ in range(3):
        optimizer.zero_grad()
        loss, _ = made(Inputs(x[rank::world], torch.arange(4)[rank::world], 0), {})
        loss.backward()
        for p in made.parameters():
            if p.grad is not None and world > 1:
                dist.all_reduce(p.grad.div_(world))
        optimizer.step()
        loads.append(float(made.after_step()["expert_load"]))
    return loads, [moe.balance_E.tolist() for moe in mixtures(made.student)]


@pytest.mark.parametrize("name", ["mae", "jepa"])
def test_two_ranks_balance_as_one(name):
    def of_two(rank: int) -> tuple[list[float], list[list[int]]]:
        start_process_group(read_environment())
        return train(name, rank, 2)

    alone = train(name)
    assert run_ranks(of_two, 2) == [alone, alone]
    assert any(alone[1][0])


def test_the_teacher_has_a_router_of_its_own_and_the_students_bias():
    jepa = objective("jepa")
    student, teacher = mixtures(jepa.student)[0], mixtures(jepa.teacher)[0]
    jepa(Inputs(torch.randn(2, 1, *SIZE), torch.arange(2), 0), {})
    assert teacher.load_E.sum() == 0
    jepa.after_step()
    assert teacher.balance_E.equal(student.balance_E)
    assert teacher.balance_E.any()
    assert any(followed is teacher.router and by is student.router for followed, by in jepa.ema_pairs())


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_trains_with_mixtures_and_every_parameter_has_a_gradient(name):
    made = objective(name, mlp="swiglu", registers=2, position="rope", drop_path=0.5, moe_every=1)
    loss, _ = made(Inputs(torch.randn(2, 1, *SIZE), torch.arange(2), 0), {"spectral_weight": 0.1})
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters() if p.requires_grad)
    assert made.after_step()["expert_load"] >= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_mixture_agrees_and_never_waits():
    moe, x = layer(rate=1e6).bfloat16(), torch.randn(2, 64, 24).bfloat16()  # three experts have no token
    expected = by_loops(moe, x.flatten(0, 1))
    moe, x = moe.cuda(), x.cuda()
    moe(x).sum().backward()  # warm
    moe.zero_grad(set_to_none=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = moe(x)
        out.float().square().sum().backward()
        balance_experts(moe)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(out.double().cpu().flatten(0, 1), expected, rtol=0.05, atol=0.05)
    assert (moe.up.grad[:3] == 0).all()
    assert (moe.down.grad[:3] == 0).all()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["model.moe_experts=-1"], "model.moe_experts=-1 must be 0 (none) or more"),
        (["model.moe_experts=4"], "model.moe_active=6 must be 1 to model.moe_experts=4"),
        (["model.moe_experts=8", "model.moe_width=20"], "model.moe_width=20 must be a multiple of 8"),
        (["model.moe_experts=8", "model.width=36"], "model.width=36 must be a multiple of 8"),
        (["model.moe_experts=8", "model.moe_every=13"], "model.moe_every=13 must be 1 to model.depth=12"),
        (["model.moe_experts=8", "model.moe_shared=-1"], "model.moe_shared=-1 must be 0 (none) or more"),
        (["model.moe_experts=8", "model.moe_bias_rate=.nan"], "model.moe_bias_rate=nan must be 0"),
    ],
)
def test_a_mistake_is_one_line(words, part):
    with pytest.raises(UserError) as caught:
        load_config("mae", ["run.dir=x", "data.corpus=y", *words])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
