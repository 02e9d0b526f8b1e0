"""The hostfile: which nodes there are and how many GPUs each has, as DeepSpeed's launcher reads it.

worker-1 slots=8
worker-2 slots=8  # a comment
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mri_fm.errors import UserError

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_PATIENCE_S = 30.0
_MOST_AT_ONCE = 64


def read_hostfile(path: Path) -> dict[str, int]:
    """Slots by host, in the order of the file.

    Raises:
        UserError: no such file, no host in it, a host twice, or a line that is not `HOST slots=N` with N above 0.
    """
    if not path.is_file():
        raise UserError(f"no hostfile at {path}: one line `HOST slots=GPUS` for each node, as in launch/hostfile.example")
    slots: dict[str, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if match is None or int(match[2]) == 0:
            raise UserError(f"{path}:{number}: `{text}` is not of the form `HOST slots=GPUS`, for instance `worker-1 slots=8`")
        if match[1] in slots:
            raise UserError(f"{path}:{number}: {match[1]} stands twice; one line for each node, with all its GPUs")
        slots[match[1]] = int(match[2])
    if not slots:
        raise UserError(f"{path} names no host: one line `HOST slots=GPUS` for each node")
    return slots


def write_hostfile(path: Path, slots: Mapping[str, int]) -> None:
    """The file that `read_hostfile` reads."""
    path.write_text("".join(f"{host} slots={number}\n" for host, number in slots.items()))


def unreachable(hosts: Iterable[str]) -> dict[str, str]:
    """Hosts at which a command cannot be run by ssh without a password, each with the reason; all are asked at once."""
    names = list(hosts)
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, len(names)) or 1) as pool:
        reasons = pool.map(_why_unreachable, names)
        return {name: reason for name, reason in zip(names, reasons, strict=True) if reason is not None}


def _why_unreachable(host: str) -> str | None:
    try:
        done = subprocess.run([*SSH, host, "true"], capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except FileNotFoundError:
        return "there is no ssh on this machine"
    except subprocess.TimeoutExpired:
        return f"ssh gave no answer for {_PATIENCE_S:g} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"ssh exits with {done.returncode}"])[-1]


@dataclass(frozen=True)
class Batch:
    """What is shared out over nodes, and the ways in which it may be."""

    size: int  # train.global_batch
    accumulation: int  # train.accumulation
    most: int = 0  # samples that a rank takes at once at most; 0: any number
    constant: bool = False  # whether `accumulation` must stay as it is
    sequence: int = 1  # train.sequence_parallel: ranks that take the same samples

    def fits(self, ranks: int, accumulation: int) -> bool:
        """Whether micro-steps divide over ranks, and a rank's share is not too large."""
        groups, left = divmod(ranks, self.sequence)
        share, rest = divmod(self.size, accumulation * groups) if groups else (0, 1)
        return left == rest == 0 and (self.most == 0 or share <= self.most)


def usable(slots: Mapping[str, int], batch: Batch) -> tuple[dict[str, int], int]:
    """As many of the first hosts as a batch divides over, and into how many micro-steps.

    Micro-steps stay what they were where any number of hosts allows it, and a rank's share of them grows. Else there are as
    few more of them as need be, unless they must stay.

    Args:
        slots: GPUs by host.
        batch: what divides.

    Raises:
        UserError: it divides over none.
    """
    most_steps = batch.accumulation if batch.constant else batch.size
    for accumulation in range(batch.accumulation, most_steps + 1):
        for count in range(len(slots), 0, -1):
            used = dict(list(slots.items())[:count])
            if batch.fits(sum(used.values()), accumulation):
                return used, accumulation
    limit = f" with at most {batch.most} samples a rank" if batch.most else ""
    kept = " and objective.require_constant_batch=true keeps its micro-steps as they are" if batch.constant else ""
    raise UserError(
        f"a batch of {batch.size} in {batch.accumulation} micro-steps divides over no number of these nodes{limit} "
        f"({dict(slots)}){kept}: change train.global_batch or train.accumulation, or wait for nodes"
    )
