"""Raw folder → corpus, in two passes: the first decides on every input, the second writes from the frozen plan."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mri_fm.data.codecs import RAW, check_codecs
from mri_fm.data.schema import (
    ARCHIVE_DIR,
    CORPUS_FILE,
    CROP_MARGIN,
    FORMAT_VERSION,
    LEDGER_FILE,
    MANIFEST_FILE,
    REPORT_FILE,
    SHARD_DIR,
)
from mri_fm.data.split_files import Scan
from mri_fm.errors import UserError
from mri_fm.volume.brain import MASK, find_mask
from mri_fm.volume.canonical import MAX_SPACING_MM, MIN_FIELD_OF_VIEW_MM
from mri_fm.volume.discover import Input, find_inputs
from mri_fm.volume.prepare import AS_IT_IS
from mri_fm.volume.processing import Processing
from mri_fm.volume.readers import FORMATS
from preprocessing.archive import ROOT
from preprocessing.datasets.adapter import PHANTOM, PRETRAINING_ONLY, Knowledge
from preprocessing.datasets.contrast import contrast_of
from preprocessing.decisions import decide
from preprocessing.gallery import GALLERY_SIZE, PICTURES_FILE, choose_refused
from preprocessing.knowledge import AUTO, check_dataset, know
from preprocessing.place import PRIVATE_DIR, SCRATCH_DIR, Folder, Place, open_place
from preprocessing.plan import held_out, keep_first, lay_out, split_of
from preprocessing.privacy import new_key, parse_key, read_key
from preprocessing.quality import outliers
from preprocessing.runner import Runner, task_runner
from preprocessing.source import Files, RawFolder, Source, list_source, open_source
from preprocessing.tables import OWN_COLUMNS, read_layout, read_ledger, write_corpus_file, write_ledger, write_manifest
from preprocessing.tasks import DONE_DIR, Decision, Member, ShardTask, is_intact, picture, write_task

ALGORITHM = 2  # raise it when the voxels that a build writes change
KEY_DIGITS = 16
KEY_NAME = "key"
STATE_FILE = "private/inputs.json"

Report = Callable[[Place, dict[str, Any]], str]


@dataclass(frozen=True)
class Spec:
    """What decides a corpus besides its inputs.

    `dataset`: the adapter that all inputs must obey, "auto" for each input's own; `max_spacing` in mm; `reference_volume`:
    take one volume of a 4-D series; `shard_bytes` of uncompressed payload per shard at most; `codec` of the payloads;
    `processing`: what is done to volumes;
    `holdout`: scans whose people go to the split "test", so that nobody trains on any of their volumes.
    """

    max_spacing: float = MAX_SPACING_MM
    reference_volume: bool = False
    val_fraction: float = 0.1
    test_fraction: float = 0.0
    shard_bytes: int = 1_000_000_000
    codec: str = RAW.name
    dataset: str = AUTO
    holdout: tuple[Scan, ...] = ()
    processing: Processing = AS_IT_IS

    def __post_init__(self) -> None:
        if not 0 < self.max_spacing < 100:
            raise UserError(f"--max-spacing {self.max_spacing:g} must lie between 0 and 100 mm")
        if not (self.val_fraction >= 0 and self.test_fraction >= 0 and self.val_fraction + self.test_fraction < 1):
            raise UserError("--val-fraction and --test-fraction must be at least 0 and leave something to train on")
        if self.shard_bytes < 1:
            raise UserError(f"--shard-bytes {self.shard_bytes} must be positive")
        check_codecs([self.codec], "--codec")
        check_dataset(self.dataset)

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the bytes, as corpus.json states it."""
        fixed = {"algorithm": ALGORITHM, "crop_margin": CROP_MARGIN, "min_field_of_view": MIN_FIELD_OF_VIEW_MM}
        holdout = hashlib.sha256(json.dumps(sorted(self.holdout)).encode()).hexdigest()[:16] if self.holdout else ""
        return {**asdict(self), **fixed, "holdout": holdout}

    def hash(self) -> str:
        """SHA-256 (16 hex digits) of the resolved spec and the format version."""
        return hashlib.sha256(json.dumps([FORMAT_VERSION, self.resolved()], sort_keys=True).encode()).hexdigest()[:16]


