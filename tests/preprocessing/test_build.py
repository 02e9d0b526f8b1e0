"""The build: the contract of a corpus, what is refused, and building again."""

import fcntl
import json
import os
import shutil
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash

from mri_fm.data.codecs import BLOSC, LZ4, Codec
from mri_fm.data.corpus import Corpus
from mri_fm.data.reader import ShardReader
from mri_fm.errors import UserError
from preprocessing import tasks
from preprocessing.build import Spec, build, summary
from preprocessing.files import checksum
from tests.corpora import SPEC, flipped, resampled, small_raw, write_labels
from tests.volume.series import write_series

SAMPLES = Path(nibabel.__file__).parent / "tests" / "data"


def manifest(corpus: Path) -> dict[str, dict]:
    return {row["key"]: row for row in pq.read_table(corpus / "manifest.parquet").to_pylist()}


def ledger(corpus: Path) -> dict[str, dict]:
    return {row["source_path"]: row for row in pq.read_table(corpus / "private/ledger.parquet").to_pylist()}


def contents(corpus: Path) -> dict[str, str]:
    paths = [p for p in corpus.rglob("*") if p.is_file() and "private" not in p.parts]
    return {p.relative_to(corpus).as_posix(): checksum(p) for p in paths}


def mixed_raw(raw: Path) -> Path:
    """One good scan, the same as LAS, and inputs that must be refused."""
    raw.mkdir()
    image = resampled((5, 5, 5))
    nibabel.save(image, raw / "b_T1.nii.gz")
    nibabel.save(flipped(image, "LAS"), raw / "c_T1.nii")
    (raw / "cut.nii.gz").write_bytes((raw / "b_T1.nii.gz").read_bytes()[:5000])
    (raw / "paper.pdf").write_bytes(b"%PDF")
    shutil.copy(SAMPLES / "minc2_4d.mnc", raw)
    nan = np.asarray(image.dataobj, np.float32).copy()
    nan[tuple(n // 2 for n in nan.shape)] = np.nan  # inside the head
    nibabel.save(nibabel.Nifti1Image(nan, image.affine), raw / "nan.nii")
    return raw


def test_every_row_finds_its_payload(corpus: Path) -> None:
    for key, row in manifest(corpus).items():
        blob = (corpus / "shards" / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        assert xxhash.xxh3_64_hexdigest(blob) == row["checksum"]
        voxels = np.frombuffer(blob, "<i2").reshape(row["shape"])
        foreground = voxels[voxels != 0]
        assert foreground.min() >= 1
        assert row["foreground_fraction"] == pytest.approx(foreground.size / voxels.size)
        assert [row["p01"], row["p99"]] == pytest.approx(np.percentile(foreground, [1, 99]))
        assert [row["crop_p01"], row["crop_p99"]] == pytest.approx(np.percentile(voxels, [1, 99]))
        assert row["shard"].startswith(row["split"])
        assert row["content_hash"].startswith(key)


@pytest.mark.parametrize("codec", [LZ4, BLOSC], ids=lambda codec: codec.name)
def test_a_compressed_corpus_holds_the_same_voxels(tmp_path: Path, corpus: Path, codec: Codec) -> None:
    build(corpus.parent / "raw", tmp_path / "corpus", replace(SPEC, codec=codec.name))
    raw, packed = (Corpus.open(root) for root in (corpus, tmp_path / "corpus"))
    assert packed.info["spec"]["codec"] == codec.name
    reader = ShardReader()
    for one, other in zip(packed.samples, raw.samples, strict=True):
        assert (one.key, one.codec, other.codec) == (other.key, codec.name, "raw")
        assert one.size < other.size
        assert np.array_equal(reader.read(one), reader.read(other))
    with tarfile.open(tmp_path / "corpus/shards" / raw.samples[0].shard.name) as archive:
        assert {name.partition(".")[2] for name in archive.getnames()} == {codec.extension, "shape", "json"}
    assert build(corpus.parent / "raw", tmp_path / "corpus", replace(SPEC, codec=codec.name))[1] is False


def test_labels_splits_and_orientation_arrive(corpus: Path) -> None:
    rows = {row["subject"]: row for row in manifest(corpus).values()}
    assert sorted(rows) == [f"s{i}" for i in range(8)]
    assert {rows[s]["orientation"] for s in ("s0", "s2", "s5")} == {"RAS", "LAS", "PSR"}
    assert rows["s4"]["spacing"] == [6.0, 4.0, 4.0]
    assert (rows["s1"]["contrast"], rows["s2"]["group"]) == ("T2", "b")
    assert {row["split"] for row in rows.values()} == {"train", "val"}


def test_corpus_file_covers_everything(corpus: Path) -> None:
    content = json.loads((corpus / "corpus.json").read_text())
    covered = {path for path in content["checksums"] if not (corpus / path).is_dir()}
    images = {path for path in content["checksums"] if (corpus / path).is_dir()}
    files = {p for p in contents(corpus) if p != "corpus.json" and not any(p.startswith(f"{i}/") for i in images)}
    assert files == covered
    for path, value in content["checksums"].items():
        assert value == checksum(corpus / path)
    counts = content["counts"]
    assert counts == {"inputs": 8, "accepted": 8, "duplicate": 0, "refused": 0, "distinct_brains": 8, "templates": 0,
                      "variants": 0, "by_code": {}, "by_layout": {"folder": 8}, "pretraining_only": 0}  # fmt: skip
    assert content["spec"]["shard_bytes"] == SPEC.shard_bytes
    assert summary(content).startswith("8 inputs = 8 accepted + 0 duplicate + 0 refused")


def test_private_things_are_private(corpus: Path) -> None:
    assert stat.S_IMODE((corpus / "private").stat().st_mode) == 0o700
    for name in ("ledger.parquet", "key", "inputs.json", "decisions.json"):
        assert stat.S_IMODE((corpus / "private" / name).stat().st_mode) == 0o600
    public = b"".join(p.read_bytes() for p in corpus.rglob("*") if p.is_file() and "private" not in p.parts)
    assert b"scan3" not in public
    assert str(corpus.parent).encode() not in public


def test_sample_json_leads_back_to_the_source(corpus: Path) -> None:
    rows, sources = manifest(corpus), ledger(corpus)
    row = rows[sources["scan5.nii.gz"]["key"]]
    image = nibabel.load(corpus.parent / "raw" / "scan5.nii.gz")
    with tarfile.open(corpus / "shards" / row["shard"]) as archive:
        members = {n: archive.extractfile(f"{row['key']}.{n}").read() for n in ("raw", "json", "shape")}
    info, shape = json.loads(members["json"]), np.frombuffer(members["shape"], "<i4")
    assert sorted(info) == ["affine", "contrast", "dataset", "offset", "scale", "spacing"]
    voxels = np.frombuffer(members["raw"], "<i2").reshape(shape)
    z, y, x = np.argwhere(voxels != 0)[100]
    i, j, k = np.rint(np.linalg.inv(image.affine) @ np.asarray(info["affine"]) @ [x, y, z, 1])[:3].astype(int)
    assert voxels[z, y, x] * info["scale"] + info["offset"] == np.asarray(image.dataobj)[i, j, k]


def test_bad_inputs_end_in_the_ledger(tmp_path: Path) -> None:
    content, _ = build(mixed_raw(tmp_path / "raw"), tmp_path / "corpus")
    rows = ledger(tmp_path / "corpus")
    assert {path: (row["decision"], row["code"]) for path, row in rows.items()} == {
        "b_T1.nii.gz": ("accepted", ""),
        "c_T1.nii": ("duplicate", "duplicate"),
        "cut.nii.gz": ("refused", "truncated"),
        "minc2_4d.mnc": ("refused", "not_3d"),
        "nan.nii": ("refused", "non_finite"),
        "paper.pdf": ("refused", "not_readable"),
    }
    assert rows["c_T1.nii"]["key"] == rows["b_T1.nii.gz"]["key"]
    counts = content["counts"]
    assert counts["accepted"] + counts["duplicate"] + counts["refused"] == counts["inputs"] == 6
    assert counts["distinct_brains"] == 1
    assert counts["by_code"] == {"duplicate": 1, "non_finite": 1, "not_3d": 1, "not_readable": 1, "truncated": 1}


def test_a_brain_is_counted_once_however_many_volumes_show_it(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(3):
        nibabel.save(resampled((6, 6, 6), seed=number), tmp_path / f"raw/{number}.nii")
    write_labels(tmp_path / "raw", ["path", "kind", "base"], [["0.nii", "template", "m"], ["1.nii", "variant", "m"],
                                                              ["2.nii", "variant", "n"]])  # fmt: skip
    counts = build(tmp_path / "raw", tmp_path / "corpus")[0]["counts"]
    assert (counts["accepted"], counts["distinct_brains"], counts["templates"], counts["variants"]) == (3, 2, 1, 2)


def test_a_second_run_does_nothing_and_new_data_moves_nothing(tmp_path: Path) -> None:
    raw, out = mixed_raw(tmp_path / "raw"), tmp_path / "corpus"
    assert build(raw, out, SPEC)[1]
    before, state = contents(out), ledger(out)
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert not build(raw, out, SPEC)[1]
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == times
    shutil.copy(raw / "b_T1.nii.gz", raw / "a_first_T1.nii.gz")  # sorts before the one already built
    nibabel.save(resampled((6, 5, 5), seed=3), raw / "new_T2.nii.gz")
    content, changed = build(raw, out, SPEC)
    assert changed
    assert (content["counts"]["accepted"], content["counts"]["distinct_brains"]) == (2, 2)
    assert ledger(out)["a_first_T1.nii.gz"]["decision"] == "duplicate"
    assert ledger(out)["b_T1.nii.gz"] == state["b_T1.nii.gz"]
    (raw / "new_T2.nii.gz").unlink()
    (raw / "a_first_T1.nii.gz").unlink()
    build(raw, out, SPEC)
    assert contents(out) == before


def test_new_data_appends_shards_and_leaves_the_old_ones(tmp_path: Path, corpus: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "corpus"
    shutil.copytree(corpus.parent / "raw", raw)
    shutil.copytree(corpus, out)
    before = contents(out)
    for number in range(3):
        nibabel.save(resampled((6, 5, 6), seed=70 + number), raw / f"late{number}.nii.gz")
    build(raw, out, SPEC)
    after = contents(out)
    old = {path: value for path, value in before.items() if path.startswith(("shards/", "volumes.zarr/"))}
    assert {path: after[path] for path in old} == old
    added = sorted(path for path in after if path.startswith("shards/") and path not in before)
    assert added
    assert min(added) > max(path for path in before if path.startswith(added[0].partition("-")[0]))
    assert len(manifest(out)) == 11
    (raw / "scan0.nii.gz").unlink()
    labels = (raw / "labels.csv").read_text().splitlines()
    (raw / "labels.csv").write_text("\n".join(line for line in labels if "scan0" not in line))
    build(raw, out, SPEC)
    touched = {path for path, value in after.items() if path.startswith("shards/") and contents(out).get(path) != value}
    shard = next(row["shard"] for row in manifest(corpus).values() if row["subject"] == "s0")
    assert touched == {f"shards/{shard}", f"shards/{shard.replace('.tar', '.idx')}"}


def test_an_interrupted_build_continues_and_equals_one_that_was_not(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = corpus.parent / "raw", tmp_path / "corpus"
    written = []
    real = tasks.write_shard

    def stop_at_third(path, samples, codec):
        if len(written) == 2:
            next(iter(samples))
            raise KeyboardInterrupt
        written.append(path.name)
        return real(path, samples, codec)

    monkeypatch.setattr(tasks, "write_shard", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build(raw, out, SPEC)
    assert not (out / "corpus.json").exists()
    resumed = []
    monkeypatch.setattr(tasks, "write_shard", lambda path, *rest: resumed.append(path.name) or real(path, *rest))
    monkeypatch.setattr("preprocessing.decisions.examine", lambda *_: pytest.fail("pass 1 was repeated"))
    build(raw, out, SPEC)
    assert resumed
    assert not set(resumed) & set(written)
    assert contents(out) == contents(corpus)


@pytest.mark.parametrize(
    "name",
    ["shards/train-000000.tar", "shards/train-000000.idx", "manifest.parquet", "volumes.zarr/*/0/c/0/0/0", "corpus.json"],
)
def test_what_was_changed_behind_our_back_is_written_again(tmp_path: Path, corpus: Path, name: str) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    before = contents(tmp_path / "corpus")
    path = next((tmp_path / "corpus").glob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert build(corpus.parent / "raw", tmp_path / "corpus", SPEC)[1]
    assert contents(tmp_path / "corpus") == before


@pytest.mark.parametrize("name", ["inputs.json", "decisions.json", "done/train-000000.json"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, corpus: Path, name: str) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "corpus/private" / name).write_bytes(b"\xff")
    build(corpus.parent / "raw", tmp_path / "corpus", SPEC)
    assert contents(tmp_path / "corpus") == contents(corpus)
    (tmp_path / "corpus/private/ledger.parquet").unlink()
    build(corpus.parent / "raw", tmp_path / "corpus", SPEC)
    assert ledger(tmp_path / "corpus") == ledger(corpus)


def test_voxels_that_change_beside_their_header_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    image = resampled((5, 5, 5))
    nibabel.save(nibabel.Nifti1Pair(np.asarray(image.dataobj), image.affine), tmp_path / "raw/a_T1.hdr")
    build(tmp_path / "raw", tmp_path / "corpus")
    voxels = tmp_path / "raw/a_T1.img"
    voxels.write_bytes(voxels.read_bytes()[:-100])
    build(tmp_path / "raw", tmp_path / "corpus")
    assert ledger(tmp_path / "corpus")["a_T1.hdr"]["code"] == "truncated"


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out/shards").mkdir(parents=True)
    (tmp_path / "out/shards/mine.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    raw = mixed_raw(tmp_path / "raw")
    with pytest.raises(UserError, match="holds files that are no corpus"):
        build(raw, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["shards", "mine.txt"]
    for out in (tmp_path / "file", tmp_path / "file/sub"):
        with pytest.raises(UserError, match="cannot be made"):
            build(raw, out)
    (tmp_path / "new").mkdir()
    (raw / "link").symlink_to(tmp_path / "new")
    (tmp_path / "new/x.nii").write_text("x")
    with pytest.raises(UserError, match="leads into --out"):
        build(raw, tmp_path / "new")


def test_nothing_but_refusals_is_a_corpus_without_volumes(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.nii").write_bytes(b"x")
    content, _ = build(tmp_path / "raw", tmp_path / "corpus")
    assert (content["counts"]["accepted"], content["counts"]["refused"]) == (0, 1)
    assert manifest(tmp_path / "corpus") == {}


def test_an_input_that_changes_between_the_passes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = small_raw(tmp_path / "raw")
    build(raw, tmp_path / "corpus", Spec())

    def change(*_: object) -> dict:
        nibabel.save(resampled((5, 5, 5), seed=9), raw / "scan0.nii.gz")
        return {}

    monkeypatch.setattr("preprocessing.build.read_layout", change)
    with pytest.raises(UserError, match=r"scan0.nii.gz changed"):
        build(raw, tmp_path / "corpus", SPEC)
    assert not (tmp_path / "corpus" / "corpus.json").exists()


def test_a_dicom_series_becomes_a_volume(tmp_path: Path) -> None:
    image = np.asarray(resampled((5, 5, 4)).dataobj)
    write_series(tmp_path / "raw" / "series", image.transpose(2, 1, 0).astype(np.uint16))
    write_labels(tmp_path / "raw", ["path", "dataset"], [["series", "ge"]])
    content, _ = build(tmp_path / "raw", tmp_path / "corpus")
    (row,) = manifest(tmp_path / "corpus").values()
    assert content["counts"]["accepted"] == 1
    assert (row["dataset"], row["contrast"]) == ("ge", "T2")  # from the series' description
    assert row["subject"].startswith("anon-")
    assert b"Doe" not in b"".join(p.read_bytes() for p in (tmp_path / "corpus").rglob("*") if p.is_file())


def test_mistakes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    with pytest.raises(UserError, match="no folder"):
        build(raw, tmp_path / "out")
    raw.mkdir()
    with pytest.raises(UserError, match="is empty"):
        build(raw, tmp_path / "out")
    (raw / "README").write_text("x")
    with pytest.raises(UserError, match="no scan"):
        build(raw, tmp_path / "out")
    for inside in (raw / "out", tmp_path, raw):
        with pytest.raises(UserError, match="inside one another"):
            build(raw, inside)
    for wrong in ({"max_spacing": 0}, {"val_fraction": 0.6, "test_fraction": 0.4}, {"val_fraction": -0.1}, {"shard_bytes": 0},
                  {"max_spacing": float("nan")}, {"val_fraction": float("nan")}, {"test_fraction": float("nan")},
                  {"codec": "zip"}):  # fmt: skip
        with pytest.raises(UserError):
            Spec(**wrong)


def test_two_builds_at_once_are_refused(tmp_path: Path) -> None:
    raw = mixed_raw(tmp_path / "raw")
    (tmp_path / "out/private").mkdir(parents=True)
    with (tmp_path / "out/private/lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another build"):
            build(raw, tmp_path / "out")
    assert os.listdir(raw)
