"""Plan a run before it is started: memory, time, traffic, and how often to save.

    python -m launch.plan --model vit_giant --objective jepa_vcr --nodes 8 --gpus-per-node 8 --gpu h100 [key=value …]

Words are those of train.py; `data=paper` is assumed where none chooses a size. Nothing is downloaded, allocated or started.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from launch.planning.goodput import Failures, daly, expected_goodput, recommend
from launch.planning.hardware import GPUS, Reached
from launch.planning.memory import Memory, Zero, memory
from launch.planning.roofline import Cluster, Step, step_time
from launch.planning.trace import Trace, trace
from mri_fm.config import Config, load_config
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, read_ds_config
from mri_fm.errors import UserError, run_main

PAPER_BATCH = 192
_MOST_ACCUMULATION = 64
_DAY = 86400.0
_LEAST_FAILURES = 30  # of a simulated run, so that chance does not choose the interval


@dataclass(frozen=True)
class Choice:
    """One way to run, and what it costs."""

    ds_config: str
    rounds: bool  # whether weights and gradients are rounded on their way (ZeRO++), which changes the numbers
    accumulation: int
    trace: Trace  # of one micro-step of a rank
    memory: Memory
    step: Step


def main() -> int:
    """Print the plan; exit code 2 where nothing fits."""
    options = parse(sys.argv[1:])
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing is run here, so DeepSpeed need not look for a GPU
    cluster = Cluster(options.nodes, options.gpus_per_node, GPUS[options.gpu])
    config, notes = configure(options, cluster)
    choices = list(consider(config, cluster))
    chosen = choose(choices, cluster)
    for line in [*notes, *report(config, cluster, choices, chosen), *saving(config, cluster, chosen, options)]:
        print(line)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base", help="a preset, as model=NAME of train.py")
    parser.add_argument("--objective", default="jepa_vcr")
    parser.add_argument("--nodes", type=positive, default=1)
    parser.add_argument("--gpus-per-node", type=positive, default=8)
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100")
    parser.add_argument("--volumes", type=positive, default=58781, help="of the corpus (default: the paper's)")
    parser.add_argument("--epochs", type=positive, default=300)
    parser.add_argument(
        "--volume-mb", type=float, default=14.0, help="10^6 bytes of a stored volume (default: 180×220×180 in int16)"
    )
    parser.add_argument("--storage-gb-s", type=float, default=5.0, help="10^9 bytes/s that the shared storage writes")
    parser.add_argument("--node-mtbf-days", type=float, default=100.0, help="mean time between failures of one node")
    parser.add_argument("--restart-s", type=float, default=300.0, help="from a failure to the first step again")
    parser.add_argument("words", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    for name in ("volume_mb", "storage_gb_s", "node_mtbf_days", "restart_s"):
        if not 0 < getattr(options, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must be above 0")
    return options


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def configure(options: argparse.Namespace, cluster: Cluster) -> tuple[Config, list[str]]:
    """The run's configuration, and what was assumed in it."""
    words, notes = [f"model={options.model}", *options.words], []
    if not any(word.startswith(("data=", "data.size=")) for word in words):
        words.append("data=paper")
        notes.append("assumed: data=paper (64×160×160); words choose another size")
    config = load_config(options.objective, [*words, "data.corpus=unread", "run.dir=unused"])
    if config.train.sequence_parallel > 1:
        raise UserError("the plan does not know train.sequence_parallel: plan without it, which says what does not fit")
    if not any(word.startswith("train.global_batch=") for word in words):
        config.train.global_batch = cluster.world * math.ceil(PAPER_BATCH / cluster.world)
        notes.append(
            f"assumed: train.global_batch={config.train.global_batch}, the least that {cluster.world} GPUs share and that is "
            f"not below the paper's {PAPER_BATCH}"
        )
    elif config.train.global_batch % cluster.world:
        raise UserError(f"train.global_batch={config.train.global_batch} does not divide over {cluster.world} GPUs")
    return config, notes


