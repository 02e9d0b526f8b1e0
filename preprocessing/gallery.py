"""The gallery of report.html: middle slices of accepted and refused inputs, what stands out first, with filters.

Axis suffixes: Z Y X voxel axes of RAS+, H W rows and columns of a picture.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from mri_fm.data.schema import ARCHIVE_DIR
from mri_fm.volume.refusal import CODES
from preprocessing.place import Place

Row = dict[str, Any]

GALLERY_SIZE = 48  # accepted volumes, and as many refused inputs
MM_PER_PIXEL = 1.6
MOST_PIXELS = 180  # along one axis of a view: a damaged header must not make a picture of a kilometre
GAP_PIXELS = 6
PICTURES_FILE = "private/pictures.json"
PICTURED_CODES = frozenset(
    ("not_3d", "label", "derived_map", "localizer", "sheared", "spacing", "field_of_view", "too_few_slices", "non_finite",
     "no_foreground", "excluded_by_rule")
)  # fmt: skip
"""Refusals of what is a volume of MR; a picture of anything else, a screenshot say, might show a name."""

KINDS = ("individual", "template", "variant", "format_sample", "phantom")


@dataclass(frozen=True)
class Figure:
    """One picture with what is written under it; `filters` are its values of the gallery's filters, by name."""

    png: str
    title: str
    badge: str
    badge_class: str
    note: str
    filters: dict[str, str]


def draw_gallery(place: Place, rows: Sequence[Row], ledger: Sequence[Row]) -> str:
    """Filters and figures as HTML: outliers, then refused inputs, then the rest."""
    chosen = choose_for_gallery(rows, GALLERY_SIZE)
    accepted = [_accepted(place, row) for row in chosen]
    refused = _refused(place.read_object(PICTURES_FILE), ledger)
    outliers = sum(bool(row.get("outlier_in")) for row in chosen)
    figures = [*accepted[:outliers], *refused, *accepted[outliers:]]
    about = f"{len(accepted)} of {len(rows)} accepted volumes, {len(refused)} of {_count_refused(ledger)} refused inputs."
    body = "".join(map(_figure, figures))
    return f"<p>{about}</p>{_filters(figures)}<div class='gallery'>{body}</div>{SCRIPT}"


