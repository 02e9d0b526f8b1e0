"""Weak scaling: what a step of the engine costs beside DDP and plain torch, on one rank and on two, one thread each.

    python benchmarks/scaling.py                                             # ViT-S, jepa_vcr, 4 volumes a rank: some minutes
    python benchmarks/scaling.py --objective mae --batch 2 --rounds 21
    python benchmarks/scaling.py --size 64 96 96 --batch 1                   # more computation a weight

Each contestant meets DDP alone, in processes that hold a model for either: forward and backward pass, clipping, fused AdamW,
the teacher's average; the engine takes the file of `ds_configs/` and also looks for losses and gradients that are not finite.
Both keep freed memory as `train.py` has it on the CPU, which makes DDP faster too. They take turns, and who begins changes
from round to round. CPU time of a process, mean over ranks: on two cores that others use too, wall time says little.
Ratios are to DDP's in the same round; medians over the rounds.

Prints Markdown for `benchmarks/results/scaling.md`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mri_fm.config import Config, load_config
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment, read_environment, start_process_group
from mri_fm.engine.nonfinite import NonfiniteGuard
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, build_engine, build_objective, build_optimizer, read_ds_config
from mri_fm.errors import run_main
from mri_fm.inputs import Inputs

PLAIN, DDP = "plain torch", "DDP"
STAGES = {f"ZeRO stage {stage}": stage for stage in (0, 1, 2)}
WORLDS = (1, 2)
TARGET = 1.15  # of DDP, for the engine
WARM_UP = 2
Cost = tuple[float, float]
"""CPU and wall seconds of a step."""


@dataclass(frozen=True)
class Match:
    """All rounds of a contestant and of DDP beside it."""

    mine: list[Cost]
    ddp: list[Cost]

    def ratio(self) -> float:
        """Of CPU times."""
        return statistics.median(mine / ddp for (mine, _), (ddp, _) in zip(self.mine, self.ddp, strict=True))


@dataclass(frozen=True)
class Work:
    """What all contestants train on: the same batch at each step, another one on each rank."""

    config: Config
    inputs: Inputs
    now: dict[str, float]  # schedules

    @classmethod
    def of(cls, options: argparse.Namespace, environment: Environment) -> Work:
        """The configuration at this number of ranks, so that each has `options.batch` volumes."""
        size, world, rank = list(options.size), environment.world, environment.rank
        words = [f"model={options.model}", f"data.size={size}", "data.corpus=none", "run.dir=none"]
        config = load_config(options.objective, [*words, f"train.global_batch={options.batch * world}"])
        volumes = torch.randn(options.batch, 1, *size, generator=torch.Generator().manual_seed(rank))
        inputs = Inputs(volumes, torch.arange(rank, options.batch * world, world), 0)
        schedules = build_objective(config).schedules(1)
        return cls(config, inputs, {"ema": 0.99} | {name: float(values[0]) for name, values in schedules.items()})


def torch_step(work: Work, *, parallel: bool) -> Callable[[], None]:
    """A step of torch alone, or of DDP."""
    objective = build_objective(work.config)
    optimizer = build_optimizer(objective, work.config.optim, work.config.model.depth)
    ema = EMA(objective.ema_pairs())
    module: nn.Module = DistributedDataParallel(objective) if parallel else objective
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]

    def step() -> None:
        optimizer.zero_grad()
        loss, _ = module(work.inputs, work.now)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, work.config.train.clip)
        optimizer.step()
        ema.update(work.now["ema"])

    return step


def engine_step(work: Work, stage: int, environment: Environment) -> Callable[[], None]:
    """A step as `mri_fm.engine.loop` does it."""
    sharding = read_ds_config(DEFAULT_DS_CONFIG.with_name(f"zero{stage}.json"))
    engine: Any = build_engine(work.config, sharding, environment)
    ema, guard = EMA(engine.module.ema_pairs()), NonfiniteGuard(engine, 0, environment)

    def step() -> None:
        loss, _ = engine(work.inputs, work.now)
        guard.note(loss, ["random"])
        engine.backward(loss)
        guard.step()
        ema.update(work.now["ema"], guard.finish(1))
        guard.settle()

    return step


def measure(options: argparse.Namespace, name: str) -> Match:
    """On one rank: a contestant and DDP take turns; mean costs over ranks."""
    torch.set_num_threads(1)
    environment = read_environment()
    start_process_group(environment)
    work = Work.of(options, environment)
    ddp = torch_step(work, parallel=True)
    mine = torch_step(work, parallel=False) if name == PLAIN else engine_step(work, STAGES[name], environment)
    costs: dict[Callable[[], None], list[Cost]] = {mine: [], ddp: []}
    for turn in range(WARM_UP + options.rounds):
        for step in (mine, ddp) if turn % 2 else (ddp, mine):
            costs[step].append(mean_over_ranks(*seconds(step)))
    return Match(costs[mine][WARM_UP:], costs[ddp][WARM_UP:])


def seconds(step: Callable[[], None]) -> tuple[float, float]:
    """CPU time of this process with all its threads, and wall time; all ranks begin together."""
    torch.distributed.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def mean_over_ranks(cpu: float, wall: float) -> tuple[float, float]:
    """The same pair on all ranks."""
    both = torch.tensor([cpu, wall], dtype=torch.float64)
    torch.distributed.all_reduce(both)
    cpu, wall = (both / torch.distributed.get_world_size()).tolist()
    return cpu, wall


def start_ranks(world: int, name: str) -> Match:
    """Run this script once for each rank."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"DS_ACCELERATOR": "cpu", "LOCAL_WORLD_SIZE": str(world), "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--as-rank", name],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{name} has failed on {world} ranks, see above")
    return Match(**json.loads(outputs[0].splitlines()[-1]))


