"""The archive (volumes.zarr) by key: whole volumes, regions and coarser levels, and the crop that the shards hold.

Training reads shards; this is for looking, and for an evaluation of volumes that lie in no shard here. The archive keeps the
whole volume with its background, so the crop is computed as the build computed it, and compared with what the manifest says of
it: the same int16 voxels, or a named fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from numpy.typing import NDArray

from mri_fm.data.corpus import Sample
from mri_fm.data.reader import BadSampleError, Fault
from mri_fm.data.retry import NETWORK, retried
from mri_fm.data.schema import ARCHIVE_DIR
from mri_fm.data.storage import TRANSIENT, S3Storage, Storage, as_os_error
from mri_fm.volume.canonical import Canonical, Crop, crop
from mri_fm.volume.refusal import Refusal

Result = TypeVar("Result")


class Archive:
    """Random access to volumes.zarr. Only the chunks that a region touches are read and decoded."""

    def __init__(self, storage: Storage) -> None:
        """`storage` holds the corpus."""
        self._storage = storage

    def read(self, key: str, region: Sequence[slice] = (), level: int = 0) -> NDArray[np.int16]:
        """Voxels of a volume, int16 (z, y, x), background kept.

        Args:
            key: as in the manifest.
            region: voxels along z, y, x of that level; empty: all.
            level: 0 is the native resolution; each further one is halved as `preprocessing.archive.pyramid` says.

        Raises:
            OSError: no such volume or level, or storage that fails.
        """
        array: Any = self._ask(lambda: self._group(key)[str(level)])
        return self._ask(lambda: np.asarray(array[tuple(region) or slice(None)]))

    def canonical(self, key: str) -> Canonical:
        """A whole volume as the build saw it before the crop; raises as `read`."""
        attributes: dict[str, Any] = self._ask(lambda: dict(self._group(key).attrs))
        about, image = attributes["mri_fm"], attributes["ome"]["multiscales"][0]
        z, y, x = image["datasets"][0]["coordinateTransformations"][0]["scale"]
        return Canonical(
            voxels=self.read(key),
            affine=np.array(about["affine"]),
            spacing=(z, y, x),
            scale=about["scale"],
            offset=about["offset"],
            orientation=about["source_orientation"],
            dtype="int16",
        )

    def _group(self, key: str) -> zarr.Group:
        return zarr.open_group(self._store(f"{ARCHIVE_DIR}/{key}"), mode="r")

    def _store(self, name: str) -> Any:
        path = self._storage.root / name
        if not isinstance(self._storage, S3Storage):
            return Path(path)
        client = AsyncFileSystemWrapper(self._storage.client(), asynchronous=True)
        return zarr.storage.FsspecStore(client, read_only=True, path=str(path))

    def _ask(self, action: Callable[[], Result]) -> Result:
        def once() -> Result:
            try:
                return action()
            except Exception as error:  # zarr passes on what its store, its codecs and its metadata raise
                raise as_os_error(error) from error

        return retried(once, TRANSIENT, NETWORK)


class ArchiveReader:
    """Reads samples as `ShardReader` does, from the archive.

    Attributes:
        cached: always False.
    """

    cached = False

    def __init__(self, storage: Storage) -> None:
        """`storage` holds the corpus."""
        self._archive = Archive(storage)

    def read(self, sample: Sample) -> NDArray[np.int16]:
        """The voxels that the sample's payload holds, int16 (z, y, x).

        Raises:
            BadSampleError: the volume cannot be read, was changed since the build, or gives another crop than it gave then.
        """
        try:
            canonical = self._archive.canonical(sample.key)
        except TRANSIENT as error:
            raise BadSampleError(Fault.UNREACHABLE) from error
        except (OSError, KeyError) as error:
            raise BadSampleError(Fault.UNREADABLE) from error
        if canonical.content_hash() != sample.content_hash:
            raise BadSampleError(Fault.CHECKSUM)
        try:
            cropped = crop(canonical)
        except Refusal as error:
            raise BadSampleError(Fault.SHAPE) from error
        if not _is_that_of(sample, cropped):
            raise BadSampleError(Fault.SHAPE)
        return cropped.voxels

    def close(self) -> None:
        """Nothing is kept open."""


def _is_that_of(sample: Sample, cropped: Crop) -> bool:
    """Whether a crop is the one that the manifest describes: its box, and percentiles that another mask would move."""
    names = ("p01", "p99", "crop_p01", "crop_p99")
    same = all(np.float32(getattr(cropped, name)) == np.float32(getattr(sample, name)) for name in names)
    return same and cropped.voxels.shape == tuple(sample.shape)
