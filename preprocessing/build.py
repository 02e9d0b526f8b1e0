"""Raw folder → corpus, in two passes: the first decides on every input, the second writes from the frozen plan."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
    SPLITS,
)
from mri_fm.data.split_files import Scan
from mri_fm.errors import UserError
from mri_fm.volume.canonical import MAX_SPACING_MM, MIN_FIELD_OF_VIEW_MM
from preprocessing.archive import open_archive
from preprocessing.datasets.adapter import PHANTOM, PRETRAINING_ONLY, Knowledge
from preprocessing.datasets.contrast import contrast_of
from preprocessing.discover import Input, find_inputs, fingerprint, list_files
from preprocessing.files import checksum, read_object, write_text
from preprocessing.knowledge import AUTO, check_dataset, know
from preprocessing.plan import held_out, keep_first, plan_shards, shard_size, split_of
from preprocessing.privacy import make_key, read_key
from preprocessing.runner import Runner, task_runner
from preprocessing.tables import OWN_COLUMNS, read_ledger, write_corpus_file, write_ledger, write_manifest
from preprocessing.tasks import DONE_DIR, SCRATCH_DIR, Decision, Member, ShardTask, crashed, examine, is_intact, write_task

ALGORITHM = 1  # raise it when the voxels that a build writes change
KEY_DIGITS = 16
KEY_FILE = "private/key"
DECISIONS_FILE = "private/decisions.json"
STATE_FILE = "private/inputs.json"
LOCK_FILE = "private/lock"


@dataclass(frozen=True)
class Spec:
    """What decides a corpus besides its inputs.

    `dataset`: the adapter that all inputs must obey, "auto" for each input's own; `max_spacing` in mm; `shard_bytes` of
    uncompressed payload per shard at most; `codec` of the payloads; `holdout`: scans whose people go to the split "test", so
    that nobody trains on any of their volumes.
    """

    max_spacing: float = MAX_SPACING_MM
    val_fraction: float = 0.1
    test_fraction: float = 0.0
    shard_bytes: int = 1_000_000_000
    codec: str = RAW.name
    dataset: str = AUTO
    holdout: tuple[Scan, ...] = ()

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
    raw: Path,
    out: Path,
    spec: Spec | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    key: Path | None = None,
    report: Callable[[Path], None] | None = None,
) -> tuple[dict[str, Any], bool]:
    """Build or complete a corpus.

    Args:
        raw: folder of scans; only read.
        out: the corpus folder, made if needed.
        spec: the options; the defaults if None.
        workers: processes on this machine; 1 runs in this process.
        scheduler: address of a running Dask scheduler, whose workers see `raw` and `out` under the same paths.
        key: file with the key of the pseudonyms; the corpus' own if None, `private/key`.
        report: writes report.html into the corpus folder; None for a corpus without one.

    Returns:
        The content of corpus.json, and whether anything had to be done.

    Raises:
        UserError: no inputs, folders inside one another, an `out` that holds something else or cannot be written, a wrong
            labels.csv, or an input that changes meanwhile.
    """
    spec, raw, out = spec or Spec(), raw.resolve(), out.resolve()  # workers elsewhere have another current folder
    files = _list_raw(raw, out)
    _make_folders(out)
    with _locked(out):
        secret = _secret(out, key)
        known = {"spec": spec.hash(), "key": hashlib.sha256(secret).hexdigest(), "report": report is not None, "files": files}
        state = json.dumps(known)
        current = _up_to_date(out, state)
        if current is not None:
            return current, False
        inputs = find_inputs(raw, files)
        if not inputs:
            raise UserError(f"no scan in {raw}: put NIfTI, MGZ, MINC, PAR/REC or DICOM files there")
        knowledge = know(raw, files, inputs, secret, spec.dataset)
        for name in (STATE_FILE, CORPUS_FILE):  # from here on the corpus is incomplete
            (out / name).unlink(missing_ok=True)
        with task_runner(workers, scheduler) as run:
            decisions = _decide(run, raw, out, inputs, files, spec, knowledge)
            content = _write(run, raw, out, spec, inputs, knowledge, decisions)
        _finish(out, content, report)
        write_text(out / STATE_FILE, state, mode=0o600)
        return content, True


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


def _list_raw(raw: Path, out: Path) -> dict[str, tuple[int, int]]:
    if not raw.is_dir():
        raise UserError(f"no folder {raw}: give the folder of your scans as --raw")
    if out == raw or out in raw.parents or raw in out.parents:
        raise UserError(f"--out {out} and --raw {raw} lie inside one another: choose separate folders")
    files = list_files(raw)
    if not files:
        raise UserError(f"{raw} is empty: put scans there, or `python -m preprocessing.sample_data --out {raw}`")
    if any(Path(os.path.realpath(folder)).is_relative_to(out) for folder in {(raw / path).parent for path in files}):
        raise UserError(f"a link in {raw} leads into --out {out}: remove it, or choose another --out")
    return files


def _make_folders(out: Path) -> None:
    """Make the private folders. `out` must be new, empty or a build's: a build removes what it has not written."""
    try:
        known = not out.exists() or not any(out.iterdir()) or (out / LOCK_FILE).is_file() or (out / CORPUS_FILE).is_file()
        if not known:
            raise UserError(f"--out {out} holds files that are no corpus: choose a new folder")
        for folder in (SCRATCH_DIR, DONE_DIR):
            (out / folder).mkdir(parents=True, exist_ok=True)
        (out / "private").chmod(0o700)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made ({error.strerror}): choose another folder") from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    with (out / LOCK_FILE).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another build is writing {out}: wait for it") from error
        yield


