"""report.html of a corpus: what came in, what was refused and why, with pictures. One file that opens offline.

The page travels with the corpus, so it names no source path and no file: a refused input is a row of the private ledger.
Axis suffixes: Z Y X voxel axes of RAS+, H W rows and columns of a picture.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import zip_longest
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray
from PIL import Image

from mri_fm.data.schema import ARCHIVE_DIR, CORPUS_FILE, MANIFEST_FILE, REPORT_FILE
from mri_fm.errors import UserError, run_main
from mri_fm.observe.page import html_page, html_table, html_tiles
from mri_fm.volume.refusal import CODES
from preprocessing.place import SCRATCH_DIR, Place, open_place
from preprocessing.tables import read_ledger, write_corpus_file

Row = dict[str, Any]

GALLERY_SIZE = 48
MM_PER_PIXEL = 1.6
GAP_PIXELS = 6
SPACING_STEPS = (1.5, 2.5, 3.5, 4.5, 5.5)  # mm, upper ends of the rows of the spacing table

KINDS = {
    "individual": "scans of individual people",
    "template": "templates, averages over people",
    "variant": "variants, rendered from one of the other brains",
    "format_sample": "format samples of software packages; whom they show is not known",
    "phantom": "phantoms and test patterns: no brain",
}


def draw_report(place: Place, content: Row) -> str:
    """The page of a corpus, from its manifest, ledger and archive, all of which must exist.

    Args:
        place: the corpus; may hold no accepted volume at all.
        content: of its corpus.json.
    """
    rows = pq.read_table(pa.BufferReader(place.read(MANIFEST_FILE))).to_pylist()
    ledger = read_ledger(place)
    body = Template(PAGE).substitute(
        headline=_headline(content["counts"]),
        people=escape(_people(rows)),
        tables=_tables(rows),
        refusals=_refusals(ledger),
        gallery=_gallery(place, choose_for_gallery(rows, GALLERY_SIZE), len(rows)),
        spec=escape(json.dumps(content["spec"], indent=1)),
        spec_hash=escape(content["spec_hash"]),
        version=escape(str(content["format_version"])),
    )
    return html_page("Corpus report", body, STYLE)


def main() -> None:
    """Draw the page of a finished corpus again.

    Raises:
        UserError: there is no finished corpus, or a build is at work.
    """
    parser = argparse.ArgumentParser(prog="python -m preprocessing.report", description="Draw report.html again.")
    parser.add_argument("corpus", help="folder or s3://bucket/prefix")
    redraw(open_place(parser.parse_args().corpus))


def redraw(place: Place) -> None:
    """Replace report.html, and its checksum in corpus.json.

    Raises:
        UserError: there is no finished corpus, or a build is at work.
    """
    content = place.read_object(CORPUS_FILE)
    if not content:
        raise UserError(f"{place.address} is no finished corpus: build it first")
    with place.locked():
        place.write(REPORT_FILE, draw_report(place, content).encode())
        content["checksums"][REPORT_FILE] = place.checksum(REPORT_FILE)
        write_corpus_file(place, content)
        place.remove(SCRATCH_DIR)
    print(f"{place.address}/{REPORT_FILE}")


def choose_for_gallery(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` volumes, taken in turns from every (kind, base, contrast), so that each is seen."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["key"]):
        groups[tuple(str(row[name]) for name in ("kind", "base", "contrast"))].append(row)
    turns = zip_longest(*(groups[name] for name in sorted(groups)))
    chosen = [row for turn in turns for row in turn if row is not None][:most]
    return sorted(chosen, key=lambda row: (list(KINDS).index(row["kind"]), row["base"], row["contrast"]))


def middle_slices(volume_ZYX: zarr.Array, spacing: Sequence[float]) -> NDArray[np.uint8]:
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
    arrays = [np.asarray(plane, dtype=np.float32) for plane, _, _ in planes]
    low, high = _window(np.concatenate([array.ravel() for array in arrays]))
    views = [
        _scaled(((array - low) / (high - low)).clip(0, 1)[::-1], rows_mm, columns_mm)
        for array, (_, rows_mm, columns_mm) in zip(arrays, planes, strict=True)
    ]
    height = max(len(view) for view in views)
    framed = [np.pad(view, _centred(height - len(view))) for view in views]
    return np.concatenate(framed, axis=1)


def _window(values: NDArray[np.float32]) -> tuple[float, float]:
    above = values[values > values.min()]
    if above.size == 0:
        return float(values.min()), float(values.min()) + 1
    return float(values.min()), float(np.percentile(above, 99.5)) + 1e-6


def _scaled(plane_HW: NDArray[np.float32], rows_mm: float, columns_mm: float) -> NDArray[np.uint8]:
    height, width = (max(1, round(n * mm / MM_PER_PIXEL)) for n, mm in zip(plane_HW.shape, (rows_mm, columns_mm), strict=True))
    image = Image.fromarray(np.rint(plane_HW * 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _centred(spare: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (spare // 2, spare - spare // 2), (GAP_PIXELS, GAP_PIXELS)


def _headline(counts: Row) -> str:
    parts = [("accepted", "accepted"), ("duplicate", "duplicates"), ("refused", "refused")]
    inputs = max(counts["inputs"], 1)
    bar = "".join(f'<i class="{name}" style="width:{100 * counts[name] / inputs:.2f}%"></i>' for name, _ in parts)
    sum_line = " + ".join(f'<b class="{name}">{counts[name]}</b> {word}' for name, word in parts)
    cards = [("distinct_brains", "distinct brains"), ("templates", "volumes of templates"), ("variants", "rendered variants")]
    tiles = html_tiles([(word, str(counts[name])) for name, word in cards])
    total = f'<p class="sum">{sum_line} = <b>{counts["inputs"]}</b> inputs</p>'
    return f'{total}<div class="bar">{bar}</div>{tiles}'


def _people(rows: Sequence[Row]) -> str:
    """Whom the corpus shows, without flattery."""
    people = len({row["base"] for row in rows if row["kind"] == "individual"})
    samples = sum(row["kind"] == "format_sample" for row in rows)
    if people:
        first = f"{people} individual {'person is' if people == 1 else 'people are'} among the accepted scans."
    else:
        first = "No individual person is among the accepted scans: what is learnt here says nothing about people."
    unknown = f" Of the {samples} accepted format samples it is not known whom they show." if samples else ""
    variants = (
        " A variant is a rendering of a brain that is counted already." if any(r["kind"] == "variant" for r in rows) else ""
    )
    return first + unknown + variants


def _tables(rows: Sequence[Row]) -> str:
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("Kind", lambda row: KINDS[row["kind"]]),
        ("Contrast", lambda row: str(row["contrast"])),
        ("Largest spacing", lambda row: _spacing_step(max(row["spacing"]))),
        ("Brain", lambda row: str(row["base"])),
        ("Split", lambda row: str(row["split"])),
    ]
    return "".join(_count_table(title, map(of, rows)) for title, of in columns) if rows else "<p>No volume was accepted.</p>"


def _spacing_step(spacing: float) -> str:
    end = next((end for end in SPACING_STEPS if spacing <= end), None)
    return f"≤ {end} mm" if end else f"> {SPACING_STEPS[-1]} mm"


def _count_table(title: str, values: Iterable[str]) -> str:
    counts = sorted(Counter(values).items(), key=lambda item: (item[0].startswith(">"), item[0]))
    return html_table((title, "volumes"), [(name, str(count)) for name, count in counts])


def _refusals(ledger: Sequence[Row]) -> str:
    """Codes, what they mean, and which ledger rows they stand for. The ledger's reasons may quote a header: they stay there."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(ledger):
        if row["decision"] == "refused":
            groups[row["code"]].append(number)
    if not groups:
        return "<p>Nothing was refused.</p>"
    lines = "".join(_refusal_line(code, found) for code, found in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])))
    head = "<tr><th>Code</th><th>inputs</th><th>Meaning</th><th>What to do</th><th>Ledger rows</th></tr>"
    return f'<table class="wide"><thead>{head}</thead><tbody>{lines}</tbody></table>'


