"""Mixture of experts: many small MLPs in the place of a layer's one, of which each token passes a few.

    p = softmax(R·x) over the E experts, in float32;  C = the K of them with the largest p + b
    y = Σ_{e ∈ C} E/4 · p_e · expert_e(x) + shared(x)
    after each optimizer step:  b_e ← b_e + rate · sign(mean load − load_e)

The bias b, one number for each expert, decides who is chosen and does not enter y, so that no loss has to ask for balance. The
load is the number of tokens of the whole global batch that chose an expert.

Reference: Neuro-JEPA (Huang et al., arXiv 2606.14957), whose published configuration has softmax gates times 4 for 16 experts;
here they are times E/4, so that an undecided router gives each chosen expert a quarter whatever E is. Shared experts:
DeepSeekMoE (Dai et al., ACL 2024). The bias: Wang et al., arXiv 2408.15664. Neuro-JEPA centres and clips it: centring changes
no choice, and there is no clip here.

Routing reads nothing on the host and has no capacity to overflow: the N·K pairs of token and expert are sorted by expert, and a
grouped product takes each expert's rows, however many. So the cost is that of K experts, no token is dropped, and experts
without tokens get gradients of zero.

Axes: B batch, T tokens of a sample, N = B·T, L layers with a mixture, E experts, K experts of a token, A = N·K pairs, D width,
H hidden width of an expert, U = H or, for SwiGLU, 2·H.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from mri_fm.model_config import ModelConfig
from mri_fm.models.mlp import INIT_STD, mlp_layer


class Experts(NamedTuple):
    """The sizes of a mixture; see `ModelConfig`."""

    routed: int
    active: int
    shared: int
    hidden: int
    every: int
    bias_rate: float

    @classmethod
    def from_config(cls, model: ModelConfig) -> Self | None:
        """What `model` asks for; None: no mixtures."""
        if not model.moe_experts:
            return None
        return cls(model.moe_experts, model.moe_active, model.moe_shared, model.moe_width, model.moe_every, model.moe_bias_rate)

    def at(self, layer: int) -> bool:
        """Whether this layer, counted from 1, has a mixture."""
        return layer % self.every == 0


class MoE(nn.Module):
    """A mixture of experts, (B, T, D) → (B, T, D).

    Routed experts have no biases; the shared ones are one MLP of their joint hidden width. Products over all experts are one
    parameter each, so that under ZeRO every rank has a gradient of every expert, whoever was chosen.

    Attributes:
        balance_E: int64, b in units of the rate: whole numbers, which no precision of the weights rounds.
        load_E: int64, tokens of this rank that chose an expert since the last optimizer step; counted in training alone.
    """

    def __init__(self, width: int, experts: Experts, out_std: float, mlp: str = "gelu") -> None:
        """Draw weights as `Linear` does; the products that lead back to D have standard deviation `out_std`."""
        super().__init__()
        self.experts, self.swiglu = experts, mlp == "swiglu"
        routed, hidden = experts.routed, experts.hidden
        self.router = nn.Parameter(_normal(INIT_STD, routed, width))
        self.up = nn.Parameter(_normal(INIT_STD, routed, width, 2 * hidden if self.swiglu else hidden))
        self.down = nn.Parameter(_normal(out_std, routed, hidden, width))
        self.shared = mlp_layer(width, experts.shared * hidden, out_std, mlp) if experts.shared else None
        self.register_buffer("balance_E", torch.zeros(routed, dtype=torch.int64))
        self.register_buffer("load_E", torch.zeros(routed, dtype=torch.int64), persistent=False)
        self.balance_E: Tensor
        self.load_E: Tensor

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Route each token, and add what the shared experts say."""
        x_ND = x_BTD.flatten(0, 1)
        gate_NK, chosen_NK = self.route(x_ND)
        expert_A = chosen_NK.flatten()
        load_E = torch.zeros_like(self.load_E).scatter_add_(0, expert_A, torch.ones_like(expert_A))
        if self.training:
            self.load_E += load_E
        y_NKD = self._pass(x_ND, expert_A, load_E).unflatten(0, gate_NK.shape)
        y_BTD = (y_NKD * gate_NK[..., None].to(x_ND.dtype)).sum(1).view_as(x_BTD)
        return y_BTD if self.shared is None else y_BTD + self.shared(x_BTD)

    def route(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Gates of at least float32 and int64 indices of each token's experts, both (N, K)."""
        dtype = torch.promote_types(x_ND.dtype, torch.float32)
        p_NE = F.linear(x_ND.to(dtype), self.router.to(dtype)).softmax(dim=-1)
        bias_E = self.experts.bias_rate * self.balance_E.to(dtype)
        chosen_NK = (p_NE.detach() + bias_E).topk(self.experts.active, dim=-1).indices
        return p_NE.gather(1, chosen_NK) * (self.experts.routed / 4), chosen_NK

    def _pass(self, x_ND: Tensor, expert_A: Tensor, load_E: Tensor) -> Tensor:
        """Each expert's answer to each token that chose it, (A, D) in the order of `expert_A`.

        The rows are copied before they are sorted, so that both are permutations, whose gradients add up in one order.
        """
        order_A = expert_A.argsort(stable=True)
        end_E = load_E.cumsum(0).to(torch.int32)
        x_AD = x_ND[:, None].expand(-1, self.experts.active, -1).flatten(0, 1).index_select(0, order_A)
        up_AU = grouped_product(x_AD, self.up, end_E)
        if self.swiglu:
            gate_AH, value_AH = up_AU.chunk(2, dim=-1)
            hidden_AH = F.silu(gate_AH) * value_AH
        else:
            hidden_AH = F.gelu(up_AU)
        return grouped_product(hidden_AH, self.down, end_E).index_select(0, order_A.argsort())


@_disable_dynamo  # which refuses the kernel in fp32
def grouped_product(x_AD: Tensor, weight_EDH: Tensor, end_E: Tensor) -> Tensor:
    """Rows [end_{e−1}, end_e) of x times the matrix of expert e, (A, H), by torch's grouped kernels.

    They know no float64, which takes a plain loop that reads `end_E` on the host. On the device "meta", where no row has an
    expert, one stands for all: shapes, FLOPs and what is kept for the backward pass are the same.
    """
    if x_AD.is_meta:
        return x_AD @ weight_EDH[0]
    if x_AD.dtype == torch.float64:
        sizes = end_E.diff(prepend=end_E.new_zeros(1)).tolist()
        return torch.cat([rows @ weight_DH for rows, weight_DH in zip(x_AD.split(sizes), weight_EDH, strict=True)])
    return F.grouped_mm(x_AD, weight_EDH, offs=end_E)


@torch.no_grad()
def balance_experts(student: nn.Module, teacher: nn.Module | None = None, skipped: Tensor | None = None) -> dict[str, Tensor]:
    """Move the bias of each mixture by the load of all ranks since the last step, and start counting anew; called by all ranks.

    Args:
        student: has the mixtures that were trained.
        teacher: a module like it, which takes over the bias.
        skipped: () float32; where it is 1 the step was left out and the bias stays, where 0 or None it moves.

    Returns:
        The metric "expert_load": tokens of the busiest expert over the mean, in the least even layer; nothing if there is no
        mixture.
    """
    layers = mixtures(student)
    if not layers:
        return {}
    load_LE = torch.stack([layer.load_E for layer in layers])
    if dist.is_initialized():
        dist.all_reduce(load_LE)
    step_LE = (load_LE.sum(1, keepdim=True) - load_LE.shape[1] * load_LE).sign()
    if skipped is not None:
        step_LE = step_LE * (skipped == 0)
    for layer, step_E in zip(layers, step_LE, strict=True):
        layer.balance_E += step_E
        layer.load_E.zero_()
    if teacher is not None:
        for follower, layer in zip(mixtures(teacher), layers, strict=True):
            follower.balance_E.copy_(layer.balance_E)
    return {"expert_load": (load_LE.amax(1) / load_LE.float().mean(1)).max()}


def mixtures(module: nn.Module) -> list[MoE]:
    """The mixtures of an encoder, from the first layer on."""
    return [part for part in module.modules() if isinstance(part, MoE)]


def _normal(std: float, *shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(*shape), std=std, a=-2 * std, b=2 * std)
