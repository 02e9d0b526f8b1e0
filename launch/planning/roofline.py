"""Seconds of a step, from operations, bytes and the speed of the hardware (Williams et al., Roofline, CACM 2009)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from launch.planning.hardware import GPU, Reached
from launch.planning.memory import BYTES, Zero
from launch.planning.trace import Trace


@dataclass(frozen=True)
class Cluster:
    """Nodes, and GPUs in each."""

    nodes: int
    gpus_per_node: int
    gpu: GPU

    @property
    def world(self) -> int:
        """Ranks: one for each GPU."""
        return self.nodes * self.gpus_per_node

    @property
    def bandwidth(self) -> float:
        """Bytes/s of one GPU in one direction, over the slowest link of a ring through all GPUs."""
        return self.gpu.node_bandwidth if self.nodes == 1 else self.gpu.network_bandwidth


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step, and bytes that one GPU sends in it."""

    compute_s: float
    memory_s: float
    optimizer_s: float
    communication_s: float
    exposed_s: float  # communication that nothing hides
    sent: float
    flops: float  # of one GPU

    @property
    def seconds(self) -> float:
        """The step."""
        return self.compute_s + self.memory_s + self.optimizer_s + self.exposed_s


def step_time(trace: Trace, zero: Zero, cluster: Cluster, *, precision: str, accumulation: int, reached: Reached) -> Step:
    """A step of `accumulation` micro-steps like the traced one."""
    gpu, trained, teacher = cluster.gpu, sum(trace.trained), sum(trace.teacher)
    work = trace.matmul_flops / reached.matmul + trace.attention_flops / reached.attention
    compute_s = accumulation * (1 + trace.recomputed) * work / gpu.flops
    memory_s = accumulation * reached.passes * trace.saved / (gpu.memory_bandwidth * reached.memory)
    moved = 28 * trained / cluster.world + 12 * teacher / (cluster.world if zero.stage == 3 else 1)
    optimizer_s = moved / (gpu.memory_bandwidth * reached.memory)
    if zero.offload:  # gradients to the host, weights back
        optimizer_s += 2 * BYTES[precision] * trained / cluster.world / (gpu.host_bandwidth * reached.memory)
    volumes = traffic(zero, BYTES[precision], trained, teacher, accumulation)
    share = (cluster.world - 1) / cluster.world
    sent = share * sum(volumes)
    calls = math.ceil(sum(volumes) / BYTES[precision] / zero.bucket)
    latency_s = calls * reached.latency_s * math.log2(cluster.world) if cluster.world > 1 else 0.0
    communication_s = sent / (cluster.bandwidth * reached.network) + latency_s
    hidden_s = min(communication_s, compute_s + memory_s) if zero.overlap else 0.0
    flops = accumulation * (trace.matmul_flops + trace.attention_flops)
    return Step(compute_s, memory_s, optimizer_s, communication_s, communication_s - hidden_s, sent, flops)


def traffic(zero: Zero, size: int, trained: int, teacher: int, accumulation: int) -> tuple[float, float]:
    """Bytes that pass each GPU in a step, but for the factor (W - 1) / W: of weights and of gradients (ZeRO, §7).

    Stages 1 and 2 gather the weights after the step; stage 3 gathers them in every forward and backward pass, and the
    teacher's in every forward pass. Stage 1 reduces gradients once in a step, the others once in a micro-step. ZeRO++ sends
    weights in 8 bits and gradients in 4, and gathers for the backward pass inside the node, which is not counted here.
    """
    reductions = 1 if zero.stage == 1 else accumulation
    if zero.stage < 3:
        return float(size * trained), float(size * trained * reductions)
    if zero.quantized:
        return float(accumulation * (trained + teacher)), 0.5 * trained * reductions
    return float(size * accumulation * (2 * trained + teacher)), float(size * trained * reductions)
