"""Where a corpus is written: a folder, or below a prefix of an S3 bucket.

Names are posix paths relative to the corpus. A file appears whole or not at all, and an image of the archive likewise (in a
bucket its outer `zarr.json` comes last). What fails is an `OSError`, whichever place it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash
import zarr

from mri_fm.data.storage import S3Storage, open_storage
from mri_fm.errors import UserError
from preprocessing.files import checksum, write_bytes

PRIVATE_DIR = "private"
SCRATCH_DIR = f"{PRIVATE_DIR}/scratch"
LOCK_FILE = f"{PRIVATE_DIR}/lock"
CORPUS_MARKS = (LOCK_FILE, "corpus.json")  # either says that the folder is a build's
ROOT_OF_IMAGE = "zarr.json"
FOLDER_MODE = 0o700
MOST_RIVALS = 3


class Place(ABC):
    """One corpus to be written or looked at.

    Attributes:
        address: folder or s3://bucket/prefix.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file; raises FileNotFoundError where there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Replace a file; below private/ only its owner may read it."""

    @abstractmethod
    def publish(self, made: Path, name: str) -> None:
        """Move a finished file or folder of `scratch` to its name, in place of what is there."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file or a folder with all in it; nothing happens where there is none."""

    @abstractmethod
    def children(self, name: str) -> list[str]:
        """Names of the files and folders directly in a folder, sorted; [] where there is none."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes of every file but those below private/, by name."""

    @abstractmethod
    def checksum(self, name: str) -> str:
        """XXH3-64 of a file or of a folder as `preprocessing.files.checksum` has it; "" where there is none."""

    @abstractmethod
    def is_intact(self, name: str, checksum: str) -> bool:
        """Whether what was published is still there: in a folder byte for byte, in a bucket by name."""

    @abstractmethod
    def open_array(self, name: str) -> zarr.Array:
        """An array of the archive, to read."""

    @abstractmethod
    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new empty folder of this process on this machine, gone afterwards."""

    @abstractmethod
    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds away (in a bucket nothing can: there two builds of the same inputs write the same bytes).

        Raises:
            UserError: another build is running, or there is something else than a corpus.
        """

    def read_object(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; {} where there is none or it was damaged since."""
        try:
            content = json.loads(self.read(name))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


class Folder(Place):
    """A folder; files get their name by a rename."""

    def __init__(self, address: str | Path) -> None:
        """`address` is made absolute, since workers elsewhere have another current folder."""
        self.path = Path(address).resolve()
        super().__init__(str(self.path))

    def read(self, name: str) -> bytes:
        """See `Place.read`."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """See `Place.write`."""
        with self.scratch() as folder:
            write_bytes(folder / "file", content, mode=0o600 if _is_private(name) else 0o644)
            self.publish(folder / "file", name)

    def publish(self, made: Path, name: str) -> None:
        """See `Place.publish`."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(MOST_RIVALS if made.is_dir() else 0):  # a worker that a dead build left behind may write the same
            shutil.rmtree(target, ignore_errors=True)
            with suppress(OSError):
                made.replace(target)
                return
        made.replace(target)

    def remove(self, name: str) -> None:
        """See `Place.remove`."""
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def children(self, name: str) -> list[str]:
        """See `Place.children`."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(self.path / name))
        return []

    def sizes(self) -> dict[str, int]:
        """See `Place.sizes`."""
        found = ((path.relative_to(self.path).as_posix(), path) for path in self.path.rglob("*") if path.is_file())
        return {name: path.stat().st_size for name, path in found if not _is_private(name)}

    def checksum(self, name: str) -> str:
        """See `Place.checksum`."""
        return checksum(self.path / name)

    def is_intact(self, name: str, checksum: str) -> bool:
        """See `Place.is_intact`."""
        return self.checksum(name) == checksum

    def open_array(self, name: str) -> zarr.Array:
        """See `Place.open_array`."""
        return zarr.open_array(self.path / name, mode="r")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Place.scratch`; on the same file system, so that a rename suffices."""
        parent = self.path / SCRATCH_DIR
        parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `Place.locked`; makes the folder."""
        self._make()
        with (self.path / LOCK_FILE).open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"another build is writing {self.path}: wait for it") from error
            yield

    def _make(self) -> None:
        """The folder must be new, empty or a build's: a build removes what it has not written."""
        try:
            marks = [(self.path / mark).is_file() for mark in CORPUS_MARKS]
            if self.path.exists() and any(self.path.iterdir()) and not any(marks):
                raise UserError(f"--out {self.path} holds files that are no corpus: choose a new folder")
            (self.path / PRIVATE_DIR).mkdir(parents=True, exist_ok=True)
            (self.path / PRIVATE_DIR).chmod(FOLDER_MODE)
        except OSError as error:
            raise UserError(f"--out {self.path} cannot be made ({error.strerror}): choose another folder") from error


class Bucket(Place):
    """A prefix of an S3 bucket; the usual AWS_… variables and files say how to reach it."""

    def __init__(self, address: str) -> None:
        """`address` is s3://bucket/prefix."""
        super().__init__(address.rstrip("/"))
        self._storage = S3Storage(address)

    def read(self, name: str) -> bytes:
        """See `Place.read`."""
        return bytes(self._request("cat_file", name))

    def write(self, name: str, content: bytes) -> None:
        """See `Place.write`; who may read private/ is for the bucket's policy to say."""
        self._request("pipe_file", name, content)

    def publish(self, made: Path, name: str) -> None:
        """See `Place.publish`."""
        if not made.is_dir():
            self._put(made, name)
            return
        self.remove(name)
        files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path.as_posix() == ROOT_OF_IMAGE):
            self._put(made / path, f"{name}/{path.as_posix()}")

    def remove(self, name: str) -> None:
        """See `Place.remove`."""
        with suppress(FileNotFoundError):
            self._request("rm", name, recursive=True)

    def children(self, name: str) -> list[str]:
        """See `Place.children`."""
        with suppress(FileNotFoundError):
            return sorted(PurePosixPath(path).name for path in self._request("ls", name, detail=False))
        return []

    def sizes(self) -> dict[str, int]:
        """See `Place.sizes`."""
        return {name: size for name, size in self._find("").items() if not _is_private(name)}

    def checksum(self, name: str) -> str:
        """See `Place.checksum`; the bytes are fetched."""
        below = self._find(name)
        digest = xxhash.xxh3_64()
        if list(below) != [name]:
            names = sorted(map(PurePosixPath, below))
            digest.update("\n".join(path.relative_to(name).as_posix() for path in names).encode())
            below = {path.as_posix(): 0 for path in names}
        for path in below:
            digest.update(self.read(path))
        return digest.hexdigest() if below else ""

    def is_intact(self, name: str, checksum: str) -> bool:
        """See `Place.is_intact`."""
        return bool(self._request("exists", name) or self._request("exists", f"{name}/{ROOT_OF_IMAGE}"))

    def open_array(self, name: str) -> zarr.Array:
        """See `Place.open_array`."""
        return zarr.open_array(f"{self.address}/{name}", mode="r")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Place.scratch`."""
        with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
            yield Path(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `Place.locked`."""
        names = self.children("")
        if names and not ({PRIVATE_DIR, "corpus.json"} & set(names)):
            raise UserError(f"--out {self.address} holds objects that are no corpus: choose a new prefix")
        yield

    def _path(self, name: str) -> str:
        return str(self._storage.root / name) if name else str(self._storage.root)

    def _request(self, method: str, name: str, *arguments: Any, **options: Any) -> Any:
        return self._storage.request(method, self._path(name), *arguments, **options)

    def _put(self, made: Path, name: str) -> None:
        self._storage.request("put_file", str(made), self._path(name))

    def _find(self, name: str) -> dict[str, int]:
        """Sizes of all objects below a name, or of the one at it; {} where there is none."""
        root = str(self._storage.root)
        try:
            found = self._request("find", name, detail=True)
        except FileNotFoundError:
            return {}
        return {path.removeprefix(f"{root}/"): int(about["size"]) for path, about in sorted(found.items())}


def open_place(address: str | Path) -> Place:
    """The place at a folder or s3://bucket/prefix.

    Raises:
        UserError: another scheme, or no bucket.
    """
    if is_bucket(address):
        open_storage(address)  # says what is wrong with an address
        return Bucket(str(address))
    return Folder(address)


def is_bucket(address: str | Path) -> bool:
    """Whether an address has a scheme, of which s3:// is the only one known."""
    return isinstance(address, str) and "://" in address


def _is_private(name: str) -> bool:
    return name.split("/")[0] == PRIVATE_DIR
