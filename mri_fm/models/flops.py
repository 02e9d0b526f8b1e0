"""Floating-point operations of transformers, attention included.

Per layer and forward pass over N tokens of width D with MLP ratio r: 8·N·D² for the four projections, 4·r·N·D² for the MLP
(of either kind, but for the rounding of SwiGLU's hidden width), 4·N²·D for attention scores and mixing. Embeddings, norms,
rotations and softmax are left out: well under 1 % at our sizes. A mixture of E experts of hidden width h, of which a token
passes K and S shared ones, has 4·(K + S)·N·D·h instead of the MLP (6· with SwiGLU), and 2·N·D·E for the router.
"""

from __future__ import annotations

from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.heads import HEAD_MLP_RATIO
from mri_fm.models.mlp import mlp_hidden

TRAINED = 3  # a forward pass, and a backward pass that costs two


def encoder_flops(model: ModelConfig, tokens: int) -> float:
    """One forward pass of the encoder over one sequence of patches, beside which its registers run."""
    tokens += model.registers
    plain = transformer_flops(tokens, model.width, model.depth, model.mlp_ratio, model.mlp)
    mixtures = model.depth // model.moe_every if model.moe_experts else 0
    instead = model.moe_experts + _mlp_matrices(model.mlp) * (
        (model.moe_active + model.moe_shared) * model.moe_width - mlp_hidden(model.width, model.mlp_ratio, model.mlp)
    )
    return plain + mixtures * 2 * tokens * model.width * instead


def head_flops(head: HeadConfig, tokens: int, mlp: str = "gelu") -> float:
    """One forward pass of a predictor or decoder over visible and hidden tokens together."""
    return transformer_flops(tokens, head.width, head.depth, HEAD_MLP_RATIO, mlp)


def transformer_flops(tokens: int, width: int, depth: int, mlp_ratio: float, mlp: str = "gelu") -> float:
    """One forward pass of `depth` layers over one sequence."""
    projections = 2 * tokens * width * (4 * width + _mlp_matrices(mlp) * mlp_hidden(width, mlp_ratio, mlp))
    attention = 4 * tokens**2 * width
    return depth * (projections + attention)


def _mlp_matrices(mlp: str) -> int:
    return 3 if mlp == "swiglu" else 2
