"""Where the files of a corpus lie: in a folder, or below a prefix of an S3 bucket.

Both give byte ranges and sizes, which is all that a reader of shards needs; nothing is ever listed or written. What went
wrong comes as the built-in exceptions of the operating system, whichever storage it was: FileNotFoundError, PermissionError,
and `TRANSIENT` ones, which another try may mend.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import xxhash

from mri_fm.data.retry import NETWORK, retried
from mri_fm.errors import UserError

TRANSIENT = (TimeoutError, ConnectionError)
S3_SCHEME = "s3"
REQUEST_TIMEOUT_S = 10.0
_OPEN_FILES = 64
_CHUNK = 1 << 22
_DENIED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}


class Storage(ABC):
    """Files by path; `root` / name is the path of a file of the corpus.

    Attributes:
        address: what the user gave as data.corpus.
        root: the corpus' folder or prefix.
    """

    def __init__(self, address: str, root: PurePath) -> None:
        self.address, self.root = address, root

    @abstractmethod
    def read(self, path: PurePath, offset: int, size: int) -> bytes:
        """At most `size` > 0 bytes from `offset`; fewer where the file ends.

        Raises:
            OSError: no such file (FileNotFoundError), no permission, one of `TRANSIENT`, or another failure.
        """

    @abstractmethod
    def size(self, path: PurePath) -> int:
        """Bytes of a file; raises as `read`."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is open; reading opens it again."""

    def read_all(self, path: PurePath) -> bytes:
        """A whole file; raises as `read`."""
        return b"".join(self._chunks(path))

    def checksum(self, path: PurePath, seen: Callable[[int], None] | None = None) -> str:
        """XXH3-64 of a whole file, 16 hex digits; `seen` is told the bytes of each piece. Raises as `read`."""
        digest = xxhash.xxh3_64()
        for chunk in self._chunks(path):
            digest.update(chunk)
            if seen is not None:
                seen(len(chunk))
        return digest.hexdigest()

    def _chunks(self, path: PurePath) -> Iterator[bytes]:
        """A file in pieces, up to its present size or to where it has been cut meanwhile."""
        offset, size = 0, self.size(path)
        while offset < size and (chunk := self.read(path, offset, min(_CHUNK, size - offset))):
            yield chunk
            offset += len(chunk)


class LocalStorage(Storage):
    """A folder: one `pread` per range, one file descriptor per file and process."""

    def __init__(self, address: str = ".") -> None:
        """`address` is the folder; files outside it can be read by their path too."""
        super().__init__(address, Path(address))
        self._files: OrderedDict[tuple[int, PurePath], int] = OrderedDict()

    def read(self, path: PurePath, offset: int, size: int) -> bytes:
        """See `Storage.read`."""
        return os.pread(self._descriptor(path), size, offset)

    def size(self, path: PurePath) -> int:
        """See `Storage.size`."""
        return os.stat(path).st_size

    def close(self) -> None:
        """Close every file."""
        while self._files:
            with suppress(OSError):  # a file server that is gone says so here too
                os.close(self._files.popitem()[1])

    def _descriptor(self, path: PurePath) -> int:
        """An open descriptor; a forked child opens its own rather than share its parent's."""
        name = (os.getpid(), path)
        if name not in self._files:
            self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(name)
        return self._files[name]


class _BeyondEndError(OSError):
    """A range that begins where the object has ended."""


class S3Storage(Storage):
    """A prefix of a bucket: one GET of exactly the range. AWS_ENDPOINT_URL and the usual AWS_… variables and files apply."""

    def __init__(self, address: str) -> None:
        """`address` is s3://bucket/prefix; a request unanswered for `REQUEST_TIMEOUT_S` has failed."""
        super().__init__(address, PurePosixPath(address.removeprefix(f"{S3_SCHEME}://").strip("/")))
        self._client: tuple[int, Any] = (0, None)

    def read(self, path: PurePath, offset: int, size: int) -> bytes:
        """See `Storage.read`."""
        try:
            return bytes(self.request("cat_file", str(path), start=offset, end=offset + size))
        except _BeyondEndError:
            return b""

    def size(self, path: PurePath) -> int:
        """See `Storage.size`."""
        return int(self.request("info", str(path))["size"])

    def close(self) -> None:
        """Drop the client."""
        self._client = (0, None)

    def request(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the client, again where another try may mend what failed; raises as `read`."""
        return retried(lambda: self._request_once(method, *arguments, **options), TRANSIENT, NETWORK)

    def _request_once(self, method: str, *arguments: Any, **options: Any) -> Any:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError

        try:
            return getattr(self.client(), method)(*arguments, **options)
        except (OSError, BotoCoreError, ClientError) as error:
            raise as_os_error(error) from error

    def client(self) -> Any:
        """An `s3fs.S3FileSystem` of this process, since connections do not survive a fork. It asks once: retries are ours."""
        if self._client[0] != os.getpid():
            import s3fs

            times = {"connect_timeout": REQUEST_TIMEOUT_S, "read_timeout": REQUEST_TIMEOUT_S}
            once = {**times, "retries": {"total_max_attempts": 1}}
            system = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=once)
            system.retries = 1
            self._client = (os.getpid(), system)
        return self._client[1]


def open_storage(address: str | Path) -> Storage:
    """The storage at a folder or s3://bucket/prefix; nothing is read yet.

    Raises:
        UserError: another scheme, or no bucket.
    """
    scheme, separator, rest = str(address).partition("://")
    if not separator:
        return LocalStorage(str(address))
    if scheme != S3_SCHEME:
        raise UserError(f"{address}: '{scheme}' is no known scheme; give a folder or s3://bucket/prefix")
    if not rest.partition("/")[0]:
        raise UserError(f"{address} names no bucket; give s3://bucket/prefix")
    return S3Storage(str(address))


def same_place(one: str | Path, other: str | Path) -> bool:
    """Whether two addresses name the same corpus."""
    local = [str(address) if "://" in str(address) else str(Path(address).resolve()) for address in (one, other)]
    return local[0].rstrip("/") == local[1].rstrip("/")


def as_os_error(error: Exception) -> OSError:
    """What a failed S3 request is called, whatever layer it failed in."""
    from aiohttp import ClientError
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError, NoCredentialsError, PartialCredentialsError

    response = getattr(error.__cause__, "response", {})
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return PermissionError(f"{words}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if code in _DENIED or isinstance(error, PermissionError):
        return PermissionError(f"S3 denies access ({words}); check the AWS_… credentials")
    if code == "NoSuchBucket":
        return FileNotFoundError("no such bucket")
    if code == "InvalidRange":
        return _BeyondEndError(words)
    if status >= 500 or code == "SlowDown" or isinstance(error, (NoConnection, HTTPClientError, ClientError, *TRANSIENT)):
        timed_out = "Timeout" in type(error).__name__ or isinstance(error, TimeoutError)
        return TimeoutError(f"S3 timed out ({words})") if timed_out else ConnectionError(f"S3 does not answer ({words})")
    return error if isinstance(error, OSError) else OSError(words)
