"""Ranks started with different settings, on different corpora or from different code are found before the first step."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xxhash

import mri_fm
from mri_fm.config import Config, to_yaml
from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError

_NAMED = 4  # ranks that a message spells out


def code_version() -> str:
    """What this rank runs: a hash of the package's source, and the versions of what computes."""
    root = Path(mri_fm.__file__).parent
    digest = xxhash.xxh3_64()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{digest.hexdigest()}, torch {torch.__version__}, deepspeed {version('deepspeed')}, Python {python}"


def require_agreement(environment: Environment, seen: dict[str, str]) -> None:
    """Compare what each rank has seen, by name; called by all ranks.

    Raises:
        UserError: on all ranks, if a rank differs from rank 0; its message names the ranks and the first thing that differs.
    """
    of_rank: list[Any] = [None] * environment.world
    torch.distributed.all_gather_object(of_rank, seen)
    for name, expected in of_rank[0].items():
        others = [rank for rank, theirs in enumerate(of_rank) if theirs[name] != expected]
        if others:
            rest = ", …" if len(others) > _NAMED else ""
            ranks = ", ".join(map(str, others[:_NAMED])) + rest
            detail = _first_difference(expected, of_rank[others[0]][name])
            raise UserError(f"rank {ranks} and rank 0 do not have the same {name}: {detail}; start all with the same command")


def settings(config: Config, sharding: dict[str, Any]) -> dict[str, str]:
    """What is known before the corpus is opened."""
    return {
        "configuration": to_yaml(config),
        "--ds_config": json.dumps(sharding, indent=1, sort_keys=True),
        "code": code_version(),
    }


def _first_difference(expected: str, met: str) -> str:
    ours, theirs = expected.splitlines(), met.splitlines()
    pairs = zip(ours + [""] * len(theirs), theirs + [""] * len(ours), strict=True)
    before, after = next((a, b) for a, b in pairs if a != b)
    return f"'{after.strip()}' instead of '{before.strip()}'"
