"""Where raw scans lie: a folder, or below a prefix of an S3 bucket. They are only read."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from mri_fm.data.storage import S3Storage, open_storage
from mri_fm.errors import UserError
from mri_fm.volume.discover import Input, image_stem, is_text, list_files
from preprocessing.place import is_bucket

HEAD_BYTES = 1 << 17  # what discovery looks at of a file that may be DICOM or name its voxels
VOXEL_SUFFIXES = (".nii", ".gz", ".mgz", ".mgh", ".mnc", ".brik", ".rec", ".img", ".nrrd", ".mha", ".mif", ".bz2")
AT_ONCE = 64  # requests

Files = dict[str, tuple[int, int]]  # relative posix path → (bytes, time of the last change in ns)


class Source(ABC):
    """Raw scans.

    Attributes:
        address: folder or s3://bucket/prefix; workers open it again by this.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    def files(self) -> Files:
        """All files in name order."""

    @abstractmethod
    @contextmanager
    def for_discovery(self, files: Files) -> Iterator[Path]:
        """A folder with tables and sidecars, and at least the first bytes of what may be DICOM or a header."""

    @abstractmethod
    @contextmanager
    def fetched(self, item: Input) -> Iterator[Path]:
        """A folder in which the files of an input lie under their relative paths, its companions and sidecar beside them."""


class RawFolder(Source):
    """A folder, read where it is."""

    def __init__(self, address: str | Path) -> None:
        """`address` is made absolute, since workers elsewhere have another current folder."""
        self.path = Path(address).resolve()
        super().__init__(str(self.path))

    def files(self) -> Files:
        """See `Source.files`."""
        if not self.path.is_dir():
            raise UserError(f"no folder {self.path}: give the folder of your scans as --raw")
        return list_files(self.path)

    @contextmanager
    def for_discovery(self, files: Files) -> Iterator[Path]:
        """See `Source.for_discovery`."""
        yield self.path

    @contextmanager
    def fetched(self, item: Input) -> Iterator[Path]:
        """See `Source.fetched`."""
        for file in (*item.files, *item.companions):
            if (self.path / file).is_file():  # readers hide why they cannot open one
                (self.path / file).open("rb").close()
        yield self.path


class RawBucket(Source):
    """A prefix of a bucket; of each input a copy lies on this machine while it is read."""

    def __init__(self, address: str) -> None:
        """`address` is s3://bucket/prefix."""
        super().__init__(address.rstrip("/"))
        self._storage = S3Storage(address)

    def files(self) -> Files:
        """See `Source.files`."""
        root = f"{self._storage.root}/"
        found = self._storage.request("find", str(self._storage.root), detail=True)
        about = {path.removeprefix(root): details for path, details in found.items()}
        return {path: (int(d["size"]), int(d["LastModified"].timestamp() * 1e9)) for path, d in sorted(about.items())}

    @contextmanager
    def for_discovery(self, files: Files) -> Iterator[Path]:
        """See `Source.for_discovery`; of files of voxels nothing is fetched."""
        wanted = [path for path, (size, _) in files.items() if size > 0 and (is_text(path) or not _holds_voxels(path))]
        with tempfile.TemporaryDirectory(prefix="raw-") as folder:
            for first in range(0, len(wanted), AT_ONCE):
                self._fetch_starts(wanted[first : first + AT_ONCE], files, Path(folder))
            yield Path(folder)

    @contextmanager
    def fetched(self, item: Input) -> Iterator[Path]:
        """See `Source.fetched`."""
        with tempfile.TemporaryDirectory(prefix="raw-") as folder:
            for file in (*item.files, *item.companions):
                self._fetch(file, Path(folder))
            with suppress(FileNotFoundError):
                self._fetch(f"{image_stem(item.files[0])}.json", Path(folder))
            yield Path(folder)

    def _fetch(self, file: str, folder: Path) -> None:
        local = folder / file
        local.parent.mkdir(parents=True, exist_ok=True)
        self._storage.request("get_file", str(self._storage.root / file), str(local))

    def _fetch_starts(self, paths: list[str], files: Files, folder: Path) -> None:
        """The first bytes of some files, or all of tables and sidecars; the rest of a file is a hole."""
        ends = [files[path][0] if is_text(path) else min(files[path][0], HEAD_BYTES) for path in paths]
        remote = [str(PurePosixPath(self._storage.root, path)) for path in paths]
        for path, content in zip(paths, self._storage.request("cat_ranges", remote, [0] * len(paths), ends), strict=True):
            local = folder / path
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
            os.truncate(local, files[path][0])


def open_source(address: str | Path) -> Source:
    """The raw scans at a folder or s3://bucket/prefix.

    Raises:
        UserError: another scheme, or no bucket.
    """
    if is_bucket(address):
        open_storage(address)  # says what is wrong with an address
        return RawBucket(str(address))
    return RawFolder(address)


def list_source(source: Source) -> Files:
    """All files of a source.

    Raises:
        UserError: there is none.
    """
    files = source.files()
    if not files:
        sample = f", or `python -m preprocessing.sample_data --out {source.address}`" if isinstance(source, RawFolder) else ""
        raise UserError(f"{source.address} is empty: put scans there{sample}")
    return files


def _holds_voxels(path: str) -> bool:
    return path.lower().endswith(VOXEL_SUFFIXES)
