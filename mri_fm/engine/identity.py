"""What must agree between a checkpoint and the run that resumes it, compared by value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf

from mri_fm.config import Config
from mri_fm.errors import UserError

_STREAM = (
    "size",
    "contrasts",
    "mixture",
    "mixture_by",
    "temperature",
    "curriculum",
    "views",
    "session_contrasts",
    "crop_foreground",
)
_MICRO_STEPS = "train.accumulation"
_FREE = ("objective.require_constant_batch", _MICRO_STEPS)  # may change: the second is for `other_micro_steps` to judge
_KEYS = ("objective", "model", *(f"data.{key}" for key in _STREAM), "train.global_batch", "train.accumulation", "seed")


def identity(config: Config, corpus_hash: str, precision: str) -> dict[str, Any]:
    """The resolved values, as JSON knows them, that fix the weights' shapes, the samples and their order, by key.

    An option that is at its default is named too, with a mark that says so: see `differences`.
    """
    standard = Config(objective=type(config.objective)())
    defaults = dict(_leaves(standard, ""))
    values = {key: value for key, value in _leaves(config, "") if _belongs(key)}
    at_default = sorted(key for key, value in values.items() if key in defaults and defaults[key] == value)
    return {"values": values | {"data.corpus": corpus_hash, "train.precision": precision}, "at_default": at_default}


def differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The keys whose values differ.

    An option that one side does not know, since it was added or removed between their versions of the code, does not differ
    where the other side has it at its default: a new option's default is the old behaviour.
    """
    before, now = saved["values"], current["values"]
    differ = [key for key in before.keys() & now.keys() if before[key] != now[key]]
    differ += [key for key in before.keys() - now.keys() if key not in saved["at_default"]]
    differ += [key for key in now.keys() - before.keys() if key not in current["at_default"]]
    return sorted(set(differ) - set(_FREE))


def other_micro_steps(saved: dict[str, Any], config: Config) -> str | None:
    """What it means that a run goes on with another `train.accumulation` than before; None: nothing.

    Samples and their order are the same. Where losses are means over samples, so are the losses.

    Raises:
        UserError: `objective.require_constant_batch` forbids it.
    """
    before, now = saved["values"][_MICRO_STEPS], config.train.accumulation
    if before == now or not config.objective.couples_samples():
        return None
    size, name = config.train.global_batch, config.objective.name
    change = f"micro-steps of {size // now} samples instead of {size // before}, over which {name} shares masks or statistics"
    if config.objective.require_constant_batch:
        raise UserError(
            f"objective.require_constant_batch=true and {_MICRO_STEPS}={now} would mean {change}: take {_MICRO_STEPS}={before}"
        )
    return f"from here on {change}: losses are not comparable with those before"


def _belongs(key: str) -> bool:
    return any(key == wanted or key.startswith(f"{wanted}.") for wanted in _KEYS)


def _leaves(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """All options below a section, by full key; a list or a table of the user's is one value."""
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, _plain(value)


def _plain(value: Any) -> Any:
    """As it reads back from JSON."""
    tree = OmegaConf.create({"value": value})
    return json.loads(json.dumps(OmegaConf.to_container(tree)))["value"]