def _refusal_line(code: str, numbers: Sequence[int]) -> str:
    about = (code_of.meaning, code_of.remedy) if (code_of := CODES.get(code)) else ("", "")
    cells = [f"<code>{escape(code)}</code>", str(len(numbers)), *map(escape, about), ", ".join(map(str, numbers))]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _gallery(place: Place, rows: Sequence[Row], accepted: int) -> str:
    figures = "".join(_figure(place, row) for row in rows)
    return f"<p>{len(rows)} of {accepted} accepted volumes.</p><div class='gallery'>{figures}</div>"


def _figure(place: Place, row: Row) -> str:
    volume_ZYX = place.open_array(f"{ARCHIVE_DIR}/{row['key']}/0")
    spacing = [float(value) for value in row["spacing"]]
    picture = _png(middle_slices(volume_ZYX, spacing))
    size = " × ".join(f"{value:.2g}" for value in reversed(spacing))
    kind = escape(str(row["kind"]).replace("_", " "))
    name = escape(f"{row['base']} · {row['contrast']}")
    tag = f'<em class="{escape(row["kind"])}">{kind}</em>'
    return (
        f'<figure><img alt="middle slices of {escape(row["key"])}" src="data:image/png;base64,{picture}">'
        f"<figcaption><b>{name}</b> {tag}<br>{size} mm, <code>{escape(row['key'])}</code>"
        f"</figcaption></figure>"
    )


