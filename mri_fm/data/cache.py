"""A cache of payloads on a disk of this node, in front of storage that is far away.

Any number of processes of the node share a folder. An entry appears by a rename and is never changed; a reader that has it
open keeps it though another process removes it; what was damaged fails its checksum and is fetched again. The folder's total
is a number in a file, changed under a lock that is held for a moment and waited for hardly longer: the cache only ever helps,
so what it cannot do at once, it leaves undone. The total may run ahead of what is there (a process was killed, an entry was
dropped), never behind; when it reaches the limit the files are counted anew.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from mri_fm.errors import UserError

_log = logging.getLogger(__name__)
GB = 10**9
_LOCK_WAIT_S = 1.0
_ABANDONED_S = 600.0  # an unfinished entry this old has lost its writer
_DIGITS = 20  # of the total
_ROOM = 0.1  # of the limit is freed at once, so that the files are counted seldom


class PayloadCache:
    """The payloads that were read last, at most `limit` bytes of them.

    Attributes:
        folder: where the entries lie.
        limit: bytes of all entries, unfinished ones included.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Use `folder`, which is made if needed.

        Raises:
            UserError: it cannot be made or written.
        """
        self.folder, self.limit = folder, limit
        self._warned = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f"{os.getpid()}.probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"data.cache_dir={folder} cannot be written ({error.strerror}): give a folder of yours on a local disk"
            ) from error

    def get(self, name: str, valid: Callable[[bytes], bool]) -> bytes | None:
        """The payload called `name`, None if it is not there or not `valid`; an entry that is not valid is dropped."""
        path = self._path(name)
        try:
            payload = path.read_bytes()
            os.utime(path)  # the last use, by which the oldest are removed
        except OSError:
            return None
        if valid(payload):
            return payload
        _log.warning("%s was damaged and is fetched again", path)
        path.unlink(missing_ok=True)
        return None

    def put(self, name: str, payload: bytes) -> None:
        """Keep a payload, in place of those that were used longest ago; a full disk or a busy cache keeps nothing."""
        partial = self._path(name).with_suffix(f".{os.getpid()}.partial")
        try:
            if self._reserve(partial, len(payload)):
                _fill(partial, payload)
                self._publish(partial, self._path(name))
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            if not self._warned:
                _log.warning("data.cache_dir=%s takes no more (%s); reading goes on without it", self.folder, error.strerror)
            self._warned = True

    def _path(self, name: str) -> Path:
        return self.folder / f"{xxhash.xxh3_128_hexdigest(name.encode())}.payload"

    def _reserve(self, partial: Path, size: int) -> bool:
        """Make a file of that size and count it in the total; False if it cannot fit or the lock is held for long."""
        with self._locked() as total:
            if total is None or size > self.limit:
                return False
            taken = _number(total)
            if taken is None or taken + size > self.limit:
                taken = self._make_room(size)
            fits = taken + size <= self.limit
            if fits:
                with partial.open("wb") as stream:
                    stream.truncate(size)
            os.pwrite(total, f"{taken + size * fits:<{_DIGITS}}".encode(), 0)
            return fits

    def _publish(self, partial: Path, path: Path) -> None:
        """Rename under the lock: who counts the files at that moment could see neither name."""
        with self._locked() as total:
            if total is None:
                partial.unlink()
            else:
                partial.replace(path)

    def _make_room(self, size: int) -> int:
        """Remove the entries that were used longest ago until `size` bytes fit; returns the bytes that stay."""
        entries = sorted(self._entries())
        taken = sum(length for _, length, _ in entries)
        target = self.limit * (1 - _ROOM) - size
        for used, length, path in entries:
            in_progress = path.suffix == ".partial" and time.time() - used < _ABANDONED_S
            abandoned = path.suffix == ".partial" and not in_progress
            if abandoned or (taken > target and not in_progress):
                path.unlink(missing_ok=True)
                taken -= length
        return taken

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of every file but the lock."""
        with os.scandir(self.folder) as listing:
            for entry in listing:
                if entry.name.endswith((".payload", ".partial")):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        yield status.st_mtime, status.st_size, Path(entry.path)

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """A descriptor of the file with the total, locked; None if that takes longer than `_LOCK_WAIT_S`."""
        descriptor = os.open(self.folder / "total", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor if _lock(descriptor) else None
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.002)


def _number(total: int) -> int | None:
    """The recorded total, None if there is none that can be read."""
    text = os.pread(total, _DIGITS, 0)
    return int(text) if text.strip().isdigit() else None


def _fill(partial: Path, payload: bytes) -> None:
    with partial.open("r+b") as stream:
        stream.write(payload)
