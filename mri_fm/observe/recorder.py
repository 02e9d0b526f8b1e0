"""Where a run's numbers go: metrics.jsonl always, Weights & Biases as configured. Rank 0 only."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from omegaconf import OmegaConf

from mri_fm.config import Config
from mri_fm.errors import ResumableError, UserError

METRICS_FILE = "metrics.jsonl"
Record = dict[str, float | int | None]


class Recorder:
    """Appends one flushed line per logged step and mirrors it to Weights & Biases."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        """Open `run_dir`/metrics.jsonl for appending and start or continue the run's W&B run."""
        self._file = _open_to_append(run_dir / METRICS_FILE)
        self._wandb = None if config.wandb.mode == "disabled" else _start_wandb(config, run_dir)

    def write(self, record: Mapping[str, float | int | None]) -> None:
        """Append one line; after a resume a step may stand twice, and the last line counts.

        Raises:
            ResumableError: the file cannot be written, as on a full disk.
        """
        try:
            self._file.write(json.dumps(dict(record)) + "\n")
            self._file.flush()
        except OSError as error:
            raise ResumableError(f"{self._file.name} cannot be written ({error}); the same command resumes") from error
        if self._wandb is not None:
            self._wandb.log({k: v for k, v in record.items() if v is not None}, step=int(record["step"] or 0))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # of a line that could not be written, of which `write` has told
            self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)


def _open_to_append(path: Path) -> TextIO:
    """Open for appending; a last line that a crash has cut is ended first, so that the next one stands alone."""
    cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    file = path.open("a", encoding="utf-8")
    if cut:
        file.write("\n")
    return file


def _start_wandb(config: Config, run_dir: Path) -> Any:
    """The W&B run of this run folder; its id is the folder's, so a resume continues the same run."""
    import wandb

    try:
        return wandb.init(
            mode=config.wandb.mode,  # type: ignore[arg-type]
            project=config.wandb.project,
            entity=config.wandb.entity,
            name=config.wandb.name or run_dir.name,
            id=_run_id(run_dir),
            resume="allow",
            dir=run_dir,
            settings=wandb.Settings(quiet=True, silent=True),
            config=OmegaConf.to_container(OmegaConf.structured(config)),  # type: ignore[arg-type]
        )
    except wandb.errors.Error as error:
        raise UserError(
            f"W&B did not start ({error}); wandb.mode=offline needs no account, wandb.mode=disabled no W&B"
        ) from error


def _run_id(run_dir: Path) -> str:
    file = run_dir / "wandb" / "run_id"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text().strip()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl by step; where a step stands twice the last line counts, a line cut by a crash does not.

    Raises:
        UserError: no such file.
    """
    file = run_dir / METRICS_FILE
    if not file.is_file():
        raise UserError(f"no {file}: the run has not logged anything yet")
    by_step = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            record = json.loads(line)
            by_step[record["step"]] = record
    return [by_step[step] for step in sorted(by_step)]
