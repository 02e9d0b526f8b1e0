"""The sharded teacher, as its forward pass sees it, against a plain unsharded average."""

import deepspeed
import pytest
import torch
from torch import nn

from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import read_environment, start_process_group
from tests.distributed import run_ranks

MOMENTUM, STEPS = 0.9, 4


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(7, 16), nn.GELU(), nn.Linear(16, 5))
        self.teacher = nn.Sequential(nn.Linear(7, 16), nn.GELU(), nn.Linear(16, 5)).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, x):
        x = x.to(self.student[0].weight.dtype)
        return self.student(x).float(), self.teacher(x).float()

    def pairs(self):
        return list(zip(self.teacher.parameters(), self.student.parameters(), strict=True))


def weights(module: nn.Module) -> list[torch.Tensor]:
    """Whole weights, gathered where they are sharded."""
    parameters = list(module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=hasattr(parameters[0], "ds_tensor")):
        return [p.detach().float().clone() for p in parameters]


def train_rank(rank: int, zero: dict, bf16: bool) -> float:
    """Largest difference between the teacher's output and that of an unsharded average, over some steps."""
    start_process_group(read_environment())
    pair = Pair()
    config = {
        "train_batch_size": 2, "zero_optimization": zero, "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
    }  # fmt: skip
    optimizer = torch.optim.AdamW(pair.student.parameters(), lr=0.05)
    engine, *_ = deepspeed.initialize(model=pair, optimizer=optimizer, config=config, dist_init_required=False)
    ema = EMA(engine.module.pairs())
    reference = weights(engine.module.teacher)
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    worst = 0.0
    for _ in range(STEPS):
        student_out, teacher_out = engine(x)
        plain = plain_teacher(reference, bf16)(x.to(torch.bfloat16 if bf16 else torch.float32)).float()
        worst = max(worst, float((teacher_out - plain).abs().max()))
        engine.backward((student_out - x[:, :5]).square().mean())
        engine.step()
        ema.update(MOMENTUM)
        torch._foreach_lerp_(reference, weights(engine.module.student), 1 - MOMENTUM)
    return worst


def plain_teacher(reference: list[torch.Tensor], bf16: bool) -> nn.Module:
    teacher = Pair().teacher
    for parameter, value in zip(teacher.parameters(), reference, strict=True):
        parameter.data.copy_(value)
    return teacher.bfloat16() if bf16 else teacher


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "zero",
    [
        {"stage": 1},
        {"stage": 2},
        {"stage": 3},
        {"stage": 3, "stage3_param_persistence_threshold": 0},
        {"stage": 3, "zero_hpz_partition_size": 2},
        {"stage": 3, "zero_hpz_partition_size": 2, "stage3_param_persistence_threshold": 0},
    ],
    ids=["1", "2", "3", "3-no-persistence", "hpz", "hpz-no-persistence"],
)
def test_the_teacher_is_the_exact_average(zero, bf16):
    assert run_ranks(train_rank, 2, zero, bf16) == [0.0, 0.0]


def test_the_master_keeps_steps_that_bf16_would_round_away():
    teacher, student = nn.Parameter(torch.ones(1).bfloat16()), nn.Parameter(torch.full((1,), 2.0).bfloat16())
    ema = EMA([(teacher, student)])
    for _ in range(1000):
        ema.update(0.9999)
    assert float(ema.masters[0]) == pytest.approx(2 - 0.9999**1000, rel=1e-4)
    assert float(teacher.detach()) == pytest.approx(2 - 0.9999**1000, rel=1e-2)
