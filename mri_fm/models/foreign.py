"""Encoders of other libraries under this one's names: timm, Hugging Face, torchvision, MONAI, V-JEPA, and this one.

Only names are looked at here; `mri_fm.models.inflation` has what becomes of tensors.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

EMBEDDING, POSITION, REGISTERS = "embedding.weight", "position.table_ND", "register_token"
BESIDE_PATCHES = ("cls_token", "class_token", "dist_token", "reg_token", "register_token", "register_tokens")
"""Last words of the names of tokens that lie nowhere, and come first in a table of positions that has them."""
_OUTSIDE = {
    "embedding": "patch_embed.proj embeddings.patch_embeddings.projection embeddings.patch_embeddings.proj conv_proj "
    "patch_embedding.patch_embeddings embedding",
    "norm": "norm layernorm ln",
}
_INSIDE = {
    "norm_attention": "norm1 ln_1 layernorm_before norm_attention",
    "attention.qkv": "attn.qkv self_attention.in_proj attention.qkv",
    "attention.out": "attn.proj attn.out_proj self_attention.out_proj attention.output.dense attention.o_proj attention.proj "
    "attention.out",
    "attention.norm_q": "attn.q_norm attention.norm_q",
    "attention.norm_k": "attn.k_norm attention.norm_k",
    "norm_mlp": "norm2 ln_2 layernorm_after norm_mlp",
    "mlp.up": "mlp.fc1 mlp.linear1 mlp.0 mlp.linear_1 intermediate.dense mlp.up",
    "mlp.down": "mlp.fc2 mlp.linear2 mlp.3 mlp.linear_2 output.dense mlp.w3 mlp.weights_out mlp.down",
    "mlp.gate_up": "mlp.w12 mlp.weights_in mlp.gate_up",
}
_TABLES = {
    POSITION: "pos_embed embeddings.position_embeddings pos_embedding patch_embedding.position_embeddings position.table_ND",
    REGISTERS: "reg_token register_token register_tokens embeddings.register_tokens",
}
_SCALES = {
    "scale_attention.gain_D": "ls1.gamma layer_scale1.lambda1 scale_attention.gain_D",
    "scale_mlp.gain_D": "ls2.gamma layer_scale2.lambda1 scale_mlp.gain_D",
}
_PARTS = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v")  # of attention.qkv, where it is split
_BLOCK = re.compile(r"((?:.*?\.)?)(?:blocks\.|(?:encoder\.)?layers?\.(?:encoder_layer_)?)(\d+)\.(.+)")


def _suffixes(layers: dict[str, str], tables: dict[str, str]) -> dict[str, str]:
    """Theirs → ours; torch's attention writes in_proj_weight."""
    found = {their: ours for ours, theirs in tables.items() for their in theirs.split()}
    for ours, theirs in layers.items():
        for their in theirs.split():
            for kind in ("weight", "bias"):
                found[f"{their}{'_' if their.endswith('in_proj') else '.'}{kind}"] = f"{ours}.{kind}"
    return found


_OUTSIDE_NAMES = _suffixes(_OUTSIDE, _TABLES)
_INSIDE_NAMES = _suffixes(_INSIDE, _SCALES)
_SPLIT_NAMES = {
    f"{outer}{part}{dot}{kind}": f"attention.qkv.{kind}"
    for outer in ("attention.", "attention.attention.", "attn.")
    for part in _PARTS
    for dot, kind in ((".", "weight"), (".", "bias"), ("_", "bias"))
}


@dataclass
class Translation:
    """Which of a file's tensors are which of an encoder's.

    Attributes:
        sources: our name → theirs; q, k and v, in this order, where `attention.qkv` is split.
        others: names without a counterpart.
    """

    sources: dict[str, list[str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def translate(names: Iterable[str]) -> Translation:
    """Find the encoder among a file's tensors.

    A file may hold it under a prefix, beside a predictor, a decoder or a classifier, whose tensors are then `others`.

    Raises:
        ValueError: no patch embedding, or several.
    """
    encoders: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    others = []
    for name in sorted(names):
        prefix, ours = _translated(name)
        if ours is None:
            others.append(name)
        else:
            encoders[prefix][ours].append(name)
    prefixes = [prefix for prefix, sources in encoders.items() if EMBEDDING in sources]
    if len(prefixes) != 1:
        found = f"{len(prefixes)} encoders ({', '.join(map(repr, prefixes))})" if prefixes else "no patch embedding"
        raise ValueError(f"{found} among its tensors")
    sources = encoders.pop(prefixes[0])
    others += [name for left in encoders.values() for theirs in left.values() for name in theirs]
    return Translation({ours: sorted(theirs, key=_part) for ours, theirs in sources.items()}, sorted(others))


def _translated(name: str) -> tuple[str, str | None]:
    """Prefix of the encoder that a tensor belongs to, and its name there; None: it has none."""
    if match := _BLOCK.fullmatch(name):
        prefix, number, rest = match.groups()
        ours = _INSIDE_NAMES.get(rest) or _SPLIT_NAMES.get(rest)
        return _plain(prefix), ours and f"blocks.{int(number)}.{ours}"
    for start in [0, *(dot.end() for dot in re.finditer(r"\.", name))]:  # the longest known ending
        if name[start:] in _OUTSIDE_NAMES:
            return _plain(name[:start]), _OUTSIDE_NAMES[name[start:]]
    return "", None


def _plain(prefix: str) -> str:
    """Some libraries keep embedding and norm outside of their `encoder`, some inside."""
    return prefix.removesuffix("encoder.")


def _part(name: str) -> int:
    """Whether it is of the queries, the keys or the values: each has a letter of its own."""
    found = re.search(r"\.([qkv])(?:uery|ey|alue)?(?:_proj|_bias)?(?:\.|$)", name)
    return "qkv".index(found[1]) if found else 0