def choose_for_gallery(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` volumes: outliers, the farthest first, as half of it; then in turns from every (kind, base, contrast)."""
    far = [row for row in rows if row.get("outlier_in")]
    far = sorted(far, key=lambda row: (-row["outlier_z"], row["key"]))[: most // 2]
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["key"]):
        if row not in far:
            groups[tuple(str(row[name]) for name in ("kind", "base", "contrast"))].append(row)
    turns = zip_longest(*(groups[name] for name in sorted(groups)))
    chosen = [row for turn in turns for row in turn if row is not None][: most - len(far)]
    return far + sorted(chosen, key=lambda row: (KINDS.index(row["kind"]), row["base"], row["contrast"]))


def choose_refused(codes: Mapping[str, str], most: int) -> list[str]:
    """At most `most` source paths of refused inputs that may be pictured, in turns from every code (`codes`: path → code)."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, code in sorted(codes.items()):
        if code in PICTURED_CODES:
            groups[code].append(path)
    turns = zip_longest(*(groups[code] for code in sorted(groups)))
    return [path for turn in turns for path in turn if path is not None][:most]


def middle_slices(volume_ZYX: zarr.Array | NDArray[Any], spacing: Sequence[float]) -> NDArray[np.uint8]:
    """Axial, coronal and sagittal slice through the middle, side by side on black.

    Args:
        volume_ZYX: a RAS+ volume.
        spacing: mm along z, y, x.

    Returns:
        (H, W) picture at 1.6 mm per pixel in neurological convention: left is left; superior, or anterior, is up.
    """
    z, y, x = (n // 2 for n in volume_ZYX.shape)
    dz, dy, dx = spacing
    planes = [(volume_ZYX[z], dy, dx), (volume_ZYX[:, y], dz, dx), (volume_ZYX[:, :, x], dz, dy)]
    arrays = [np.nan_to_num(np.asarray(plane, dtype=np.float32), posinf=0, neginf=0) for plane, _, _ in planes]
    low, high = _window(np.concatenate([array.ravel() for array in arrays]))
    views = [
        _scaled(((array - low) / (high - low)).clip(0, 1)[::-1], rows_mm, columns_mm)
        for array, (_, rows_mm, columns_mm) in zip(arrays, planes, strict=True)
    ]
    height = max(len(view) for view in views)
    framed = [np.pad(view, _centred(height - len(view))) for view in views]
    return np.concatenate(framed, axis=1)


def png_of(picture_HW: NDArray[np.uint8]) -> str:
    """A picture as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _window(values: NDArray[np.float32]) -> tuple[float, float]:
    above = values[values > values.min()]
    if above.size == 0:
        return float(values.min()), float(values.min()) + 1
    return float(values.min()), float(np.percentile(above, 99.5)) + 1e-6


def _scaled(plane_HW: NDArray[np.float32], rows_mm: float, columns_mm: float) -> NDArray[np.uint8]:
    sizes = [max(1, round(n * mm / MM_PER_PIXEL)) for n, mm in zip(plane_HW.shape, (rows_mm, columns_mm), strict=True)]
    height, width = (min(size, MOST_PIXELS) for size in sizes)
    image = Image.fromarray(np.rint(plane_HW * 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _centred(spare: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (spare // 2, spare - spare // 2), (GAP_PIXELS, GAP_PIXELS)


def _accepted(place: Place, row: Row) -> Figure:
    spacing = [float(value) for value in row["spacing"]]
    png = png_of(middle_slices(place.open_array(f"{ARCHIVE_DIR}/{row['key']}/0"), spacing))
    size = " × ".join(f"{value:.2g}" for value in reversed(spacing))
    out = str(row.get("outlier_in") or "")
    cut = f", cut {row['cut_at']}" if row.get("cut_at") else ""
    note = f"{size} mm, {_number('SNR', row.get('snr'))}{_number('CNR', row.get('cnr'))}{row['key']}{cut}"
    if out:
        note += f"; unusual {out.replace('_', ' ')} (z {row['outlier_z']:.1f})"
    filters = {"what": "outlier" if out else "accepted", "dataset": row["dataset"], "contrast": row["contrast"], "code": ""}
    badge = "outlier" if out else str(row["kind"]).replace("_", " ")
    return Figure(png, f"{row['base']} · {row['contrast']}", badge, "outlier" if out else row["kind"], note, filters)


def _number(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {value:.3g}, "


def _refused(pictures: Mapping[str, str], ledger: Sequence[Row]) -> list[Figure]:
    """Refused inputs by their row, never by their path."""
    shown = [(number, row) for number, row in enumerate(ledger) if row["source_path"] in pictures and row["code"]]
    return [
        Figure(pictures[row["source_path"]], f"ledger row {number}", row["code"], "refused", CODES[row["code"]].meaning,
               {"what": "refused", "dataset": "", "contrast": "", "code": row["code"]})
        for number, row in shown
    ]  # fmt: skip


def _count_refused(ledger: Sequence[Row]) -> int:
    return sum(row["decision"] == "refused" for row in ledger)


def _figure(figure: Figure) -> str:
    data = "".join(f' data-{name}="{escape(value)}"' for name, value in figure.filters.items())
    badge = f'<em class="{escape(figure.badge_class)}">{escape(figure.badge)}</em>'
    image = f'<img loading="lazy" alt="middle slices, {escape(figure.title)}" src="data:image/png;base64,{figure.png}">'
    caption = f"<b>{escape(figure.title)}</b> {badge}<br>{escape(figure.note)}"
    return f"<figure{data}>{image}<figcaption>{caption}</figcaption></figure>"


def _filters(figures: Sequence[Figure]) -> str:
    """A choice for each filter that has more than one value, and a search."""
    names = list(dict.fromkeys(name for figure in figures for name in figure.filters))
    values = {name: sorted({figure.filters[name] for figure in figures} - {""}) for name in names}
    choices = "".join(
        f'<label>{name} <select name="{name}"><option value="">all</option>'
        + "".join(f"<option>{escape(value)}</option>" for value in values[name])
        + "</select></label>"
        for name in names
        if values[name]
    )
    return f'<div class="filters">{choices}<label>find <input placeholder="key, person, row"></label><output></output></div>'


SCRIPT = """<script>
const filters = document.querySelector(".filters"), figures = [...document.querySelectorAll(".gallery figure")];
function show() {
  const wanted = [...filters.querySelectorAll("select")], words = filters.querySelector("input").value.toLowerCase();
  for (const figure of figures)
    figure.hidden = !wanted.every(w => !w.value || figure.dataset[w.name] === w.value)
      || !figure.textContent.toLowerCase().includes(words);
  filters.querySelector("output").textContent = figures.filter(f => !f.hidden).length + " shown";
}
filters.addEventListener("input", show); show();
</script>"""

STYLE = """
.filters { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; margin: 12px 0; padding: 10px 14px;
  background: #f3f6fa; border-radius: 10px; position: sticky; top: 0; z-index: 1 }
.filters label { color: #5a6675; font-size: 13.5px } .filters select, .filters input { font: inherit; color: #1d2530;
  padding: 3px 6px; border: 1px solid #cfd7e1; border-radius: 6px; background: #fff } .filters output { color: #5a6675 }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden } figure[hidden] { display: none }
figure img { display: block; width: 100%; height: 170px; object-fit: contain; background: #000 }
figcaption { padding: 8px 12px; font-size: 13px; color: #5a6675; overflow-wrap: anywhere } figcaption b { color: #1d2530 }
em { font-style: normal; border-radius: 8px; padding: 1px 8px; background: #eef2f5 }
em.individual { background: #e1f3ec } em.template { background: #e6ecfa } em.variant { background: #f6ecd9 }
em.outlier { background: #fbe3c8 } em.refused { background: #f8dada }
"""