def build(
    raw: Path | str,
    out: Path | str,
    spec: Spec | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    key: Path | None = None,
    report: Report | None = None,
) -> tuple[dict[str, Any], bool]:
    """Build or complete a corpus.

    Args:
        raw: folder of scans, or s3://bucket/prefix; only read.
        out: the corpus: a folder, made if needed, or s3://bucket/prefix.
        spec: the options; the defaults if None.
        workers: processes on this machine; 1 writes in this process, and reads in one beside it.
        scheduler: address of a running Dask scheduler, whose workers see `raw` and `out` under the same paths.
        key: file with the key of the pseudonyms; the corpus' own if None, `private/key`.
        report: the page of a corpus, from its place and the content of corpus.json; None for a corpus without one.

    Returns:
        The content of corpus.json, and whether anything had to be done.

    Raises:
        UserError: no inputs, folders inside one another, an `out` that holds something else or cannot be written, a wrong
            labels.csv, or an input that changes meanwhile.
        ResumableError: processes of the cluster died; the same call goes on.
        OSError: no room or right to write, no right to read, or a network that is gone; the same call goes on.
    """
    spec, source, place = spec or Spec(), open_source(raw), open_place(out)
    files = list_source(source)
    _check_apart(source, place, files)
    with place.locked():
        secret = _secret(place, key)
        state = _state(spec, secret, files, report is not None)
        current = _up_to_date(place, state)
        if current is not None:
            return current, False
        inputs, knowledge = survey(source, files, secret, spec)
        for name in (STATE_FILE, CORPUS_FILE):  # from here on the corpus is incomplete
            place.remove(name)
        with task_runner(workers, scheduler) as run:
            decisions = decide(run, source.address, place, inputs, files, spec, knowledge)
            content = _write(run, source.address, place, spec, inputs, knowledge, decisions)
            if report is not None:
                _picture_refused(run, source.address, place, inputs, decisions)
        _finish(place, content, report)
        place.write(STATE_FILE, state)
        place.remove(SCRATCH_DIR)
        return content, True


def survey(source: Source, files: Files, secret: bytes, spec: Spec) -> tuple[list[Input], dict[str, Knowledge]]:
    """The inputs among the files of a source, and what is known of each by source path.

    Raises:
        UserError: there is no input, or see `preprocessing.knowledge.know`.
    """
    with source.for_discovery(files) as folder:
        inputs = find_inputs(folder, files)
        if not inputs:
            raise UserError(f"no scan in {source.address}: put {FORMATS} or DICOM files there")
        if spec.processing.brain == MASK:
            inputs = [_with_mask(item, files) for item in inputs]
        return inputs, know(folder, files, inputs, secret, spec.dataset)


def _with_mask(item: Input, files: Files) -> Input:
    """With the brain mask beside it among its companions, so that a change of the mask is a change of the input."""
    mask = find_mask(item.files[0], files)
    return replace(item, companions=(*item.companions, mask)) if mask else item


def summary(content: dict[str, Any]) -> str:
    """A corpus.json in a few lines for the terminal."""
    counts = content["counts"]
    lines = [
        "{inputs} inputs = {accepted} accepted + {duplicate} duplicate + {refused} refused".format(**counts),
        "{distinct_brains} distinct brains, {templates} templates, {variants} variants".format(**counts),
    ]
    if counts["pretraining_only"]:
        lines.append(f"{counts['pretraining_only']} volumes of labelled data sets have no label: for pretraining only")
    lines.append("layouts: " + ", ".join(f"{name} {number}" for name, number in counts["by_layout"].items()))
    codes = ", ".join(f"{code} {number}" for code, number in counts["by_code"].items() if code != "duplicate")
    return "\n".join([*lines, f"refused: {codes}"] if codes else lines)


def _check_apart(source: Source, place: Place, files: Files) -> None:
    """Refuse to read where the corpus is written."""
    if not (isinstance(source, RawFolder) and isinstance(place, Folder)):
        if source.address == place.address:
            raise UserError(f"--out and --raw are both {place.address}: choose another prefix")
        return
    raw, out = source.path, place.path
    if out == raw or out in raw.parents or raw in out.parents:
        raise UserError(f"--out {out} and --raw {raw} lie inside one another: choose separate folders")
    if any(Path(os.path.realpath(folder)).is_relative_to(out) for folder in {(raw / path).parent for path in files}):
        raise UserError(f"a link in {raw} leads into --out {out}: remove it, or choose another --out")


