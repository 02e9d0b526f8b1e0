"""Damaged files: whatever a header field holds and wherever a file ends, reading answers, in memory that the file accounts for.

`make test` runs a small part; `make test-all` runs it in bulk.
"""

import gzip
import itertools
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.freesurfer.mghformat import header_dtype as MGH_FIELDS
from nibabel.nifti1 import header_dtype as NIFTI1_FIELDS
from nibabel.nifti2 import header_dtype as NIFTI2_FIELDS
from numpy.typing import NDArray

from mri_fm.volume.prepare import prepare_files
from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import CODES, Refusal
from tests.corpora import resampled
from tests.volume.containers import WRITERS, mgh, nifti, nrrd_file

FAST, BULK = settings(max_examples=40), settings(max_examples=1500, suppress_health_check=[HealthCheck.too_slow])
SLACK_BYTES = 12_000_000  # what libraries allocate however small a file is, and buffers
COPIES = 20  # bytes of memory per byte of voxels: int8 becomes float64, with temporaries, in the reader and in the checks
HANG_S = 120
HEADERS = {"nifti1": NIFTI1_FIELDS, "nifti2": NIFTI2_FIELDS, "mgh": MGH_FIELDS}
FILLS = (
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\1\0",
    b"\xff\x7f",
    b"\x7f\xff",
    b"\0\0\xc0\x7f",
    b"\x7f\xc0\0\0",
)  # NaN last
AFFINE = np.diag([6.0, 6.0, 6.0, 1.0])


@cache
def scan() -> NDArray[np.int16]:
    return np.asarray(resampled((6, 6, 6)).dataobj)


@cache
def content(name: str) -> bytes:
    writer = {"nifti1": nifti("a"), "nifti2": nifti("a.nii", nibabel.Nifti2Image), "mgh": mgh("a.mgh")}
    writer |= {encoding: nrrd_file("a.nrrd", encoding) for encoding in ("raw", "gzip", "ascii")}
    writer["nifti1"] = nifti("a.nii")
    with TemporaryDirectory() as folder:
        return writer[name](Path(folder), scan(), AFFINE).read_bytes()


@contextmanager
def no_hang() -> Iterator[None]:
    """A reader that never comes back fails the test."""

    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_answers(path: Path, held: int) -> str:
    """The code of the refusal, or "": nothing else may come, and `held`, the inflated bytes of the file, bounds the memory."""
    tracemalloc.start()
    try:
        with no_hang():
            prepare_files([path], series=False, max_spacing=6.5)
        code = ""
    except Refusal as refusal:
        code = refusal.code
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert code in (*CODES, "")
    assert peak <= SLACK_BYTES + COPIES * held
    return code


def numbers(size: int) -> st.SearchStrategy[bytes]:
    """Bytes for a field: any, and those that numbers have at their ends."""
    extremes = [0, 1, 2**15 - 1, 2**31 - 1, 2**63 - 1, -1, -(2**31)]
    ends = [
        np.array([value]).astype(kind).tobytes() for value in extremes for kind in ("<i2", ">i2", "<i4", ">i4", "<i8", ">i8")
    ]
    ends += [
        np.array([v]).astype(kind).tobytes()
        for v in (np.nan, np.inf, -np.inf, 1e-38, 3e38, -1)
        for kind in ("<f4", ">f4", "<f8")
    ]
    some = st.lists(st.sampled_from(ends), min_size=1, max_size=8).map(b"".join)
    return st.one_of(st.binary(min_size=size, max_size=size), some.map(lambda piece: (piece * size)[:size]))


@st.composite
def binary_damage(draw: st.DrawFn, kinds: list[str]) -> tuple[str, str, bytes]:
    """A file with one or two header fields overwritten: (kind, fields, content)."""
    kind = draw(st.sampled_from(kinds))
    fields = HEADERS[kind].fields
    names = draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=2, unique=True))
    damaged = bytearray(content(kind))
    for name in names:
        dtype, offset = fields[name][:2]
        damaged[offset : offset + dtype.itemsize] = draw(numbers(dtype.itemsize))
    return kind, "+".join(names), bytes(damaged)


def check_binary(damage: tuple[str, str, bytes], gz: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(gzip.compress(damage[2], 1) if gz else damage[2])
        check_answers(path, len(damage[2]))


@FAST
@given(damage=binary_damage(["nifti1", "nifti2", "mgh"]), gz=st.booleans())
def test_any_field_of_nifti_and_mgh(damage: tuple[str, str, bytes], gz: bool) -> None:
    check_binary(damage, gz)


@pytest.mark.slow
@BULK
@given(damage=binary_damage(["nifti1", "nifti2", "mgh"]), gz=st.booleans())
def test_any_field_of_nifti_and_mgh_in_bulk(damage: tuple[str, str, bytes], gz: bool) -> None:
    check_binary(damage, gz)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, header in HEADERS.items() for name in header.fields])
def test_every_field_of_nifti_and_mgh_by_itself(kind: str, name: str) -> None:
    dtype, offset = HEADERS[kind].fields[name][:2]
    for fill in FILLS:
        damaged = bytearray(content(kind))
        damaged[offset : offset + dtype.itemsize] = (fill * dtype.itemsize)[: dtype.itemsize]
        check_binary((kind, name, bytes(damaged)), gz=False)


