"""The configuration of the networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mri_fm.errors import UserError


@dataclass
class HeadConfig:
    """A narrow transformer behind the encoder: the JEPA predictor or the MAE decoder."""

    width: int = 384
    depth: int = 6
    heads: int = 6


@dataclass
class ModelConfig:
    """The encoder (a 3D ViT) and the sizes of the heads that objectives may put behind it; docs/models.md has the equations.

    Raises:
        UserError: a value that no network can be built from.
    """

    name: str = "vit_tiny"
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    patch: list[int] = field(default_factory=lambda: [8, 8, 8])  # voxels along z, y, x
    position: str = "sincos"  # sincos (added once), rope (turns queries and keys in every layer, of the heads too), learned
    rope_base: float = 100.0  # of the frequencies of rope
    rope_spacing: bool = False  # rope counts in millimetres of each volume instead of in patches
    registers: int = 0  # learned tokens beside the patches, in the encoder alone
    qk_norm: bool = False  # LayerNorm on queries and keys
    mlp: str = "gelu"  # gelu, swiglu (as many parameters)
    drop_path: float = 0.0  # probability of leaving out a branch of the last layer of the encoder, linear in depth
    layer_scale: float = 0.0  # initial gain of both branches; 0: none
    moe_experts: int = 0  # experts of a mixture in the encoder, among which each token is routed; 0: MLPs alone
    moe_active: int = 6  # of these, how many a token passes
    moe_shared: int = 2  # further experts, which every token passes
    moe_width: int = 384  # hidden width of an expert
    moe_every: int = 2  # layers from one mixture to the next; 2: the second, the fourth, ...
    moe_bias_rate: float = 1e-4  # of the bias that evens out the load, per optimizer step; 0: none
    predictor: HeadConfig = field(default_factory=HeadConfig)
    decoder: HeadConfig = field(default_factory=lambda: HeadConfig(depth=8))

    def __post_init__(self) -> None:
        """Check what types cannot."""
        for key, allowed in {"position": ("sincos", "rope", "learned"), "mlp": ("gelu", "swiglu")}.items():
            if getattr(self, key) not in allowed:
                raise UserError(f"model.{key}={getattr(self, key)} is not one of {', '.join(allowed)}")
        ranges = {
            "mlp_ratio": (0 < self.mlp_ratio < math.inf, "above 0, for instance 4"),
            "rope_base": (1 < self.rope_base < math.inf, "above 1, for instance 100"),
            "registers": (self.registers >= 0, "0 or more, for instance 4"),
            "drop_path": (0 <= self.drop_path < 1, "at least 0 and below 1, for instance 0.1"),
            "layer_scale": (0 <= self.layer_scale < math.inf, "0 (none) or more, for instance 1e-5"),
            "moe_experts": (self.moe_experts >= 0, "0 (none) or more, for instance 16"),
        }
        if self.moe_experts > 0:
            ranges |= self._mixture_ranges()
        for key, (holds, advice) in ranges.items():
            if not holds:
                raise UserError(f"model.{key}={getattr(self, key)} must be {advice}")
        rope = self.position == "rope"
        if self.rope_spacing and not rope:
            raise UserError("model.rope_spacing=true needs rotary positions: set model.position=rope")
        _check_transformer("model", self, rope)
        _check_transformer("model.predictor", self.predictor, rope)
        _check_transformer("model.decoder", self.decoder, rope)

    def _mixture_ranges(self) -> dict[str, tuple[bool, str]]:
        """What must hold with mixtures; grouped products want rows of 16 bytes, which are 8 numbers in bf16."""
        aligned = "a multiple of 8 with model.moe_experts, for instance 384"
        return {
            "moe_active": (1 <= self.moe_active <= self.moe_experts, f"1 to model.moe_experts={self.moe_experts}"),
            "moe_shared": (self.moe_shared >= 0, "0 (none) or more, for instance 2"),
            "moe_width": (self.moe_width >= 8 and self.moe_width % 8 == 0, aligned),
            "width": (self.width % 8 == 0, aligned),
            "moe_every": (1 <= self.moe_every <= self.depth, f"1 to model.depth={self.depth}: else no layer has a mixture"),
            "moe_bias_rate": (0 <= self.moe_bias_rate < math.inf, "0 (no balancing) or more, for instance 1e-4"),
        }


def _check_transformer(name: str, part: ModelConfig | HeadConfig, rope: bool) -> None:
    for key in ("width", "depth", "heads"):
        if getattr(part, key) < 1:
            raise UserError(f"{name}.{key}={getattr(part, key)} must be at least 1")
    if rope and part.width // part.heads < 6:
        raise UserError(
            f"{name}.heads={part.heads} leaves {part.width // part.heads} features for each, and model.position=rope needs 6 "
            "or more: take fewer heads or sincos"
        )
