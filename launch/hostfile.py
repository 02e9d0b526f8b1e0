"""The hostfile: which nodes there are and how many GPUs each has, as DeepSpeed's launcher reads it.

worker-1 slots=8
worker-2 slots=8  # a comment
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
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


def usable(slots: Mapping[str, int], micro_batch: int) -> dict[str, int]:
    """As many of the first hosts as a global micro-batch divides over, so that its size stays what it was.

    Args:
        slots: GPUs by host.
        micro_batch: samples of one micro-step over all ranks, `train.global_batch / train.accumulation`.

    Raises:
        UserError: it divides over none.
    """
    hosts = list(slots)
    for count in range(len(hosts), 0, -1):
        if micro_batch % sum(slots[host] for host in hosts[:count]) == 0:
            return {host: slots[host] for host in hosts[:count]}
    raise UserError(
        f"a micro-batch of {micro_batch} samples divides over no number of these nodes ({slots}): "
        "change train.global_batch or train.accumulation"
    )
