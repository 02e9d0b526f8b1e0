"""The corpus on disk, as its writer (`preprocessing`) and its readers (`mri_fm.data`) both see it.

    corpus/
      corpus.json             format version, counts, preprocessing spec and its hash, checksums of everything but private/
      manifest.parquet        one row per accepted volume (`MANIFEST`), plus label columns as found
      private/ledger.parquet  one row per input (`LEDGER`), mode 0600
      volumes.zarr/           OME-Zarr 0.5 archive, one multiscale image per key
      shards/{split}-{nnnnnn}.tar  and an .idx beside each
      report.html

A shard sample is its payload, `{key}.raw` (little-endian int16, axes z,y,x of RAS+, cropped to the brain box + 6 voxels; 0 is
background and only background, foreground is 1…32767) or the same compressed, `{key}.raw.lz4` or `{key}.raw.blosc`
(`mri_fm.data.codecs`); `{key}.shape` (3 × int32) and `{key}.json`.

corpus.json is one object with at least `format_version` (FORMAT_VERSION), `counts`, `spec`, `spec_hash` and `checksums`:
{posix path relative to the corpus: XXH3-64, 16 hex digits} of every file but itself and those under private/; a volume of
the archive is one entry, over its files one after the other.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 1
CORPUS_FILE = "corpus.json"
MANIFEST_FILE = "manifest.parquet"
LEDGER_FILE = "private/ledger.parquet"
ARCHIVE_DIR = "volumes.zarr"
SHARD_DIR = "shards"
REPORT_FILE = "report.html"

SPLITS = ("train", "val", "test")
CONTRASTS = ("T1", "T2", "FLAIR", "T2STAR", "OTHER")
KEY_PATTERN = r"[a-z0-9_-]+"
SHARD_PATTERN = r"[A-Za-z0-9_-]+\.tar"
FOREGROUND_MAX = 32767
CROP_MARGIN = 6

MANIFEST = pa.schema(
    [
        ("key", pa.string()),
        ("dataset", pa.string()),
        ("subject", pa.string()),
        ("session", pa.string()),
        ("contrast", pa.string()),
        ("split", pa.string()),
        ("shape", pa.list_(pa.int32(), 3)),  # z, y, x of the shard payload (after the crop)
        ("spacing", pa.list_(pa.float64(), 3)),  # mm along z, y, x
        ("orientation", pa.string()),  # of the source, e.g. "LAS"
        ("dtype", pa.string()),  # of the source voxels
        ("p01", pa.float32()),  # stored units, over the foreground
        ("p99", pa.float32()),
        ("crop_p01", pa.float32()),  # stored units, over the whole crop
        ("crop_p99", pa.float32()),
        ("foreground_fraction", pa.float32()),  # of the payload
        ("content_hash", pa.string()),  # XXH3-128 of the canonical int16 voxels before the crop + shape + spacing
        ("shard", pa.string()),  # file name under shards/
        ("offset", pa.int64()),  # of the payload in the shard, bytes
        ("size", pa.int64()),  # of the payload as stored, bytes
        ("checksum", pa.string()),  # XXH3-64 of the payload as stored, 16 hex digits
        ("codec", pa.string()),  # of the payload, `mri_fm.data.codecs`; where it is absent or null: raw
        ("repaired", pa.int64()),  # voxels of the background that were NaN or infinite; where it is absent or null: 0
        # quality, as `preprocessing.quality` defines it; null where there is nothing to measure
        ("foreground_percentiles", pa.list_(pa.float32(), 5)),  # 5, 25, 50, 75, 95, stored units
        ("box_start", pa.list_(pa.int32(), 3)),  # of the foreground, voxels of the archive's image along z, y, x
        ("box_stop", pa.list_(pa.int32(), 3)),
        ("foreground_ml", pa.float32()),
        ("snr", pa.float32()),
        ("cnr", pa.float32()),
        ("ghosting", pa.float32()),  # excess of the air where a ghost would lie, shares of the foreground's median
        ("cut_at", pa.string()),  # faces of the volume that cut the object, the neck's not counted: "superior left"
        ("outlier_z", pa.float32()),  # largest robust z in data set and contrast
        ("outlier_in", pa.string()),  # columns in which it stands out
    ]
)
"""Columns every manifest has, in this order (those in `LATER` since then); label columns follow."""

QUALITY = (
    "foreground_percentiles", "box_start", "box_stop", "foreground_ml", "snr", "cnr", "ghosting", "cut_at", "outlier_z",
    "outlier_in",
)  # fmt: skip
LATER = ("codec", "repaired", *QUALITY)
"""Columns that manifests of this format version may lack."""

LEDGER = pa.schema(
    [
        ("source_path", pa.string()),  # relative to the raw root, posix
        ("decision", pa.string()),  # accepted | duplicate | refused
        ("code", pa.string()),  # "" when accepted
        ("reason", pa.string()),
        ("key", pa.string()),  # of the accepted volume, or of the one this duplicates; "" when refused
    ]
)
