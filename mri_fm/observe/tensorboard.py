"""A run's numbers and pictures as an event file of TensorBoard: `observe.tensorboard=true`, then `tensorboard --logdir RUN`.

An event file is a sequence of records, each a length, the CRC of it, a protobuf message `Event` and the CRC of that
(tensorflow/core/util/event.proto, tensorflow/core/lib/io/record_writer.h). The few fields needed are written here, so that
training needs no TensorBoard; whoever looks does.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import google_crc32c

from mri_fm.observe.wandb_run import PICTURES

TENSORBOARD_DIR = "tensorboard"
_VERSION = b"brain.Event:2"
_MASK = 0xA282EAD8
_RGB = 3
_log = logging.getLogger(__name__)


class TensorBoardFile:
    """Appends to an event file of its own; one that cannot be written, as on a full disk, is named and left."""

    def __init__(self, run_dir: Path, start: int) -> None:
        """Begin a file in `run_dir`/tensorboard; what other files say of steps after `start` no longer counts."""
        folder = run_dir / TENSORBOARD_DIR
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self._lost = False
        self._write(_bytes(3, _VERSION))
        self._write(_varint(2, start + 1) + _bytes(7, _varint(1, 1)))  # SessionLog.START: purge from this step on

    def log(self, step: int, record: Mapping[str, float | int | None], pictures: Sequence[Path] = ()) -> None:
        """Log the numbers of a step, and pictures NAME-STEP.png at the steps that they show."""
        values = [_scalar(name, float(value)) for name, value in record.items() if value is not None and name != "step"]
        if values:
            self._write(_varint(2, step) + _bytes(5, b"".join(values)))
        for file in pictures:
            name, _, drawn = file.stem.rpartition("-")
            image = _image(f"{PICTURES}/{name}", file.read_bytes())
            self._write(_varint(2, int(drawn)) + _bytes(5, image))

    def _write(self, event: bytes) -> None:
        message = _key(1, 1) + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(message))
        try:
            with self._path.open("ab") as file:
                file.write(length + _crc(length) + message + _crc(message))
        except OSError as error:
            if not self._lost:
                _log.warning("%s cannot be written (%s): the run goes on without it", self._path, error)
            self._lost = True


def _scalar(tag: str, value: float) -> bytes:
    """`Summary.Value` with a `simple_value`."""
    return _bytes(1, _bytes(1, tag.encode()) + _key(2, 5) + struct.pack("<f", value))


def _image(tag: str, png: bytes) -> bytes:
    """`Summary.Value` with an `image`; a PNG's header has its size."""
    width, height = struct.unpack(">II", png[16:24])
    image = _varint(1, height) + _varint(2, width) + _varint(3, _RGB) + _bytes(4, png)
    return _bytes(1, _bytes(1, tag.encode()) + _bytes(4, image))


def _crc(content: bytes) -> bytes:
    """CRC-32C, rotated and shifted, so that a CRC of something that holds CRCs stays a good one."""
    crc = int(google_crc32c.value(content))
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF)


def _key(field: int, wire_type: int) -> bytes:
    return bytes([field << 3 | wire_type])


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, 2) + _digits(len(content)) + content


def _varint(field: int, value: int) -> bytes:
    return _key(field, 0) + _digits(value)


def _digits(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
