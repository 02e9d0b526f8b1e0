"""A loss or gradient that is not finite: the step is left out on the device, counted, and stops the run past a budget.

The host reads nothing here. AdamW's fused kernel takes `found_inf`, by which torch's own `GradScaler` has it leave a step out:
weights, moments and its count of steps stay as they are. DeepSpeed leaves such a step out by itself at stage 3, but in fp32 and
bf16 not at stages 0 to 2; under all of them the norm over all ranks is known before the optimizer is called.

Axes: A micro-steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError

_log = logging.getLogger(__name__)
_NAMED = 8  # samples that a message spells out


@dataclass(frozen=True)
class _Step:
    """A step that the host has not looked at: whether it was left out, and what this rank had in it."""

    number: int
    skipped: Tensor  # () float32, 1: left out; equal on all ranks
    bad_loss_A: Tensor  # bool, of this rank
    keys_A: list[tuple[str, ...]]


class NonfiniteGuard:
    """Wraps the optimizer step of a DeepSpeed engine; called by all ranks together."""

    def __init__(self, engine: Any, budget: int, environment: Environment) -> None:
        """Allow `budget` steps to be left out."""
        self._engine, self._budget, self._environment = engine, budget, environment
        self._sharded = bool(engine.zero_optimization())
        self._trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
        self._losses: list[Tensor] = []
        self._keys: list[tuple[str, ...]] = []
        self._waiting: list[_Step] = []
        self._bad_loss = self._plain_norm = torch.zeros((), device=environment.device)
        self.total = 0  # of the run; set from the checkpoint at a resume
        engine.basic_optimizer.register_step_pre_hook(self._hold)

    def note(self, loss: Tensor, keys: Sequence[str]) -> None:
        """Keep the loss of a micro-step and the samples it is of."""
        self._losses.append(~loss.detach().isfinite())
        self._keys.append(tuple(keys))

    def step(self) -> None:
        """`engine.step()` after the backward pass of a micro-step."""
        if self._engine.is_gradient_accumulation_boundary():
            self._bad_loss = torch.stack(self._losses).any().float()
            torch.distributed.all_reduce(self._bad_loss, op=torch.distributed.ReduceOp.MAX)
            if not self._sharded:  # DeepSpeed clips by this norm and does not keep it
                gradients = [parameter.grad for parameter in self._trained if parameter.grad is not None]
                self._plain_norm = torch.nn.utils.get_total_norm(gradients)
        self._engine.step()

    def finish(self, number: int) -> Tensor:
        """End optimizer step `number` (from 1); returns whether it was left out, () float32 on the device, 0 or 1."""
        skipped = self._found()
        self._waiting.append(_Step(number, skipped, torch.stack(self._losses), self._keys))
        self._losses, self._keys = [], []
        return skipped

    def norm(self) -> Tensor:
        """The norm of the last step's gradient over all ranks, before clipping, () float32; infinite where it is not finite."""
        norm: Any = self._engine.optimizer._global_grad_norm if self._sharded else self._plain_norm
        norm = torch.as_tensor(norm, dtype=torch.float32, device=self._environment.device)
        return torch.where(norm.isfinite() & (norm >= 0), norm, torch.inf)  # DeepSpeed's -1 means the same

    def _found(self) -> Tensor:
        return torch.maximum(self._bad_loss, self.norm().isinf().float())

    def _hold(self, optimizer: Any, *_: Any) -> None:
        optimizer.found_inf = self._found()

    def settle(self) -> None:
        """Look at the steps since the last call: count and name those that were left out.

        Raises:
            UserError: they are more than the budget, on all ranks with the same words.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        flags = torch.stack([step.skipped for step in waiting]).tolist()
        for step, flag in zip(waiting, flags, strict=True):
            if flag:
                self._count(step)

    def _count(self, step: _Step) -> None:
        self.total += 1
        named = f"step {step.number} ({self._suspects(step)})"
        if self.total > self._budget:
            raise UserError(
                f"the loss or its gradient is not finite at {named}, and {self.total} such steps exceed "
                f"train.nonfinite_budget={self._budget}: look at these samples, lower optim.lr or raise the budget"
            )
        if self._environment.is_main:
            _log.warning("left out %s: the loss or its gradient is not finite", named)

    def _suspects(self, step: _Step) -> str:
        """The samples of the micro-steps whose loss is not finite; all of the step's where only the gradient is not."""
        mine = [key for bad, keys in zip(step.bad_loss_A.tolist(), step.keys_A, strict=True) if bad for key in keys]
        of_rank: list[Any] = [None] * self._environment.world
        torch.distributed.all_gather_object(of_rank, (mine, [key for keys in step.keys_A for key in keys]))
        suspects = [key for own, _ in of_rank for key in own] or [key for _, every in of_rank for key in every]
        keys = sorted(set(suspects))
        rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        return ", ".join(keys[:_NAMED]) + rest
