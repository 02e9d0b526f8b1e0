"""One DeepSpeed engine over one module: the only place that knows DeepSpeed's configuration and its traps."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from mri_fm.config import Config
from mri_fm.data.positions import check_batch
from mri_fm.engine.blocks import prepare_blocks
from mri_fm.engine.environment import Environment
from mri_fm.engine.initial import InitialWeights
from mri_fm.engine.sequence_parallel import check_shares, data_place
from mri_fm.errors import UserError
from mri_fm.models.layers import Block
from mri_fm.models.vit import as_size3
from mri_fm.objectives import Objective, objective_class
from mri_fm.train_config import OptimConfig

DEFAULT_DS_CONFIG = Path(__file__).parents[2] / "ds_configs" / "zero1.json"
_ALLOWED_KEYS = {"zero_optimization", "zero_force_ds_cpu_optimizer", "communication_data_type", "comms_logger", "aio"}


def read_ds_config(path: Path) -> dict[str, Any]:
    """A DeepSpeed configuration that says how to shard, communicate and offload, and nothing else.

    Raises:
        UserError: no such file, not JSON, a key that our own configuration owns (batch, precision, clipping, optimizer), or
            one that DeepSpeed refuses.
    """
    if not path.is_file():
        raise UserError(f"no DeepSpeed configuration at {path}; ds_configs/ has some")
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must be a JSON object, as the files in ds_configs/ are")
    foreign = sorted(set(content) - _ALLOWED_KEYS)
    if foreign:
        raise UserError(
            f"{path} sets {', '.join(foreign)}, which train.* and optim.* of our configuration own "
            f"(batch, accumulation, clipping, precision, optimizer); keep only {', '.join(sorted(_ALLOWED_KEYS))}"
        )
    _check_zero(path, content.get("zero_optimization", {}))
    return content


def _check_zero(path: Path, section: Any) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    if not isinstance(section, dict):
        raise UserError(f'{path}: zero_optimization must be an object, for instance {{"stage": 1}}')
    try:
        DeepSpeedZeroConfig(**section)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise UserError(f"{path}: {name}: {first['msg']}; correct it, or take one of ds_configs/") from error


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" is bf16 on a GPU and fp32 on the CPU."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


def complete_ds_config(sharding: dict[str, Any], config: Config, environment: Environment) -> dict[str, Any]:
    """The whole DeepSpeed configuration for this run.

    Raises:
        UserError: the batch does not divide, bf16 is asked for without ZeRO, or what these ranks cannot do.
    """
    train, sequence = config.train, config.train.sequence_parallel
    groups = data_place(environment, sequence)[1]
    check_batch(train.global_batch, train.accumulation, groups, sequence=sequence)
    _check_ranks(sharding.get("zero_optimization", {}), environment)
    bf16 = resolve_precision(config.train.precision, environment.device) == "bf16"
    stage = sharding.get("zero_optimization", {}).get("stage", 0)
    if bf16 and stage == 0:
        raise UserError("bf16 needs ZeRO stage 1 or more (at stage 0 DeepSpeed takes another optimizer): see ds_configs/")
    return sharding | {
        "train_batch_size": train.global_batch * sequence,  # as DeepSpeed counts: micro-batch x micro-steps x ranks
        "train_micro_batch_size_per_gpu": train.global_batch // (train.accumulation * groups),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.clip,
        # Off: the check reads the gradients on the host at each step, and then leaves a step out without a word.
        # `NonfiniteGuard` does this on the device, at every stage alike.
        "bf16": {"enabled": bf16, "check_grad_overflow": False},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def _check_ranks(section: dict[str, Any], environment: Environment) -> None:
    """Keys of ZeRO++ that depend on the devices and their number."""
    for key in ("zero_quantized_weights", "zero_quantized_gradients"):
        if section.get(key) and environment.device.type != "cuda":
            raise UserError(f"{key} of the ds_config needs GPUs: take another of ds_configs/")
    group = min(section.get("zero_hpz_partition_size", 1), environment.world)
    if group and environment.world % group:
        raise UserError(
            f"zero_hpz_partition_size={group} of the ds_config does not divide the {environment.world} ranks: set it to the "
            "number of GPUs of a node"
        )


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], layer_decay: float = 1.0, depth: int = 0, *, encoder: str = "student"
) -> list[dict[str, Any]]:
    """The trainable parameters as AdamW's groups, each with what the loop needs to set its rate and its weight decay.

    Weights decay; biases, norms and learned tokens do not. With a `layer_decay` below 1 there are two such groups for each
    layer of the encoder.

    Args:
        named: (name, parameter) of an objective.
        layer_decay: see `layer_rate`.
        depth: blocks of the encoder.
        encoder: what it is called in the names.

    Returns:
        Groups with "params", "decay" (whether they do) and "lr_scale" (a factor of the schedule's rate), highest rate first.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # at stage 3 the parameter itself is empty
            free = len(shape) <= 1 or name.endswith(("token", "position.table_ND"))
            groups.setdefault((layer_rate(name, layer_decay, depth, encoder), not free), []).append(parameter)
    return [
        {"params": groups[scale, decays], "lr_scale": scale, "decay": decays, "weight_decay": 0.0}
        for scale, decays in sorted(groups, reverse=True)
    ]


def layer_rate(name: str, layer_decay: float, depth: int, encoder: str) -> float:
    """The factor of a parameter's learning rate: layer_decay^(depth + 1 - layer) in the encoder (BEiT, ICLR 2022, appendix).

    Layer 0 is the patch embedding with the registers, blocks are layers 1 to `depth`, the last norm is layer depth + 1. Heads
    learn at the full rate.
    """
    if not name.startswith(f"{encoder}."):
        return 1.0
    block = re.match(rf"{encoder}\.blocks\.(\d+)\.", name)
    layer = int(block[1]) + 1 if block else depth + 1 if name.startswith(f"{encoder}.norm.") else 0
    return float(layer_decay ** (depth + 1 - layer))


def build_optimizer(module: nn.Module, optim: OptimConfig, depth: int) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; torch's own and fused, since DeepSpeed's are compiled on first use."""
    first, second = optim.betas
    groups = parameter_groups(module.named_parameters(), optim.layer_decay, depth)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(first, second), fused=True)


def build_objective(config: Config) -> Objective:
    """The objective with initial weights that depend on the seed alone.

    Raises:
        UserError: it cannot be trained on inputs of `data.size`, or of a stage of the curriculum.
    """
    torch.manual_seed(config.seed)
    objective = objective_class(config.objective.name)(config.objective, config.model, as_size3(config.data.size), config.seed)
    for stage in config.data.curriculum:
        objective.check_size(as_size3(stage.size))
    return objective


def build_engine(
    config: Config, sharding: dict[str, Any], environment: Environment, initial: InitialWeights | None = None
) -> Any:
    """A DeepSpeed engine over the objective, `engine.module`; with the `initial` weights, or those that its seed draws."""
    import deepspeed
    import deepspeed.utils

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    objective = build_objective(config).to(environment.device)
    check_shares(objective, config)
    if initial is not None:
        initial.load_into(objective)
    prepare_blocks(objective, checkpoint_activations=config.train.checkpoint_activations, compiled=config.train.compile)
    if config.train.compile and sharding.get("zero_optimization", {}).get("stage") == 3:
        # Compiled code must not meet the hooks by which DeepSpeed gathers the weights of each layer: a block is gathered whole.
        deepspeed.utils.set_z3_leaf_modules(objective, [Block])
    optimizer = build_optimizer(objective, config.optim, config.model.depth)
    engine, *_ = deepspeed.initialize(
        model=objective, optimizer=optimizer, config=complete_ds_config(sharding, config, environment), dist_init_required=False
    )
    return engine