def _png(picture_HW: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture_HW).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


STYLE = """
:root { --line: #d7dde5; --good: #1b7f5c; --twice: #b7791f; --bad: #b83232 }
.sum { font-size: 20px } .sum b { font-size: 26px }
b.accepted { color: var(--good) } b.duplicate { color: var(--twice) } b.refused { color: var(--bad) }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; background: var(--line); margin-bottom: 1.2em }
.bar .accepted { background: var(--good) } .bar .duplicate { background: var(--twice) } .bar .refused { background: var(--bad) }
.tables { display: flex; flex-wrap: wrap; gap: 0 40px; align-items: flex-start } table.wide { width: 100% }
table.wide td, table.wide th { text-align: left; vertical-align: top; padding-left: 0 } small { color: #5a6675 }
code { font: 12.5px ui-monospace, Menlo, Consolas, monospace } pre { background: #f3f6fa; padding: 12px; border-radius: 8px }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden }
figure img { display: block; width: 100%; height: 170px; object-fit: contain; background: #000 }
figcaption { padding: 8px 12px; font-size: 13px; color: #5a6675 } figcaption b { color: #1d2530 }
em { font-style: normal; border-radius: 8px; padding: 1px 8px; background: #eef2f5 }
em.individual { background: #e1f3ec } em.template { background: #e6ecfa } em.variant { background: #f6ecd9 }
"""

PAGE = """<h1>Corpus report</h1>
$headline
<p class="warn">$people</p>
<h2>What was accepted</h2>
<div class="tables">$tables</div>
<h2>What was refused</h2>
$refusals
<p class="note">Row numbers count from 0 in the private ledger, which alone knows the source paths.</p>
<h2>Middle slices</h2>
<p class="note">Axial, coronal, sagittal; neurological convention: the left of a picture is the left of the person, anterior is
up in axial and right in sagittal views. Millimetres are true to scale; spacing is given along x, y, z.</p>
$gallery
<h2>How it was made</h2>
<p class="note">Format version $version, specification <code>$spec_hash</code>.</p>
<pre>$spec</pre>"""


if __name__ == "__main__":
    run_main(main)
