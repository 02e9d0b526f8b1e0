"""Event files, read back by protobuf's own parser, and by TensorBoard where it is installed."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

from mri_fm.config import load_config
from mri_fm.observe.draw import PICTURE_DIR
from mri_fm.observe.recorder import Recorder, read_metrics
from mri_fm.observe.tensorboard import TENSORBOARD_DIR, TensorBoardFile, _digits

DOUBLE, FLOAT, INT64, INT32, MESSAGE, STRING, BYTES = 1, 2, 3, 5, 11, 9, 12
FIELDS = {  # tensorflow/core/util/event.proto and framework/summary.proto, as far as they matter here
    "SessionLog": [("status", 1, INT32, "")],
    "Image": [("height", 1, INT32, ""), ("width", 2, INT32, ""), ("colorspace", 3, INT32, ""), ("encoded", 4, BYTES, "")],
    "Value": [("tag", 1, STRING, ""), ("simple_value", 2, FLOAT, ""), ("image", 4, MESSAGE, "Image")],
    "Summary": [("value", 1, MESSAGE, "Value")],
    "Event": [("wall_time", 1, DOUBLE, ""), ("step", 2, INT64, ""), ("file_version", 3, STRING, ""),
              ("summary", 5, MESSAGE, "Summary"), ("session_log", 7, MESSAGE, "SessionLog")],
}  # fmt: skip
TRUTH = np.random.default_rng(0).normal(size=(8, 12, 10)).astype(np.float32)


def event_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="tb", syntax="proto3")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind, of in fields:
            field = described.field.add(name=name, number=number, type=kind, label=3 if message == "Summary" else 1)
            if of:
                field.type_name = f".tb.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tb.Event"))


def events(run: Path) -> Iterator[Any]:
    """All records of all files, in their order, with both checksums of each."""
    kind = event_class()
    for path in sorted((run / TENSORBOARD_DIR).iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            message = content[12 : 12 + length]
            assert content[8:12] == masked(content[:8])
            assert content[12 + length : 16 + length] == masked(message)
            content = content[16 + length :]
            yield kind.FromString(message)


def masked(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a picture that ended after step 3 and was resumed after step 2."""
    folder = tmp_path_factory.mktemp("tensorboard")
    config = load_config("mae", ["data.corpus=C", f"run.dir={folder}", "observe.tensorboard=true", "wandb.mode=disabled"])
    with Recorder(config, folder) as recorder:
        recorder.draw(1, {"truth": TRUTH, "mosaic": TRUTH, "hidden": TRUTH > 0})
        for step in (1, 2, 3):
            recorder.write({"step": step, "samples": 8 * step, "loss": 1 / 3 / step, "val_loss": None, "lr/x": 1e-9})
    with Recorder(config, folder, 2) as recorder:
        recorder.write({"step": 3, "samples": 24, "loss": 0.5, "val_loss": 0.25})
    return folder


def test_the_file_has_the_numbers_of_the_run_under_their_keys(run):
    scalars = {(e.step, v.tag): v.simple_value for e in events(run) for v in e.summary.value if not v.HasField("image")}
    assert scalars[1, "loss"] == np.float32(1 / 3)
    assert scalars[1, "lr/x"] == np.float32(1e-9)
    assert scalars[3, "loss"] == 0.5  # the later one
    assert {(1, "val_loss"), (2, "val_loss")} & set(scalars) == set()
    logged = {name for record in read_metrics(run) for name, value in record.items() if value is not None}
    shown = {value.tag for event in events(run) for value in event.summary.value}
    assert shown == logged - {"step", "time"} | {"pictures/reconstruction"}
    assert {record["step"] for record in read_metrics(run)} == {step for step, _ in scalars}


def test_a_resumed_run_takes_back_the_steps_that_it_makes_again(run):
    files = list(events(run))
    assert [e.file_version for e in files if e.file_version] == ["brain.Event:2"] * 2
    assert [(e.step, e.session_log.status) for e in files if e.HasField("session_log")] == [(1, 1), (3, 1)]
    assert abs(files[-1].wall_time - time.time()) < 600


def test_a_picture_is_the_file_at_the_step_that_it_shows(run):
    (image,) = [(e.step, v) for e in events(run) for v in e.summary.value if v.HasField("image")]
    step, value = image
    file = run / PICTURE_DIR / "reconstruction-00000001.png"
    assert (step, value.tag, value.image.encoded) == (1, "pictures/reconstruction", file.read_bytes())
    assert (value.image.width, value.image.height) == Image.open(file).size


def test_tensorboard_itself_reads_it(run):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed (extra tensorboard)"
    ).EventAccumulator(str(run / TENSORBOARD_DIR))
    reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("loss")] == [
        (1, np.float32(1 / 3)),
        (2, np.float32(1 / 6)),
        (3, 0.5),
    ]
    assert [event.step for event in reader.Images("pictures/reconstruction")] == [1]


def test_a_full_disk_costs_the_mirror_alone(tmp_path, caplog):
    mirror = TensorBoardFile(tmp_path, 0)
    mirror._path = Path("/dev/full")
    mirror.log(1, {"loss": 1.0})
    mirror.log(2, {"loss": 1.0})
    assert caplog.text.count("/dev/full cannot be written") == 1


@pytest.mark.parametrize(("value", "digits"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**32, "8080808010")])
def test_variable_length_integers(value, digits):
    assert _digits(value).hex() == digits
