"""GPUs and networks, and how much of their peaks real programs reach: what predictions rest on."""

from __future__ import annotations

from dataclasses import dataclass

from mri_fm.observe.throughput import PEAK_BF16_FLOPS


@dataclass(frozen=True)
class GPU:
    """Peaks from the vendor's data sheets: bf16 dense FLOP/s, bytes of memory, bytes/s in one direction."""

    name: str
    flops: float
    memory: float
    memory_bandwidth: float
    node_bandwidth: float  # to the other GPUs of its node
    network_bandwidth: float  # to other nodes: its share of the node's network
    host_bandwidth: float  # to the host


GPUS = {
    "h100": GPU("H100 SXM", PEAK_BF16_FLOPS["H100"], 80e9, 3.35e12, 450e9, 50e9, 64e9),
    "h200": GPU("H200 SXM", PEAK_BF16_FLOPS["H200"], 141e9, 4.8e12, 450e9, 50e9, 64e9),
    "b200": GPU("B200 SXM", PEAK_BF16_FLOPS["B200"], 180e9, 8e12, 900e9, 50e9, 64e9),
    "a100": GPU("A100 SXM 80 GB", PEAK_BF16_FLOPS["A100"], 80e9, 2.04e12, 300e9, 25e9, 32e9),
    "l40s": GPU("L40S", PEAK_BF16_FLOPS["L40S"], 48e9, 0.864e12, 32e9, 25e9, 32e9),
}


@dataclass(frozen=True)
class Reached:
    """Shares of the peaks that are assumed, and other assumptions of the roofline; none of them was measured here."""

    matmul: float = (
        0.70  # large bf16 products reach 0.8 (790 of 989 TFLOP/s on an H100); those of a transformer are not all large
    )
    attention: float = 0.45  # fused attention, forward and backward
    memory: float = 0.75  # pointwise operations, norms, optimizer
    passes: float = 4.0  # times that each saved activation crosses the memory bus: written, read again, and its gradient
    network: float = 0.75  # of a ring's bandwidth, inside a node and between nodes
    latency_s: float = 30e-6  # of a collective, for each doubling of the ranks
    fill: float = 0.90  # of a GPU's memory; the rest is for fragmentation, NCCL's buffers and the context

    def lines(self) -> list[str]:
        """In words."""
        return [
            f"products run at {self.matmul:.0%} of the bf16 peak, attention at {self.attention:.0%}; pointwise operations "
            f"move each saved activation {self.passes:g} times at {self.memory:.0%} of the memory's bandwidth; "
            "none of this overlaps",
            f"collectives run at {self.network:.0%} of the slowest link's bandwidth, which is the network's beyond one node, "
            f"plus {self.latency_s * 1e6:g} µs for each doubling of the ranks",
            f"a configuration fits if it fills at most {self.fill:.0%} of the memory; the loader keeps up",
        ]
