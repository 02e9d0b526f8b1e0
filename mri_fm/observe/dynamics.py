"""How strongly each block of the network is pulled, and how far it moves.

A block is one of the encoder's, its embedding (with registers), its last norm, or a head. All is read from what the optimizer
holds, at any ZeRO stage: every rank sums the squares of the part that it steps, a shard of masters and gradients at stages 1 to
3, all of them at stage 0; the sums over ranks are global values.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from mri_fm.config import Config
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment
from mri_fm.engine.fragments import Owned, optimizer_state, owned_parts
from mri_fm.engine.setup import parameter_groups


def block_of(name: str) -> str:
    """The block of a parameter by its name in an objective: "block_03", "embedding", "norm", or the head's name."""
    part, _, rest = name.partition(".")
    if part != "student":
        return part
    number = re.match(r"blocks\.(\d+)\.", rest)
    return f"block_{int(number[1]):02d}" if number else "norm" if rest.startswith("norm.") else "embedding"


class BlockDynamics:
    """Gradient norms, update ratios and the teacher's distance of single steps; called by all ranks together."""

    def __init__(self, engine: Any, ema: EMA, config: Config, environment: Environment) -> None:
        """Watch the optimizer of `engine`; steps that are not expected cost nothing."""
        self._engine, self._ema, self._environment = engine, ema, environment
        # The optimizer's groups as they were made: DeepSpeed has put its shards in the place of the parameters.
        groups = parameter_groups(engine.module.named_parameters(), config.optim.layer_decay, config.model.depth)
        self._lr_group = {id(parameter): number for number, group in enumerate(groups) for parameter in group["params"]}
        trained = [name for name, parameter in engine.module.named_parameters() if parameter.requires_grad]
        self._blocks = list(dict.fromkeys(map(block_of, trained)))
        self._by_master: dict[int, list[tuple[int, Owned]]] = {}
        self._gradient_S: Tensor | None = None
        engine.basic_optimizer.register_step_pre_hook(self._look)

    def expect(self) -> None:
        """Look at the gradients of the next optimizer step."""
        if not self._by_master:  # not before a checkpoint may have been loaded
            found = defaultdict(list)
            for name, _, owned in owned_parts(self._engine):
                found[id(owned.master)].append((self._blocks.index(block_of(name)), owned))
            self._by_master = dict(found)
        self._gradient_S = torch.zeros(len(self._blocks), device=self._environment.device)

    @torch.no_grad()
    def _look(self, optimizer: Any, *_: Any) -> None:
        """Before the optimizer's step, which DeepSpeed takes group by group, each with its own masters' gradients."""
        if self._gradient_S is None:
            return
        for master in [master for group in optimizer.param_groups for master in group["params"] if master.grad is not None]:
            for block, owned in self._by_master.get(id(master), ()):
                part = master.grad.view(-1).narrow(0, owned.offset, owned.size)
                self._gradient_S[block] += part.float().square().sum().to(self._gradient_S.device) * self._share(owned)

    @torch.no_grad()
    def report(self, grad_norm: Tensor) -> dict[str, Tensor]:
        """What was expected, after the optimizer's step and the EMA.

            grad_norm/B      norm of a block's gradient before clipping: their squares sum up to grad_norm²
            update_ratio/B   |Δw| / |w| of a block's weights in this step, weight decay included, as AdamW has taken it; about
                             1e-3 is usual, far more unstable, far less idle (Karpathy's rule; You et al., arXiv 1708.03888, §3)
            ema_distance     |student − teacher| / |student|

        Args:
            grad_norm: of the whole gradient, before clipping.
        """
        assert self._gradient_S is not None, "expect() has not been called before the step"
        sums_S3 = torch.stack([self._gradient_S, *self._update_squares()], dim=1)
        distance_2 = self._ema.squares() if self._ema.teachers else sums_S3.new_zeros(2)
        if not self._ema.sharded:
            distance_2 = distance_2 / self._environment.world
        sums = torch.cat([sums_S3.flatten(), distance_2])
        torch.distributed.all_reduce(sums)
        self._gradient_S = None
        return self._named(sums, grad_norm)

    def _named(self, sums: Tensor, grad_norm: Tensor) -> dict[str, Tensor]:
        least = torch.finfo(torch.float32).tiny
        gradient_S, update_S, weight_S = sums[:-2].view(-1, 3).unbind(dim=1)
        norm_S = (gradient_S / gradient_S.sum().clamp_min(least)).sqrt() * grad_norm  # the optimizer has the clipped ones
        ratio_S = (update_S / weight_S.clamp_min(least)).sqrt()
        found = {f"grad_norm/{name}": norm for name, norm in zip(self._blocks, norm_S, strict=True)}
        found |= {f"update_ratio/{name}": ratio for name, ratio in zip(self._blocks, ratio_S, strict=True)}
        if self._ema.teachers:
            found["ema_distance"] = (sums[-2] / sums[-1].clamp_min(least)).sqrt()
        return found

    def _update_squares(self) -> tuple[Tensor, Tensor]:
        """Σ |Δw|² and Σ |w|² of each block over what this rank steps.

        The step is computed again from the moments that it has left, so that no copy of the weights is needed:
        Δw = −lr · (m̂ / (√v̂ + ε) + λ w), with w before the step.
        """
        device = self._environment.device
        update_S, weight_S = (torch.zeros(len(self._blocks), device=device) for _ in range(2))
        groups, defaults = self._engine.optimizer.param_groups, self._engine.basic_optimizer.defaults
        for name, parameter, owned in owned_parts(self._engine):
            weight_N, state = optimizer_state(self._engine, owned)
            group = groups[self._lr_group[id(parameter)]]
            direction_N = adam_direction(state, defaults["betas"], defaults["eps"])
            shrink = group["lr"] * group["weight_decay"]
            before_N = (weight_N + group["lr"] * direction_N) / (1.0 - shrink)
            change_N = group["lr"] * direction_N + shrink * before_N
            block, share = self._blocks.index(block_of(name)), self._share(owned)
            update_S[block] += change_N.square().sum().to(device) * share
            weight_S[block] += before_N.square().sum().to(device) * share
        return update_S, weight_S

    def _share(self, owned: Owned) -> float:
        return 1.0 / self._environment.world if owned.replicated else 1.0


def adam_direction(state: dict[str, Tensor], betas: tuple[float, float], eps: float) -> Tensor:
    """m̂ / (√v̂ + ε) of Adam's moments after its step (Kingma & Ba, ICLR 2015, algorithm 1)."""
    first, second = (1.0 - beta ** state["step"].to(state["exp_avg"].device) for beta in betas)
    return (state["exp_avg"] / first) / ((state["exp_avg_sq"] / second).sqrt() + eps)