ODD_WORDS = ["", "none", "(nan,nan,nan)", "(1,0,0) (1,0,0) (1,0,0)", "1 1", "block", "double", "big", "hex", "txt",
             "LIST", "a.raw", ".", "/dev/zero", "%d 1 9 1", "left-posterior-superior-time", "(1,0)", "3 3 3 3",
             "-1"]  # fmt: skip
words = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from(ODD_WORDS),
    st.text(st.characters(max_codepoint=300), max_size=30),
)  # fmt: skip


@st.composite
def nrrd_damage(draw: st.DrawFn) -> bytes:
    """An NRRD file with values of one or two fields replaced, a line dropped, or one doubled."""
    header, _, voxels = content(draw(st.sampled_from(["raw", "gzip", "ascii"]))).partition(b"\n\n")
    lines = header.split(b"\n")
    for _ in range(draw(st.integers(1, 2))):
        number = draw(st.integers(1, len(lines) - 1))
        name = lines[number].partition(b":")[0].decode()
        more = draw(st.sampled_from([name, name, name, "data file", "line skip", "byte skip", "space units", "kinds"]))
        line = f"{more}: {' '.join(draw(st.lists(words, max_size=4)))}".encode("utf-8", "surrogatepass")
        lines[number : number + draw(st.integers(0, 1))] = [line] * draw(st.integers(0, 2))
        if len(lines) < 2:
            break
    return b"\n".join(lines) + b"\n\n" + voxels


def check_nrrd(damaged: bytes) -> None:
    with TemporaryDirectory() as folder:
        Path(folder, "a.nrrd").write_bytes(damaged)
        check_answers(Path(folder, "a.nrrd"), max(len(damaged), scan().nbytes))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
def test_every_field_of_nrrd_by_itself(encoding: str) -> None:
    header, _, voxels = content(encoding).partition(b"\n\n")
    lines = header.split(b"\n")
    for number, word in itertools.product(
        range(1, len(lines)), (*ODD_WORDS, "nan nan nan", str(2**40), f"{2**40} {2**40} {2**40}")
    ):
        name = lines[number].partition(b":")[0]
        damaged = [*lines[:number], name + b": " + word.encode(), *lines[number + 1 :]]
        check_nrrd(b"\n".join(damaged) + b"\n\n" + voxels)


@FAST
@given(damaged=nrrd_damage())
def test_any_field_of_nrrd(damaged: bytes) -> None:
    check_nrrd(damaged)


@pytest.mark.slow
@BULK
@given(damaged=nrrd_damage())
def test_any_field_of_nrrd_in_bulk(damaged: bytes) -> None:
    check_nrrd(damaged)


@FAST
@given(name=st.sampled_from(["mha", "mha zlib"]), line=st.integers(0, 12), value=st.lists(words, max_size=4))
def test_any_field_of_metaimage(name: str, line: int, value: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = WRITERS[name](Path(folder), scan(), AFFINE)
        lines = path.read_bytes().split(b"\n")
        lines[line] = lines[line].partition(b"=")[0] + b"= " + " ".join(value).encode("utf-8", "surrogatepass")
        path.write_bytes(b"\n".join(lines))
        check_answers(path, scan().nbytes)


QUICK = ("nifti1 gzip", "mgz", "nrrd gzip RAS", "mha zlib", "mif")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in WRITERS])
def test_a_file_cut_at_any_64th_is_refused(tmp_path: Path, name: str) -> None:
    header = WRITERS[name](tmp_path, scan()[::2, ::2, ::2], AFFINE)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for part in range(64):
            path.write_bytes(whole[: len(whole) * part // 64])
            code = check_cut(header)
            assert code in ("truncated", "not_readable", "no_orientation") or name.startswith("afni"), part
        path.write_bytes(whole)


def check_cut(header: Path) -> str:
    try:
        with no_hang():
            read_volume(header)
    except Refusal as refusal:
        return refusal.code
    return "read"


PROMISES = {
    "a.nii": (content, "nifti1", lambda c: c[:42] + np.array([900] * 3, "<i2").tobytes() + c[48:]),
    "a.nii.gz": (content, "nifti1", lambda c: gzip.compress(c[:42] + np.array([900] * 3, "<i2").tobytes() + c[48:])),
    "a.mgh": (content, "mgh", lambda c: c[:4] + np.array([900] * 3, ">i4").tobytes() + c[16:]),
    "a.nrrd": (content, "gzip", lambda c: c.replace(b"sizes: ", b"sizes: 900 900 900\n# ")),
}
CHILD = """
import resource, sys
from pathlib import Path
from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import Refusal
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
for path in sys.argv[1:]:
    try:
        read_volume(Path(path))
    except Refusal as refusal:
        print(Path(path).name, refusal.code)
"""


def test_a_promise_of_gigabytes_fits_into_a_small_address_space(tmp_path: Path) -> None:
    own = resource.getrlimit(resource.RLIMIT_AS)
    for name, (source, kind, change) in PROMISES.items():
        (tmp_path / name).write_bytes(change(source(kind)))
    command = [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in PROMISES)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{name} truncated" for name in PROMISES]
    assert resource.getrlimit(resource.RLIMIT_AS) == own
