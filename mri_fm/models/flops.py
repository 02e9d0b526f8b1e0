"""Floating-point operations of transformers, attention included.

Per layer and forward pass over N tokens of width D with MLP ratio r: 8·N·D² for the four projections, 4·r·N·D² for the MLP
(of either kind, but for the rounding of SwiGLU's hidden width), 4·N²·D for attention scores and mixing. Embeddings, norms,
rotations and softmax are left out: well under 1 % at our sizes.
"""

from __future__ import annotations

from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.heads import HEAD_MLP_RATIO
from mri_fm.models.layers import mlp_hidden

TRAINED = 3  # a forward pass, and a backward pass that costs two


def encoder_flops(model: ModelConfig, tokens: int) -> float:
    """One forward pass of the encoder over one sequence of patches, beside which its registers run."""
    return transformer_flops(tokens + model.registers, model.width, model.depth, model.mlp_ratio, model.mlp)


def head_flops(head: HeadConfig, tokens: int, mlp: str = "gelu") -> float:
    """One forward pass of a predictor or decoder over visible and hidden tokens together."""
    return transformer_flops(tokens, head.width, head.depth, HEAD_MLP_RATIO, mlp)


def transformer_flops(tokens: int, width: int, depth: int, mlp_ratio: float, mlp: str = "gelu") -> float:
    """One forward pass of `depth` layers over one sequence."""
    mlp_matrices = 3 if mlp == "swiglu" else 2
    projections = 2 * tokens * width * (4 * width + mlp_matrices * mlp_hidden(width, mlp_ratio, mlp))
    attention = 4 * tokens**2 * width
    return depth * (projections + attention)
