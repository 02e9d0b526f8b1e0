"""`python -m preprocessing.verify CORPUS`: read a whole corpus again, and name whatever is not as it was written."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from tqdm import tqdm

from mri_fm.data.codecs import CODECS
from mri_fm.data.schema import ARCHIVE_DIR, CORPUS_FILE, FORMAT_VERSION, MANIFEST_FILE, SHARD_DIR
from mri_fm.errors import UserError, run_main
from preprocessing.place import Place, open_place
from preprocessing.tables import read_ledger

MOST_SHOWN = 20


def main() -> None:
    """Verify; exit code 0 says that the corpus is whole.

    Raises:
        UserError: it is not.
    """
    parser = argparse.ArgumentParser(prog="python -m preprocessing.verify", description=__doc__.split(": ", 1)[1])
    parser.add_argument("corpus", help="folder or s3://bucket/prefix")
    place = open_place(parser.parse_args().corpus)
    found = list(problems(place))
    for problem in found[:MOST_SHOWN]:
        print(problem)
    if found:
        raise UserError(f"{place.address}: {len(found)} problems; the build's command, given again, writes what is damaged")
    print(f"{place.address}: whole, {place.read_object(CORPUS_FILE)['counts']['accepted']} volumes")


def problems(place: Place) -> Iterator[str]:
    """What is wrong with a corpus, one line each: counts, files, checksums, payloads, values that are not finite."""
    content = place.read_object(CORPUS_FILE)
    if content.get("format_version") != FORMAT_VERSION:
        yield f"{CORPUS_FILE}: missing, damaged or of another version than {FORMAT_VERSION}"
        return
    damaged = set()
    for name, value in tqdm(content["checksums"].items(), "checksums", unit="file"):
        if place.checksum(name) != value:
            damaged.add(name)
            yield f"{name}: missing or changed"
    yield from _strangers(place, content)
    if MANIFEST_FILE in damaged:
        return
    rows = pq.read_table(pa.BufferReader(place.read(MANIFEST_FILE))).to_pylist()
    yield from _counts(place, content, rows)
    yield from _rows(place, rows, damaged)


def _strangers(place: Place, content: dict[str, Any]) -> Iterator[str]:
    """Files that no build has written."""
    known = content["checksums"]
    for name in place.sizes():
        if name != CORPUS_FILE and name not in known and "/".join(name.split("/")[:2]) not in known:
            yield f"{name}: not of this corpus"


def _counts(place: Place, content: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    counts = content["counts"]
    if len(rows) != counts["accepted"] or counts["accepted"] + counts["duplicate"] + counts["refused"] != counts["inputs"]:
        yield f"{CORPUS_FILE}: counts {counts} beside {len(rows)} rows of the manifest"
    ledger = read_ledger(place)
    if not ledger:  # the corpus was copied without it, as it should be
        return
    accepted = {row["key"] for row in ledger if row["decision"] == "accepted"}
    if len(ledger) != counts["inputs"] or accepted != {row["key"] for row in rows}:
        yield f"ledger: {len(ledger)} rows and {len(accepted)} accepted beside {counts}"


def _rows(place: Place, rows: list[dict[str, Any]], damaged: set[str]) -> Iterator[str]:
    """Every volume in its shard, and its image in the archive; a shard is read once."""
    shards: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        shards.setdefault(row["shard"], []).append(row)
    with tqdm(desc="volumes", total=len(rows), unit="volume") as progress:
        for shard, inside in sorted(shards.items()):
            blob = b"" if f"{SHARD_DIR}/{shard}" in damaged else place.read(f"{SHARD_DIR}/{shard}")
            infos = _infos(blob)
            for row in inside:
                wrong = [_wrong(row, blob, infos)] if blob else []
                if f"{ARCHIVE_DIR}/{row['key']}" not in damaged:
                    wrong.append(_wrong_image(place, row))
                yield from (f"{row['key']} in {shard}: {what}" for what in wrong if what)
                progress.update()


def _infos(blob: bytes) -> dict[str, Any]:
    """The JSON of each sample of a shard, by key."""
    if not blob:
        return {}
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        members = [(member.name, archive.extractfile(member)) for member in archive if member.name.endswith(".json")]
        return {name.removesuffix(".json"): json.load(stream) for name, stream in members if stream}


def _wrong(row: dict[str, Any], blob: bytes, infos: dict[str, Any]) -> str:
    """What is wrong with one volume; "" if nothing is."""
    payload = blob[row["offset"] : row["offset"] + row["size"]]
    if xxhash.xxh3_64_hexdigest(payload) != row["checksum"]:
        return "its payload does not lie where the manifest says"
    voxels = CODECS[row["codec"] or "raw"].decode(payload, row["shape"])
    if voxels.min() < 0 or not np.isclose(np.count_nonzero(voxels) / voxels.size, row["foreground_fraction"]):
        return "its foreground is not what the manifest says"
    numbers = [value for value in row.values() if isinstance(value, float)]
    info = infos.get(row["key"], {})
    numbers += [*row["spacing"], *np.ravel(info.get("affine", np.nan)), info.get("scale", np.nan), info.get("offset", np.nan)]
    if not np.isfinite(numbers).all():
        return "a number of its manifest row or JSON is missing or not finite"
    return ""


def _wrong_image(place: Place, row: dict[str, Any]) -> str:
    """What is wrong with the image of a volume, whose files are all there; "" if nothing is."""
    voxels = np.asarray(place.open_array(f"{ARCHIVE_DIR}/{row['key']}/0")[:])
    smaller = any(whole < cropped for whole, cropped in zip(voxels.shape, row["shape"], strict=True))
    return "its image in the archive is smaller than its crop, or holds voxels below 1" if smaller or voxels.min() < 1 else ""


if __name__ == "__main__":
    run_main(main)