def _state(spec: Spec, secret: bytes, files: Files, report: bool) -> bytes:
    """All that a finished corpus was made from."""
    key = hashlib.sha256(secret).hexdigest()
    return json.dumps({"spec": spec.hash(), "key": key, "report": report, "files": files}).encode()


def _up_to_date(place: Place, state: bytes) -> dict[str, Any] | None:
    """The finished corpus.json, if it was built from exactly this and all of it is still there."""
    try:
        recorded = place.read(STATE_FILE)
        place.read(LEDGER_FILE)
    except FileNotFoundError:
        return None
    content = place.read_object(CORPUS_FILE)
    return content if recorded == state and content and is_intact(place, content) else None


def _secret(place: Place, given: Path | None) -> bytes:
    """The key of the pseudonyms: the one given, else the corpus' own, made on its first build."""
    if given is not None:
        return read_key(given)
    if KEY_NAME not in place.children(PRIVATE_DIR):
        place.write(f"{PRIVATE_DIR}/{KEY_NAME}", new_key().encode())
    name = f"{PRIVATE_DIR}/{KEY_NAME}"
    return parse_key(place.read(name).decode("utf-8", "replace"), f"{place.address}/{name}")


def _write(
    run: Runner, raw: str, place: Place, spec: Spec, inputs: list[Input],
    knowledge: dict[str, Knowledge], decisions: dict[str, Decision],
) -> dict[str, Any]:  # fmt: skip
    """Freeze the plan, run pass 2, and write the tables; returns the content of corpus.json."""
    hashes = {path: d.content_hash for path, d in decisions.items() if not d.code}
    built = [row["source_path"] for row in read_ledger(place) if row["decision"] == "accepted"]
    kept = keep_first(hashes, built)
    members = {
        path: _member(item, knowledge[path], decisions[path]) for item in inputs if (path := item.source_path) in kept.values()
    }
    held = held_out(knowledge, spec.holdout, {path: kept[h] for path, h in hashes.items()})
    splits = {path: "test" if knowledge[path].person in held else _split_of(knowledge[path], spec) for path in members}
    tasks = _shard_tasks(raw, place, spec, members, splits, decisions)
    place.write(f"{ARCHIVE_DIR}/zarr.json", ROOT)
    records = run(write_task, tasks, "write shards", size=lambda task: len(task.members))
    facts = {key: row for record in records for key, row in record["rows"].items()}
    stored = {"codec": spec.codec}
    uids = _duplicate_uids(knowledge, decisions, kept)
    rows = [_manifest_row(m, knowledge[p], splits[p], stored | facts[m.key] | uids.get(p, {})) for p, m in members.items()]
    standing_out = outliers(rows)
    rows = [row | standing_out[row["key"]] for row in rows]
    write_manifest(place, sorted(rows, key=lambda row: row["key"]), spec.hash())
    ledger = _ledger_rows(decisions, kept, members)
    write_ledger(place, ledger)
    _remove_stale(place, tasks, {m.key for m in members.values()})
    checksums = {path: value for record in records for path, value in record["checksums"].items()}
    return {
        "format_version": FORMAT_VERSION,
        "counts": _counts(ledger, rows, knowledge),
        "spec": spec.resolved(),
        "spec_hash": spec.hash(),
        "checksums": dict(sorted(checksums.items())),
    }


def _member(item: Input, knowledge: Knowledge, decision: Decision) -> Member:
    contrast = knowledge.contrast or contrast_of("", decision.info) or "OTHER"
    key = decision.content_hash[:KEY_DIGITS]
    return Member(item, key, decision.content_hash, contrast, knowledge.dataset, decision.crop_hash, decision.level)


def _shard_tasks(
    raw: str, place: Place, spec: Spec, members: dict[str, Member], splits: dict[str, str], decisions: dict[str, Decision]
) -> list[ShardTask]:
    by_key = {member.key: member for member in members.values()}
    assert len(by_key) == len(members), "two contents share a key"
    sizes = {member.key: decisions[path].payload_bytes for path, member in members.items()}
    split_of_key = {member.key: splits[path] for path, member in members.items()}
    layout = lay_out(sizes, split_of_key, spec.shard_bytes, read_layout(place, spec.hash()))
    rules = spec.max_spacing, spec.reference_volume
    return [
        ShardTask(
            raw, place.address, name, tuple(by_key[key] for key in keys), *rules, spec.codec, spec.hash(), spec.processing
        )
        for name, keys in layout.items()
    ]


