"""A launcher and its rank in one process, which behaves as its scenario says at each start; listens as real ranks do."""

import os
import signal
import sys
import time
from pathlib import Path

from mri_fm.engine.relay import Relay

run, scenario = Path(sys.argv[1]), sys.argv[2].split(",")
start = len(list(run.glob("start-*")))
asked: list[int] = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))  # before anybody can see that it has started
(run / f"start-{start}").write_text(" ".join(sys.argv))


def save(step: int) -> None:
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    (folder / "latest").write_text(f"step-{step:08d}")


def work_until_asked() -> None:
    while not asked:
        time.sleep(0.05)
    save(5)


match scenario[min(start, len(scenario) - 1)]:
    case "done":
        save(10)
    case "early":
        pass
    case "mistake":
        sys.exit(2)
    case "crash":
        sys.exit(1)
    case "progress":
        save(start + 1)
        sys.exit(75)
    case "work":
        with Relay(run, 0):
            work_until_asked()
        sys.exit(75)
    case "hang":
        with Relay(run, 0):
            (run / "metrics.jsonl").write_text(f'{{"step": {start}}}')  # from here on --hang-s counts
            time.sleep(1000)
    case "orphan":
        launcher = os.getpid()
        if os.fork():
            signal.pause()  # until the rank listens and kills its launcher
        with Relay(run, 0):
            os.kill(launcher, signal.SIGKILL)
            work_until_asked()
            (run / "orphan-saved").touch()
