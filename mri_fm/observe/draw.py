"""Draws pictures beside the run: a thread hands arrays to a process of its own, whose failure costs the picture alone.

The process (`python -m mri_fm.observe.draw FOLDER STEP`, arrays as an .npz on its standard input) imports no torch and
yields the processor to the run. At most `WAITING` pictures wait; a further one is left out and said so, so a step never
waits for a picture.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURE_DIR = "pictures"
WAITING = 2
_LONGEST_S = 120.0  # for one drawing
_PATIENCE_S = 60.0  # at the end of the run, for what still waits
_NICENESS = 10
_ROOT = Path(__file__).parents[2]
_log = logging.getLogger(__name__)
Arrays = Mapping[str, NDArray[Any]]


class Drawer:
    """Takes arrays now and leaves PNG files in a folder some time later."""

    def __init__(self, folder: Path) -> None:
        """Draw into `folder`, which is made when there is something to draw."""
        self._folder = folder
        self._waiting: queue.Queue[tuple[int, Arrays] | None] = queue.Queue(WAITING)
        self._drawn: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def draw(self, step: int, arrays: Arrays) -> None:
        """Have `mri_fm.observe.pictures.figures` of these arrays drawn; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="drawer", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((step, arrays))
        except queue.Full:
            _log.warning("no picture of step %d: %d others still wait to be drawn", step, WAITING)

    def drawn(self) -> list[Path]:
        """Files that have been finished since the last call, NAME-STEP.png."""
        found = []
        while True:
            try:
                found.append(self._drawn.get_nowait())
            except queue.Empty:
                return found

    def close(self, patience: float = _PATIENCE_S) -> None:
        """Finish what waits, within some seconds; what is not done by then is left out."""
        if self._thread is None:
            return
        with suppress(queue.Full):
            self._waiting.put(None, timeout=patience)
        self._thread.join(patience)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            _log.warning("pictures that were not drawn within %g s of the end are left out", patience)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            step, arrays = item
            try:
                self._start_process(step, arrays)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                _log.warning("no picture of step %d: %s", step, error)

    def _start_process(self, step: int, arrays: Arrays) -> None:
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        with subprocess.Popen(
            self._words(step), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as self._process:
            try:
                out, said = self._process.communicate(content.getvalue(), timeout=_LONGEST_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise
        if self._process.returncode:
            lines = said.decode(errors="replace").strip().splitlines() or [f"exit code {self._process.returncode}"]
            raise ValueError(lines[-1])
        for name in out.decode().split("\n"):
            if name:
                self._drawn.put(self._folder / name)

    def _words(self, step: int) -> list[str]:
        return [sys.executable, "-m", "mri_fm.observe.draw", str(self._folder), str(step)]


def main() -> int:
    """FOLDER STEP: draw what comes on the standard input and print the files' names."""
    from mri_fm.observe.pictures import figures

    os.nice(_NICENESS)
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as content:
        drawn = figures(dict(content))
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        file = folder / f"{name}-{step:08d}.png"
        figure.savefig(file.with_suffix(".part"), format="png", dpi=90)
        file.with_suffix(".part").rename(file)
        print(file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