def _split_of(knowledge: Knowledge, spec: Spec) -> str:
    return split_of(knowledge.subject, val_fraction=spec.val_fraction, test_fraction=spec.test_fraction)


def _duplicate_uids(
    knowledge: dict[str, Knowledge], decisions: dict[str, Decision], kept: dict[str, str]
) -> dict[str, dict[str, str]]:
    """The names of a kept scan's duplicates, by its source path: published splits may list any of them."""
    uids: dict[str, set[str]] = defaultdict(set)
    for path, decision in decisions.items():
        first = path if decision.code else kept[decision.content_hash]
        uids[first] |= {knowledge[path].scan_uid} - {"", knowledge[first].scan_uid}
    return {path: {"duplicate_uids": " ".join(sorted(found))} for path, found in uids.items() if found}


def _manifest_row(member: Member, knowledge: Knowledge, split: str, facts: dict[str, Any]) -> dict[str, Any]:
    about = {name: getattr(knowledge, name) for name in ("dataset", "subject", "session", *OWN_COLUMNS)}
    own = {"key": member.key, "contrast": member.contrast, "split": split, "content_hash": member.content_hash}
    return {**knowledge.labels, **about, **own, **facts}


def _ledger_rows(decisions: dict[str, Decision], kept: dict[str, str], members: dict[str, Member]) -> list[dict[str, str]]:
    rows = []
    for path, decision in decisions.items():
        if decision.code:
            row = {"decision": "refused", "code": decision.code, "reason": decision.reason, "key": ""}
        elif path in members:
            row = {"decision": "accepted", "code": "", "reason": "", "key": members[path].key}
        else:
            first = kept[decision.content_hash]
            row = {"decision": "duplicate", "code": "duplicate", "reason": f"same voxels as {first}", "key": members[first].key}
        rows.append({"source_path": path, **row})
    return rows


def _counts(
    ledger: Sequence[dict[str, str]], rows: Sequence[dict[str, Any]], knowledge: dict[str, Knowledge]
) -> dict[str, Any]:
    decisions = Counter(row["decision"] for row in ledger)
    kinds = Counter(row["kind"] for row in rows)
    return {
        "inputs": len(ledger),
        **{name: decisions[name] for name in ("accepted", "duplicate", "refused")},
        "distinct_brains": len({row["base"] for row in rows if row["kind"] != PHANTOM}),
        "templates": kinds["template"],
        "variants": kinds["variant"],
        "by_code": dict(sorted(Counter(row["code"] for row in ledger if row["code"]).items())),
        "by_layout": dict(sorted(Counter(k.adapter for k in knowledge.values()).items())),
        "pretraining_only": sum(row.get(PRETRAINING_ONLY) == "1" for row in rows),
    }


def _picture_refused(run: Runner, raw: str, place: Place, inputs: list[Input], decisions: dict[str, Decision]) -> None:
    """Draw some of the refused inputs for the report."""
    chosen = set(choose_refused({path: decision.code for path, decision in decisions.items()}, GALLERY_SIZE))
    items = [item for item in inputs if item.source_path in chosen]
    drawn = zip(items, run(partial(picture, raw), items, "pictures", crashed=lambda _: ""), strict=True)
    place.write(PICTURES_FILE, json.dumps({item.source_path: png for item, png in drawn if png}).encode())


def _remove_stale(place: Place, tasks: Sequence[ShardTask], keys: set[str]) -> None:
    """Remove what an earlier build wrote and this one does not hold."""
    names = {f"{task.name}.{suffix}" for task in tasks for suffix in ("tar", "idx", "json")}
    stale = [f"{folder}/{name}" for folder in (SHARD_DIR, DONE_DIR) for name in place.children(folder) if name not in names]
    stale += [f"{ARCHIVE_DIR}/{name}" for name in place.children(ARCHIVE_DIR) if name not in keys | {"zarr.json"}]
    for name in stale:
        place.remove(name)


def _finish(place: Place, content: dict[str, Any], report: Report | None) -> None:
    """Report and checksums; corpus.json comes last."""
    for name in (MANIFEST_FILE, f"{ARCHIVE_DIR}/zarr.json"):
        content["checksums"][name] = place.checksum(name)
    if report is not None:
        place.write(REPORT_FILE, report(place, content).encode())
        content["checksums"][REPORT_FILE] = place.checksum(REPORT_FILE)
    write_corpus_file(place, content)