def _up_to_date(out: Path, state: str) -> dict[str, Any] | None:
    """The finished corpus.json, if it was built from exactly this and every byte of it is still there."""
    recorded = out / STATE_FILE
    if not (recorded.is_file() and (out / LEDGER_FILE).is_file()) or recorded.read_bytes() != state.encode():
        return None
    content = read_object(out / CORPUS_FILE)
    return content if content and is_intact(out, content) else None


def _secret(out: Path, given: Path | None) -> bytes:
    """The key of the pseudonyms: the one given, else the corpus' own, made on its first build."""
    path = given or out / KEY_FILE
    if given is None and not path.is_file():
        make_key(path)
    return read_key(path)


def _decide(
    run: Runner, raw: Path, out: Path, inputs: list[Input], files: dict[str, tuple[int, int]], spec: Spec,
    knowledge: dict[str, Knowledge],
) -> dict[str, Decision]:  # fmt: skip
    """Pass 1, but for inputs that a rule excludes, or that an earlier pass under the same spec has seen unchanged."""
    excluded = {path: k.excluded for path, k in knowledge.items() if k.excluded}
    marked = [(item, fingerprint(item, files)) for item in inputs if item.source_path not in excluded]
    known = _known_decisions(out, spec)
    todo = [(i, mark) for i, mark in marked if i.source_path not in known or known[i.source_path].fingerprint != mark]
    examined = run(partial(examine, str(raw), spec.max_spacing), todo, "examine", crashed)
    known.update({decision.source_path: decision for decision in examined})
    decisions = {item.source_path: known[item.source_path] for item, _ in marked}
    content = {"spec": spec.hash(), "decisions": [asdict(d) for d in decisions.values()]}
    write_text(out / DECISIONS_FILE, json.dumps(content), mode=0o600)
    return {i.source_path: _by_rule(i, knowledge[i.source_path], decisions.get(i.source_path)) for i in inputs}


def _by_rule(item: Input, knowledge: Knowledge, decision: Decision | None) -> Decision:
    """The decision, or the exclusion by a rule that a data set's adapter knows; these are not kept, since tables may change."""
    broken = knowledge.excluded
    if decision is not None and not broken and not decision.code:
        broken = knowledge.intensity.broken(decision.mean, decision.std)
    if decision is not None and not broken:
        return decision
    return Decision(item.source_path, "", "excluded_by_rule", f"{knowledge.dataset}: {broken}")


