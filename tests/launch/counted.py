"""Count the bytes of every tensor of a real training step, by what it is for."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from launch.planning.trace import saved_bytes
from mri_fm.config import Config
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment, read_environment, start_process_group
from mri_fm.engine.setup import build_engine
from mri_fm.inputs import Inputs

Storages = dict[int, int]
SCHEDULE = {"spectral_weight": 0.01}


def count_rank(rank: int, config: Config, shardings: list[dict[str, Any]]) -> list[dict[str, int]]:
    """Bytes of this rank at the second step, as `launch.planning.memory` names them, under each DeepSpeed configuration."""
    environment = read_environment()
    start_process_group(environment)
    return [count_run(config, sharding, environment) for sharding in shardings]


def count_run(config: Config, sharding: dict[str, Any], environment: Environment) -> dict[str, int]:
    before = living()
    engine = build_engine(config, sharding, environment)
    ema = EMA(engine.module.ema_pairs())
    samples = config.train.global_batch // environment.world
    inputs = volumes(config, torch.arange(samples) * environment.world + environment.rank)
    loss, _ = engine(inputs, SCHEDULE)
    engine.backward(loss)
    engine.step()
    del loss
    return count_step(engine, ema, inputs, before)


def volumes(config: Config, positions_B: Tensor) -> Inputs:
    x_BCZYX = torch.randn(len(positions_B), 1, *config.data.size)
    return Inputs(x_BCZYX, positions_B, 0, x_BCZYX > 0, torch.ones(len(positions_B), 3))


def count_step(engine: Any, ema: EMA, inputs: Inputs, before: Storages) -> dict[str, int]:
    given = [inputs.x_BCZYX, inputs.foreground_BCZYX, inputs.spacing_B3]
    saved, loss = saved_bytes(lambda: engine(inputs, SCHEDULE)[0], engine.module, *given)
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    teacher = [p for p in engine.module.parameters() if not p.requires_grad]
    parts = {"parameters": held(trained), "teacher": held(teacher) | storages(ema.masters)}
    parts["buffers"] = storages([*engine.module.buffers(), *given])
    gradients: list[Storages] = []
    work = engine.optimizer.independent_gradient_partition_epilogue

    def at_the_end_of_backward() -> None:
        gradients.append(living())
        work()

    engine.optimizer.independent_gradient_partition_epilogue = at_the_end_of_backward
    engine.backward(loss)
    gradients.append(living())
    del engine.optimizer.independent_gradient_partition_epilogue
    engine.step()
    inner = engine.optimizer
    masters = getattr(inner, "single_partition_of_fp32_groups", None) or inner.fp32_partitioned_groups_flat
    moments = [value for state in inner.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    parts["optimizer"] = storages([*masters, *moments])
    known = {key for part in parts.values() for key in part} | set(before)
    parts["gradients"] = max(
        ({key: size for key, size in moment.items() if key not in known} for moment in gradients),
        key=lambda moment: sum(moment.values()),
    )
    return {name: sum(part.values()) for name, part in parts.items()} | {"activations": saved}


def held(parameters: Iterable[Any]) -> Storages:
    """Whole parameters, and shards where there are some."""
    shards = [p.ds_tensor for p in parameters if hasattr(p, "ds_tensor")]
    return storages([*(p.data for p in parameters), *shards])


def storages(tensors: Iterable[Tensor | None]) -> Storages:
    found = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def living() -> Storages:
    """All tensors that Python knows of and that hold memory: tracing elsewhere in the process may have left fake ones."""
    gc.collect()
    found = [o for o in gc.get_objects() if issubclass(type(o), Tensor) and not isinstance(o, FakeTensor)]
    return storages(tensor for tensor in found if tensor.device.type == "cpu")
