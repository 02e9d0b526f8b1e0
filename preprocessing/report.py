"""report.html of a corpus: what came in, what was refused and why, with pictures. One file that opens offline.

The page travels with the corpus, so it names no source path and no file: a refused input is a row of the private ledger.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from html import escape
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mri_fm.data.schema import CORPUS_FILE, MANIFEST_FILE, REPORT_FILE
from mri_fm.errors import UserError, run_main
from mri_fm.observe.page import html_page, html_table, html_tiles
from mri_fm.volume.refusal import CODES
from preprocessing.gallery import STYLE as GALLERY_STYLE
from preprocessing.gallery import draw_gallery
from preprocessing.place import SCRATCH_DIR, Place, open_place
from preprocessing.quality import GHOST_FLAG
from preprocessing.tables import read_ledger, write_corpus_file

Row = dict[str, Any]

BARS = 24
MOST_OUTLIERS = 20
MOST_NAMES = 12  # rows of a table of counts; the others are summed
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
        distributions=_distributions(rows),
        outliers=_outliers(rows),
        gallery=draw_gallery(place, rows, ledger),
        spec=escape(json.dumps(content["spec"], indent=1)),
        spec_hash=escape(content["spec_hash"]),
        version=escape(str(content["format_version"])),
    )
    return html_page("Corpus report", body, STYLE + GALLERY_STYLE)


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
        ("Data set", lambda row: str(row["dataset"])),
        ("Contrast", lambda row: str(row["contrast"])),
        ("Largest spacing", lambda row: _spacing_step(max(row["spacing"]))),
        ("Split", lambda row: str(row["split"])),
    ]
    if len({row["base"] for row in rows}) < len(rows):  # else each is there once
        columns.append(("Brain", lambda row: str(row["base"])))
    return "".join(_count_table(title, map(of, rows)) for title, of in columns) if rows else "<p>No volume was accepted.</p>"


def _spacing_step(spacing: float) -> str:
    end = next((end for end in SPACING_STEPS if spacing <= end), None)
    return f"≤ {end} mm" if end else f"> {SPACING_STEPS[-1]} mm"


def _count_table(title: str, values: Iterable[str]) -> str:
    """Counts in the order of names; of too many names those that are rarest are summed."""
    counts = Counter(values)
    shown = dict(sorted(counts.most_common(MOST_NAMES), key=lambda item: (item[0].startswith(">"), item[0])))
    rows = [(name, str(count)) for name, count in shown.items()]
    if len(counts) > len(shown):
        rows.append((f"{len(counts) - len(shown)} others", str(counts.total() - sum(shown.values()))))
    return html_table((title, "volumes"), rows)


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


def _distributions(rows: Sequence[Row]) -> str:
    """Histograms of what the manifest has of every volume."""
    measures: list[tuple[str, Callable[[Row], float | None]]] = [
        ("Largest spacing, mm", lambda row: max(row["spacing"])),
        ("Foreground, ml", lambda row: row.get("foreground_ml")),
        ("SNR", lambda row: row.get("snr")),
        ("CNR", lambda row: row.get("cnr")),
        ("Ghosting", lambda row: row.get("ghosting")),
    ]
    found = ((title, [float(value) for value in map(of, rows) if value is not None]) for title, of in measures)
    return "".join(_histogram(title, values) for title, values in found if len(set(values)) > 1)


def _histogram(title: str, values: Sequence[float]) -> str:
    """A histogram as SVG; beyond the 99th percentile everything is in the last bar."""
    low, high = min(values), float(np.quantile(values, 0.99))
    counts, edges = np.histogram(np.minimum(values, high), BARS, (low, high if high > low else low + 1))
    width, tallest = 100 / BARS, max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{n * width + 0.4:.2f}" y="{60 - 56 * count / tallest:.2f}" width="{width - 0.8:.2f}" '
        f'height="{56 * count / tallest:.2f}"><title>{count} from {start:.3g}</title></rect>'
        for n, (count, start) in enumerate(zip(counts, edges, strict=False))
    )
    middle = float(np.median(values))
    ends = f"<span>{low:.4g}</span><span>median {middle:.4g}</span><span>{high:.4g}{'+' if max(values) > high else ''}</span>"
    return f'<div class="chart"><b>{escape(title)}</b><svg viewBox="0 0 100 60">{bars}</svg><p>{ends}</p></div>'


def _outliers(rows: Sequence[Row]) -> str:
    found = sorted((row for row in rows if row.get("outlier_in")), key=lambda row: (-row["outlier_z"], row["key"]))
    cut = Counter(face for row in rows for face in (row.get("cut_at") or "").split())
    ghosts = sum((row.get("ghosting") or 0) > GHOST_FLAG for row in rows)
    flags = [f"{number} cut at the {face} face" for face, number in sorted(cut.items())]
    flags += [f"{ghosts} with bright air where a ghost would lie"] if ghosts else []
    note = f"<p>Flags: {escape(', '.join(flags) or 'none')}.</p>"
    if not found:
        return f"<p>Nothing stands out among the volumes of its data set and contrast.</p>{note}"
    head = ("Volume", "data set", "contrast", "stands out in", "robust z")
    cells = [
        (r["key"], r["dataset"], r["contrast"], r["outlier_in"].replace(" ", ", "), f"{r['outlier_z']:.1f}") for r in found
    ]
    rest = f"<p>and {len(found) - MOST_OUTLIERS} more, see the manifest</p>" if len(found) > MOST_OUTLIERS else ""
    return html_table(head, cells[:MOST_OUTLIERS]) + rest + note


STYLE = """
:root { --line: #d7dde5; --good: #1b7f5c; --twice: #b7791f; --bad: #b83232 }
.sum { font-size: 20px } .sum b { font-size: 26px }
b.accepted { color: var(--good) } b.duplicate { color: var(--twice) } b.refused { color: var(--bad) }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; background: var(--line); margin-bottom: 1.2em }
.bar .accepted { background: var(--good) } .bar .duplicate { background: var(--twice) } .bar .refused { background: var(--bad) }
.tables { display: flex; flex-wrap: wrap; gap: 0 40px; align-items: flex-start } table.wide { width: 100% }
table.wide td, table.wide th { text-align: left; vertical-align: top; padding-left: 0 } small { color: #5a6675 }
code { font: 12.5px ui-monospace, Menlo, Consolas, monospace } pre { background: #f3f6fa; padding: 12px; border-radius: 8px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 18px } .chart b { font-size: 14px }
.chart svg { width: 100%; background: #f3f6fa; border-radius: 6px } .chart rect { fill: #3f6fb5 }
.chart p { display: flex; justify-content: space-between; margin: 0; font-size: 12px; color: #5a6675 }
"""

PAGE = """<h1>Corpus report</h1>
$headline
<p class="warn">$people</p>
<h2>What was accepted</h2>
<div class="tables">$tables</div>
<h2>How it is distributed</h2>
<div class="charts">$distributions</div>
<h2>What stands out</h2>
$outliers
<h2>What was refused</h2>
$refusals
<p class="note">Row numbers count from 0 in the private ledger, which alone knows the source paths.</p>
<h2>Middle slices</h2>
<p class="note">What stands out comes first, then refused inputs that are volumes, then the rest. Axial, coronal, sagittal;
neurological convention: the left of a picture is the left of the person, anterior is up in axial and right in sagittal views.
Millimetres are true to scale; spacing is given along x, y, z.</p>
$gallery
<h2>How it was made</h2>
<p class="note">Format version $version, specification <code>$spec_hash</code>.</p>
<pre>$spec</pre>"""


if __name__ == "__main__":
    run_main(main)