def _known_decisions(out: Path, spec: Spec) -> dict[str, Decision]:
    content = read_object(out / DECISIONS_FILE)
    if content.get("spec") != spec.hash():
        return {}
    return {row["source_path"]: Decision(**row) for row in content["decisions"]}


def _write(
    run: Runner, raw: Path, out: Path, spec: Spec, inputs: list[Input],
    knowledge: dict[str, Knowledge], decisions: dict[str, Decision],
) -> dict[str, Any]:  # fmt: skip
    """Freeze the plan, run pass 2, and write the tables; returns the content of corpus.json."""
    hashes = {path: d.content_hash for path, d in decisions.items() if not d.code}
    built = [row["source_path"] for row in read_ledger(out) if row["decision"] == "accepted"]
    kept = keep_first(hashes, built)
    members = {
        path: _member(item, knowledge[path], decisions[path]) for item in inputs if (path := item.source_path) in kept.values()
    }
    held = held_out(knowledge, spec.holdout, {path: kept[h] for path, h in hashes.items()})
    splits = {path: "test" if knowledge[path].person in held else _split_of(knowledge[path], spec) for path in members}
    tasks = _shard_tasks(raw, out, spec, members, splits, decisions)
    (out / SHARD_DIR).mkdir(exist_ok=True)
    open_archive(out / ARCHIVE_DIR)
    records = run(write_task, tasks, "write shards")
    facts = {key: row for record in records for key, row in record["rows"].items()}
    stored = {"codec": spec.codec}
    uids = _duplicate_uids(knowledge, decisions, kept)
    rows = [_manifest_row(m, knowledge[p], splits[p], stored | facts[m.key] | uids.get(p, {})) for p, m in members.items()]
    write_manifest(out, sorted(rows, key=lambda row: row["key"]))
    ledger = _ledger_rows(decisions, kept, members)
    write_ledger(out, ledger)
    _remove_stale(out, tasks, {m.key for m in members.values()})
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
    return Member(item, decision.content_hash[:KEY_DIGITS], decision.content_hash, contrast, knowledge.dataset)


def _shard_tasks(
    raw: Path, out: Path, spec: Spec, members: dict[str, Member], splits: dict[str, str], decisions: dict[str, Decision]
) -> list[ShardTask]:
    by_key = {member.key: (path, member) for path, member in members.items()}
    assert len(by_key) == len(members), "two contents share a key"
    tasks = []
    for position, split in enumerate(SPLITS):
        sizes = {k: decisions[path].payload_bytes for k, (path, _) in by_key.items() if splits[path] == split}
        for number, keys in enumerate(plan_shards(sizes, shard_size(sizes, spec.shard_bytes), position)):
            chosen = tuple(by_key[key][1] for key in keys)
            tasks.append(
                ShardTask(str(raw), str(out), f"{split}-{number:06d}", chosen, spec.max_spacing, spec.codec, spec.hash())
            )
    return tasks


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


def _remove_stale(out: Path, tasks: Sequence[ShardTask], keys: set[str]) -> None:
    """Remove what an earlier build wrote and this one does not hold, and unfinished files."""
    names = {f"{task.name}.{suffix}" for task in tasks for suffix in ("tar", "idx", "json")}
    for path in [*(out / SHARD_DIR).iterdir(), *(out / DONE_DIR).iterdir()]:
        if path.name not in names:
            path.unlink()
    for image in (out / ARCHIVE_DIR).iterdir():
        if image.is_dir() and image.name not in keys:
            shutil.rmtree(image)
    shutil.rmtree(out / SCRATCH_DIR)


def _finish(out: Path, content: dict[str, Any], report: Callable[[Path], None] | None) -> None:
    """Report and checksums; corpus.json is written before the report, which reads it, and again with its checksum."""
    for name in (MANIFEST_FILE, f"{ARCHIVE_DIR}/zarr.json"):
        content["checksums"][name] = checksum(out / name)
    write_corpus_file(out, content)
    if report is not None:
        report(out)
        content["checksums"][REPORT_FILE] = checksum(out / REPORT_FILE)
        write_corpus_file(out, content)