def consider(config: Config, cluster: Cluster) -> Iterator[Choice]:
    """Every shipped DeepSpeed configuration that shards, with every accumulation that divides the batch."""
    precision = precision_of(config)
    per_rank = config.train.global_batch // cluster.world * config.data.rows
    two, three = (trace(config, samples, precision) for samples in (2, 3))
    for path in sorted(DEFAULT_DS_CONFIG.parent.glob("*.json")):
        zero = Zero.of(read_ds_config(path))
        if zero.stage == 0:  # for comparisons on CPUs: bf16 needs a stage above
            continue
        for accumulation in (a for a in range(1, min(per_rank, _MOST_ACCUMULATION) + 1) if per_rank % a == 0):
            micro = at_batch(two, three, per_rank // accumulation)
            held = memory(micro, zero, world=cluster.world, precision=precision, accumulation=accumulation)
            step = step_time(micro, zero, cluster, precision=precision, accumulation=accumulation, reached=Reached())
            yield Choice(path.name, zero.quantized, accumulation, micro, held, step)


def at_batch(two: Trace, three: Trace, samples: int) -> Trace:
    """A trace of any number of samples, from those of two and three: all of it grows in a straight line."""

    def line(name: str) -> float:
        low, high = getattr(two, name), getattr(three, name)
        return float(low + (samples - 2) * (high - low))

    inputs, saved = int(line("inputs")), int(line("saved"))
    products, attention = line("matmul_flops"), line("attention_flops")
    return replace(two, samples=samples, inputs=inputs, saved=saved, matmul_flops=products, attention_flops=attention)


def choose(choices: Sequence[Choice], cluster: Cluster) -> Choice:
    """The fastest one that fits; of equals (within 1 %) the simplest: the first stage, the least accumulation.

    One that rounds weights and gradients on their way is taken only where no other fits.

    Raises:
        UserError: none fits.
    """
    limit = cluster.gpu.memory * Reached().fill
    fitting = [choice for choice in choices if choice.memory.total <= limit]
    fitting = [choice for choice in fitting if not choice.rounds] or fitting
    if not fitting:
        least = min(choices, key=lambda choice: choice.memory.total)
        raise UserError(
            f"nothing fits into {limit / 1e9:.0f} GB: the least is {least.memory.total / 1e9:.0f} GB ({least.ds_config}, "
            f"micro-batch {least.trace.samples}); take train.checkpoint_activations=true, more GPUs, a smaller size "
            "or objective.token_budget below 1"
        )
    best = min(choice.step.seconds for choice in fitting)
    return min(
        (choice for choice in fitting if choice.step.seconds <= 1.01 * best),
        key=lambda choice: (not choice.ds_config.startswith("zero1"), choice.ds_config, choice.accumulation),
    )


def report(config: Config, cluster: Cluster, choices: Sequence[Choice], chosen: Choice) -> list[str]:
    """The table of configurations, and what the chosen one means."""
    gpu, step, limit = cluster.gpu, chosen.step, cluster.gpu.memory * Reached().fill
    names = [field.name for field in fields(Memory)]
    lines = [
        f"{config.model.name} {config.objective.name} on {cluster.nodes} × {cluster.gpus_per_node} {gpu.name}: "
        f"{config.train.global_batch} samples a step",
        "",
        f"{'GB per GPU':18}" + "".join(f"{name:>13}" for name in (*names, "total")) + "   step s  fits",
    ]
    for choice in best_of_each(choices, limit):
        held = [getattr(choice.memory, name) for name in names] + [choice.memory.total]
        cells = "".join(f"{value / 1e9:13.2f}" for value in held)
        fits = "yes" if choice.memory.total <= limit else "no"
        lines.append(f"{choice.ds_config:18}{cells}{choice.step.seconds:9.3f}  {fits} (accumulation {choice.accumulation})")
    rate = config.train.global_batch / step.seconds
    lines += [
        "",
        f"take --ds_config ds_configs/{chosen.ds_config} train.accumulation={chosen.accumulation}: the fastest that fits "
        f"{limit / 1e9:.0f} GB without rounding weights and gradients on their way; among equals within 1 % the simplest",
        f"step {step.seconds:.3f} s = products and attention {step.compute_s:.3f} + pointwise {step.memory_s:.3f} + optimizer "
        f"{step.optimizer_s:.3f} + exposed communication {step.exposed_s:.3f} (of {step.communication_s:.3f})",
        f"communication {step.sent / 1e9:.2f} GB sent by each GPU in a step",
        f"{step.flops / 1e12:.1f} TFLOP per GPU, MFU {step.flops / step.seconds / gpu.flops:.1%}, {rate:.1f} volumes/s",
        "assumptions (a roofline; nothing here was measured on a GPU):",
        *(f"  {line}" for line in Reached().lines()),
        f"  {gpu.name}: {gpu.flops / 1e12:.0f} TFLOP/s in bf16, {gpu.memory / 1e9:.0f} GB at "
        f"{gpu.memory_bandwidth / 1e12:.2f} TB/s, {gpu.node_bandwidth / 1e9:.0f} GB/s inside a node, "
        f"{gpu.network_bandwidth / 1e9:.0f} GB/s between nodes",
    ]
    return lines


def best_of_each(choices: Sequence[Choice], limit: float) -> list[Choice]:
    """For each DeepSpeed configuration its fastest choice that fits, else its smallest."""

    def order(choice: Choice) -> tuple[bool, float]:
        fits = choice.memory.total <= limit
        return not fits, choice.step.seconds if fits else choice.memory.total

    return [min((c for c in choices if c.ds_config == name), key=order) for name in sorted({c.ds_config for c in choices})]


def saving(config: Config, cluster: Cluster, chosen: Choice, options: argparse.Namespace) -> list[str]:
    """Loader, duration, checkpoints and failures."""
    seconds = chosen.step.seconds
    rate = config.train.global_batch / seconds
    steps = math.ceil(options.volumes * options.epochs / config.train.global_batch)
    size = checkpoint_bytes(chosen.trace)
    write_s = size / (options.storage_gb_s * 1e9)
    between = options.node_mtbf_days * _DAY / cluster.nodes
    failures = Failures(between, write_s, options.restart_s)
    best = recommend(failures, max(steps * seconds, _LEAST_FAILURES * between))
    every = max(1, round(best.interval / seconds))
    return [
        f"the loader must read {rate * options.volume_mb / 1e3:.2f} GB/s over all nodes, {rate / cluster.nodes:.1f} volumes/s "
        "in each",
        f"{options.volumes} volumes × {options.epochs} epochs: {steps} steps, {steps * seconds / _DAY:.2f} days without a "
        f"failure, {steps * seconds / _DAY / best.goodput:.2f} with them",
        f"a checkpoint has {size / 1e9:.1f} GB and takes {write_s:.1f} s to write at {options.storage_gb_s:g} GB/s",
        f"failures: every {between / 3600:.1f} h over {cluster.nodes} nodes (assumed: {options.node_mtbf_days:g} days each, "
        f"{options.restart_s:g} s to be back): save every {best.interval / 60:.1f} min, checkpoint.every={every}; "
        f"goodput {best.goodput:.1%} (1 run in 20 below {best.low:.1%}; {expected_goodput(best.interval, failures):.1%} "
        f"of an endless run by Daly's equation); Daly's interval is {daly(failures) / 60:.1f} min",
    ]


def checkpoint_bytes(micro: Trace) -> int:
    """Fp32 masters and moments, and the teacher's fp32 masters."""
    return 12 * sum(micro.trained) + 4 * sum(micro.teacher)


def precision_of(config: Config) -> str:
    """ "auto" is bf16: a plan is for GPUs."""
    return "bf16" if config.train.precision == "auto" else config.train.precision


if __name__ == "__main__":
    run_main(main)
