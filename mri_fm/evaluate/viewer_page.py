"""The viewer as a part of the page: its data as JSON with PNGs in it, drawn by `viewer.js`.

Axes: Z/Y/X voxels or cells along z, y, x, M cells.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mri_fm.evaluate.examples import headings
from mri_fm.evaluate.viewer import View, score_name

STYLE = (Path(__file__).parent / "viewer.css").read_text(encoding="utf-8")
SCRIPT = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")


def viewer_html(views: Sequence[View], kind: str) -> str:
    """The viewer of a task whose target is of that kind; the page needs `STYLE`, and `SCRIPT` behind its last viewer."""
    if not views:
        return ""
    content = {"headings": headings(kind), "kind": kind, "score": score_name(kind), "units": [_unit(view) for view in views]}
    data = json.dumps(content, separators=(",", ":")).replace("</", "<\\/")
    return f"""<h2>What the encoder looks at</h2>
<p>Click into a slice, or move the sliders, to choose a token. <b>Attention</b>: where this token looks, in the frozen
encoder. <b>Similarity</b>: cosine between its output features and those of every other token. <b>Occlusion</b>: by how much
the {escape(score_name(kind))} by the headline probe falls when the head's voxels in a block become their mean; asked of the
probe that had not learned this unit. All three show what the network does, not what an illness looks like.</p>
<div class="viewer"><noscript>The viewer needs JavaScript; it is in this page and asks for nothing outside it.</noscript>
<script type="application/json">{data}</script></div>"""


def _unit(view: View) -> dict[str, Any]:
    planes = view.volume_ZYX.numpy()
    rows = [_Rows.of(one.value_MM.numpy()) for one in view.maps]
    return {
        "name": view.name,
        "truth": view.verdict.truth,
        "said": view.verdict.said,
        "right": view.verdict.right,
        "shape": list(planes.shape),
        "extent": [round(mm, 2) for mm in view.extent],
        "grid": list(view.grid),
        "registers": view.registers,
        "volume": _png(planes.reshape(-1, planes.shape[2])),
        "maps": [
            {"kind": m.kind, "layer": m.layer, "head": m.head, "low": row.low, "high": row.high, "own": row.own}
            for m, row in zip(view.maps, rows, strict=True)
        ],
        "rows": _png(np.concatenate([row.level_MM for row in rows])),
        "score": round(view.score, 4),
        "occlusions": [
            {"edge": [round(mm, 1) for mm in one.edge_mm], "drop": _rounded(one.drop_M.numpy())} for one in view.occlusions
        ],
    }


@dataclass(frozen=True)
class _Rows:
    """A map in 256 levels for each row, between its least and its largest value on *other* cells.

    A cell's own value (1 in a similarity, half of a rollout) would leave no levels for the others; it stands in `own`.
    """

    level_MM: NDArray[np.uint8]
    low: list[float]
    high: list[float]
    own: list[float]

    @classmethod
    def of(cls, value_MM: NDArray[np.float32]) -> _Rows:
        """Quantise."""
        itself = np.eye(len(value_MM), dtype=np.bool_) & (len(value_MM) > 1)
        low_M1 = np.where(itself, np.inf, value_MM).min(axis=1, keepdims=True)
        high_M1 = np.where(itself, -np.inf, value_MM).max(axis=1, keepdims=True)
        level_MM = np.rint((value_MM - low_M1) / np.maximum(high_M1 - low_M1, 1e-12) * 255).clip(0, 255).astype(np.uint8)
        return cls(level_MM, *(_rounded(ends_M) for ends_M in (low_M1[:, 0], high_M1[:, 0], value_MM.diagonal())))


def _rounded(values: NDArray[np.floating]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _png(level_YX: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(level_YX)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