def cells(rounds: list[Cost]) -> list[str]:
    """Median CPU and wall seconds."""
    return [f"{statistics.median(column):.2f}" for column in zip(*rounds, strict=True)]


def row(name: str, matches: dict[int, Match]) -> str:
    """One contestant: for each number of ranks its times and its ratio; and what a second rank has cost."""
    words = [name]
    for world in WORLDS:
        words += [*cells(matches[world].mine), f"{matches[world].ratio():.2f}"] if world in matches else [""] * 3
    medians = [statistics.median(cpu for cpu, _ in match.mine) for match in matches.values()]
    words.append(f"{medians[-1] / medians[0]:.2f}" if len(medians) == len(WORLDS) else "")
    return "| " + " | ".join(words) + " |"


def table(options: argparse.Namespace, of_name: dict[str, dict[int, Match]]) -> str:
    """All of it; DDP's own row is of all its rounds."""
    columns = " | ".join(f"{world}: CPU s | {world}: wall s | {world}: CPU / DDP" for world in WORLDS)
    lines = [
        f"## {datetime.date.today()}, {platform.machine()} CPU, {os.cpu_count()} threads, load {os.getloadavg()[0]:.0f}\n",
        f"{options.model}, {options.objective}, {' × '.join(map(str, options.size))} voxels, {options.batch} volumes a rank, "
        f"fp32, medians of {options.rounds} rounds. Target: the engine at most {TARGET} of DDP.\n",
        f"| ranks | {columns} | CPU of a rank, 2 ranks / 1 |",
        "|---" * (3 * len(WORLDS) + 2) + "|",
    ]
    together = {
        world: [cost for matches in of_name.values() if world in matches for cost in matches[world].ddp] for world in WORLDS
    }
    ddp = {world: Match(rounds, rounds) for world, rounds in together.items()}
    return "\n".join(lines + [row(name, matches) for name, matches in {DDP: ddp, **of_name}.items()])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small")
    parser.add_argument("--objective", default="jepa_vcr")
    parser.add_argument("--size", type=int, nargs=3, default=[32, 64, 64], help="depth, height, width")
    parser.add_argument("--batch", type=int, default=4, help="volumes of a rank")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--as-rank", metavar="CONTESTANT", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """The command line."""
    options = parse()
    if options.as_rank:
        print(json.dumps(asdict(measure(options, options.as_rank))), flush=True)
        return 0
    of_name = {PLAIN: {1: start_ranks(1, PLAIN)}}
    of_name |= {name: {world: start_ranks(world, name) for world in WORLDS} for name in STAGES}
    print(table(options, of_name), flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
