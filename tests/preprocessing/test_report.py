import base64
import io
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from mri_fm.data.schema import ARCHIVE_DIR, CORPUS_FILE, LEDGER, LEDGER_FILE, MANIFEST, MANIFEST_FILE
from mri_fm.volume.refusal import CODES
from preprocessing.gallery import MM_PER_PIXEL, choose_for_gallery, middle_slices
from preprocessing.place import Folder
from preprocessing.report import draw_report

ABOUT = {"dataset": "d", "subject": "s", "session": "1", "split": "train", "orientation": "RAS", "dtype": "int16"}
FIGURES = {"p01": 1.0, "p99": 9.0, "crop_p01": 0.0, "crop_p99": 9.0, "foreground_fraction": 0.5}
PLACE = {"content_hash": "h", "shard": "train-000000.tar", "offset": 0, "size": 1, "checksum": "c"}


def _row(key: str, kind: str, base: str, contrast: str = "T1") -> dict[str, Any]:
    shape = {"shape": [4, 6, 8], "spacing": [5.0, 2.0, 2.0]}
    return {"key": key, "contrast": contrast, "kind": kind, "base": base, **ABOUT, **FIGURES, **PLACE, **shape}


def _corpus(folder: Path, rows: list[dict[str, Any]], refused: list[tuple[str, str, str]]) -> Path:
    """A corpus' tables and archive; `refused` holds (source path, code, reason)."""
    (folder / "private").mkdir(parents=True)
    manifest_schema = pa.schema([*MANIFEST, ("kind", pa.string()), ("base", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, manifest_schema), folder / MANIFEST_FILE)
    ledger = [
        {"source_path": f"in/{r['key']}.nii", "decision": "accepted", "code": "", "reason": "", "key": r["key"]} for r in rows
    ]
    ledger += [{"source_path": p, "decision": "refused", "code": c, "reason": why, "key": ""} for p, c, why in refused]
    pq.write_table(pa.Table.from_pylist(ledger, LEDGER), folder / LEDGER_FILE)
    counts = {"inputs": len(ledger), "accepted": len(rows), "duplicate": 0, "refused": len(refused), "distinct_brains": 71,
              "templates": 72, "variants": 73, "by_code": {}}  # fmt: skip
    content = {"format_version": 1, "counts": counts, "spec": {"max_spacing": 6.5}, "spec_hash": "abc123", "checksums": {}}
    (folder / CORPUS_FILE).write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    for row in rows:
        group = zarr.create_group(folder / ARCHIVE_DIR / row["key"])
        group.create_array("0", data=rng.integers(0, 500, (10, 20, 30), dtype=np.int16))
    return folder


def _page(corpus: Path) -> str:
    return draw_report(Folder(corpus), json.loads((corpus / CORPUS_FILE).read_text()))


def test_counts_and_pictures_are_on_the_page(tmp_path: Path) -> None:
    page = _page(_corpus(tmp_path / "c", [_row("k1", "template", "mni152"), _row("k2", "variant", "mni152", "T2")], []))
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"2\s+accepted \+\s+0\s+duplicates \+\s+0\s+refused =\s+2\s+inputs", text)
    for number, word in ((71, "distinct brains"), (72, "volumes of templates"), (73, "rendered variants")):
        assert re.search(rf"{number}\s+{word}", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2
    assert all(np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))).std() > 10 for p in pictures)


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = _page(_corpus(tmp_path / "c", [_row("k1", "template", "mni152")], []))
    assert not re.search(r"https?://|<script[^>]+src|<link|@import|url\(", page)


def test_refused_inputs_are_ledger_rows_and_never_paths(tmp_path: Path) -> None:
    refused = [
        ("ward 7/jane_doe.nii.gz", "not_readable", "ward 7/jane_doe.nii.gz: unexpected end; see /data/raw/ward/jane_doe.hdr"),
        ("b/john.mgz", "not_3d", "john.mgz has shape (1, 2)"),
        ("b/jim.mgz", "not_3d", "shape (1, 2) <4-D>"),
    ]
    page = _page(_corpus(tmp_path / "c", [_row("k1", "individual", "p1")], refused))
    for secret in ("jane", "john", "jim", "ward", "/data", "k1.nii", "unexpected end", "4-D"):
        assert secret not in page
    for code, count, numbers in (("not_3d", 2, "2, 3"), ("not_readable", 1, "1")):
        about = f"<td>{escape(CODES[code].meaning)}</td><td>{escape(CODES[code].remedy)}</td>"
        assert f"{code}</code></td><td>{count}</td>{about}<td>{numbers}</td>" in page


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        (["template", "variant"], "No individual person is among the accepted scans"),
        (["individual"], "1 individual person is among the accepted scans"),
        (["template", "format_sample"], "Of the 1 accepted format samples it is not known whom they show"),
    ],
)
def test_the_page_says_whether_people_are_in_it(tmp_path: Path, kinds: list[str], sentence: str) -> None:
    rows = [_row(f"k{i}", kind, f"b{i}") for i, kind in enumerate(kinds)]
    assert sentence in _page(_corpus(tmp_path / "c", rows, []))


def test_a_corpus_without_volumes_has_a_page(tmp_path: Path) -> None:
    page = _page(_corpus(tmp_path / "c", [], [("a.nii", "truncated", "cut")]))
    assert "No volume was accepted" in page
    assert "truncated" in page


def test_slices_are_true_to_scale_and_upright() -> None:
    volume = zarr.create_array(zarr.storage.MemoryStore(), shape=(10, 40, 30), dtype="int16")
    bright = np.zeros((10, 40, 30), dtype=np.int16)
    bright[:, 30:, :15] = 100  # anterior left
    volume[:] = bright
    picture = middle_slices(volume, (6.4, 1.6, 3.2))
    axial = picture[:, 6 : 6 + 60]
    assert MM_PER_PIXEL == 1.6
    assert picture.shape == (40, (60 + 60 + 40) + 6 * 6)
    assert axial[:10, :28].min() > 200, "anterior left is up and left"
    assert axial[12:].max() == 0
    assert axial[:, 32:].max() == 0


def test_the_gallery_spreads_over_kinds_and_contrasts() -> None:
    rows = [_row(f"v{i:02d}", "variant", "mni152", "T1") for i in range(20)]
    rows += [_row("t", "template", "mni152"), _row("f", "variant", "mni152", "FLAIR"), _row("s", "format_sample", "x")]
    chosen = choose_for_gallery(rows, 5)
    assert len(chosen) == 5
    assert {"t", "f", "s"} < {row["key"] for row in chosen}
