"""Many scans to one table: a row for each, whether it was embedded or refused.

    source_path   as given
    decision      accepted, refused
    code, reason  of a refusal (`mri_fm.volume.refusal.CODES`), else ""
    warning       what is unusual in a scan that was embedded, else ""
    shape         list of 3 int32, spacing list of 3 float64 (mm): of the crop along z, y, x; null if refused
    orientation   of the stored array, for instance "LAS"
    content_hash  equal for the same voxels stored in another way
    embedding     list of D float32; null if refused

The schema's metadata has `encoder_sha256`, of the weights.

Axes: B batch, D width.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mri_fm.errors import UserError
from mri_fm.export.encoder import Encoder
from mri_fm.export.plausible import unusual_extent
from mri_fm.export.spec import InputScan
from mri_fm.volume.prepare import prepare_files
from mri_fm.volume.refusal import Refusal

PARTIAL = ".partial"


@dataclass(frozen=True)
class Source:
    """One scan: its name in the table, and one image file or the files of a DICOM series."""

    name: str
    files: tuple[Path, ...]
    series: bool = False


def write_table(encoder: Encoder, sources: Sequence[Source], out: Path, *, batch_size: int = 4) -> Counter[str]:
    """Embed scans batch by batch; `out` appears once it is complete.

    Args:
        encoder: on the device that is to compute.
        sources: the scans.
        out: parquet file.
        batch_size: scans that are read at once, in a thread each, and encoded at once.

    Returns:
        How many rows there are of each decision, and of "warned".

    Raises:
        UserError: no place to write to, a scan that the machine cannot read, or an embedding that is not finite.
    """
    partial = out.with_name(out.name + PARTIAL)
    counts: Counter[str] = Counter()
    schema = table_schema(encoder)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(partial, schema) as writer, ThreadPoolExecutor(min(batch_size, os.cpu_count() or 1)) as pool:
            for rows in _rows(encoder, sources, batch_size, pool):
                writer.write_table(pa.Table.from_pylist(rows, schema))
                counts.update(row["decision"] for row in rows)
                counts["warned"] += sum(bool(row["warning"]) for row in rows)
        partial.replace(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error}): choose another place") from error
    finally:
        partial.unlink(missing_ok=True)
    return counts


def table_schema(encoder: Encoder) -> pa.Schema:
    """The columns; see the top of this file."""
    texts = ["source_path", "decision", "code", "reason", "warning"]
    columns = [(name, pa.string()) for name in texts]
    columns += [("shape", pa.list_(pa.int32(), 3)), ("spacing", pa.list_(pa.float64(), 3)), ("orientation", pa.string())]
    columns += [("content_hash", pa.string()), ("embedding", pa.list_(pa.float32(), encoder.width))]
    return pa.schema(columns, metadata={"encoder_sha256": encoder.exported.sha256})


def _rows(
    encoder: Encoder, sources: Sequence[Source], batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[list[dict[str, Any]]]:
    for first in range(0, len(sources), batch_size):
        batch = sources[first : first + batch_size]
        found = list(pool.map(lambda source: _read(encoder, source), batch))
        scans = [scan for scan in found if isinstance(scan, InputScan)]
        vectors = iter(encoder.encode(scans).mean(dim=1).tolist() if scans else [])
        yield [
            _refused(source, scan) if isinstance(scan, Refusal) else _accepted(source, scan, next(vectors))
            for source, scan in zip(batch, found, strict=True)
        ]


def _read(encoder: Encoder, source: Source) -> InputScan | Refusal:
    spec = encoder.exported.spec
    try:
        prepared = prepare_files(source.files, series=source.series, max_spacing=spec.max_spacing, processing=spec.processing)
    except Refusal as refusal:
        return refusal
    except OSError as error:  # what is wrong with a file's content is a refusal
        raise UserError(f"{source.name} cannot be read ({error}): mend that and give the same command again") from error
    return InputScan(prepared, spec)


def _refused(source: Source, refusal: Refusal) -> dict[str, Any]:
    return {"source_path": source.name, "decision": "refused", "code": refusal.code, "reason": refusal.reason, "warning": ""}


def _accepted(source: Source, scan: InputScan, vector: Sequence[float]) -> dict[str, Any]:
    canonical = scan.prepared.canonical
    return {
        "source_path": source.name,
        "decision": "accepted",
        "code": "",
        "reason": "",
        "warning": unusual_extent(scan.prepared),
        "shape": list(scan.prepared.crop.voxels.shape),
        "spacing": list(canonical.spacing),
        "orientation": canonical.orientation,
        "content_hash": canonical.content_hash(),
        "embedding": vector,
    }
