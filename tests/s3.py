"""A real S3 server (moto) in a process of its own, which tests may stop, kill and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from unittest import mock

import s3fs

from mri_fm.data import schema
from tests.distributed import free_port

BUCKET = "corpora"
_UP_WITHIN_S = 300


class S3Server:
    """moto's server on a free port; as a context it sets the AWS_… variables and ends with it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }
        self._patched = mock.patch.dict(os.environ, self.environment)

    def __enter__(self) -> Self:
        self._patched.start()
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._patched.stop()

    def start(self) -> None:
        """Start the server, empty, on its port, and wait until it answers."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + _UP_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert self.process.poll() is None, "moto's server has ended"
                assert time.monotonic() < until, "moto's server did not come up"
                time.sleep(0.05)
        self.file_system().mkdir(BUCKET)

    def kill(self) -> None:
        """End it at once, also when it is stopped."""
        self.process.kill()
        self.process.wait()

    def stall(self) -> None:
        """It accepts connections and never answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It answers again."""
        self.process.send_signal(signal.SIGCONT)

    def file_system(self) -> s3fs.S3FileSystem:
        """A client for tests that write."""
        return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def upload(self, corpus: Path, prefix: str = "small") -> str:
        """Copy a corpus, all but private/; returns its address."""
        system = self.file_system()
        for path in corpus.rglob("*"):
            name = path.relative_to(corpus).as_posix()
            if path.is_file() and not name.startswith("private/"):
                system.pipe_file(f"{BUCKET}/{prefix}/{name}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def damage(self, address: str, shard: str, *, keep: int | None = None, at: int | None = None) -> None:
        """Keep the first bytes of a shard alone, or overwrite 64 of them."""
        path = f"{address.removeprefix('s3://')}/{schema.SHARD_DIR}/{shard}"
        content = bytearray(self.file_system().cat_file(path))[:keep]
        if at is not None:
            content[at : at + 64] = b"\xff" * 64
        self.file_system().pipe_file(path, bytes(content))
