"""The Weights & Biases run of a run folder, which may lose its server at any time without costing the run anything."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mri_fm.config import Config
from mri_fm.errors import UserError

WANDB_DIR = "wandb"
PICTURES = "pictures"  # keys of pictures are pictures/NAME
_log = logging.getLogger(__name__)


class WandbRun:
    """Numbers, pictures and alerts of one process; a resumed run goes on under the same id, which is the folder's.

    What is logged goes to files in `run_dir`/wandb first and from there to the server, in a process of W&B's own: where the
    server does not answer, logging does not wait for it, and `wandb sync` sends the files later.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        """Start or continue.

        A server that cannot be reached makes this part of the run an offline one.

        Raises:
            UserError: W&B refuses, for want of an account for instance.
        """
        import wandb

        self._lost = False
        try:
            self._run = _init(config, run_dir, config.wandb.mode)
        except wandb.errors.CommError as error:
            _log.warning("W&B does not answer (%s): recorded offline, `wandb sync` sends it later", str(error).splitlines()[0])
            wandb.teardown()  # else its process still holds the id
            self._run = _init(config, run_dir, "offline")
        except wandb.errors.Error as error:
            raise UserError(
                f"W&B did not start ({error}); wandb.mode=offline needs no account, wandb.mode=disabled no W&B"
            ) from error

    def log(self, step: int, record: Mapping[str, float | int | None], pictures: Sequence[Path] = ()) -> None:
        """Log the numbers of a step, and pictures NAME-STEP.png that have been finished since."""
        import wandb

        values: dict[str, Any] = {name: value for name, value in record.items() if value is not None}
        for file in pictures:
            name, _, drawn = file.stem.rpartition("-")
            values[f"{PICTURES}/{name}"] = wandb.Image(str(file), caption=f"step {int(drawn)}")
        with self._mirroring():
            self._run.log(values, step=step)

    def alert(self, title: str, text: str) -> None:
        """Send an alert; W&B mails it or passes it on to Slack, as its user has set."""
        with self._mirroring():
            self._run.alert(title=title, text=text, level="WARN")

    def finish(self, exit_code: int) -> None:
        """End the run; after `wandb.timeout_s` what is not sent stays in the files."""
        with self._mirroring():
            self._run.finish(exit_code=exit_code)

    @contextmanager
    def _mirroring(self) -> Iterator[None]:
        """What W&B raises once its own process has died, of any class, ends the mirror and not the run."""
        try:
            yield
        except Exception as error:
            if not self._lost:
                _log.warning("W&B has failed (%s: %s): the run goes on without it", type(error).__name__, error)
            self._lost = True


def _init(config: Config, run_dir: Path, mode: str) -> Any:
    import wandb

    seconds = config.wandb.timeout_s
    return wandb.init(
        mode=mode,  # type: ignore[arg-type]
        project=config.wandb.project,
        entity=config.wandb.entity,
        name=config.wandb.name or run_dir.name,
        id=run_id(run_dir),
        resume="allow",
        dir=run_dir,
        settings=wandb.Settings(quiet=True, silent=True, init_timeout=seconds, finish_timeout=seconds),
        config=OmegaConf.to_container(OmegaConf.structured(config)),  # type: ignore[arg-type]
    )


def run_id(run_dir: Path) -> str:
    """The id of a folder's W&B run, drawn once and kept in it."""
    file = run_dir / WANDB_DIR / "run_id"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text().strip()
