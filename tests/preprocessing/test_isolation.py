"""The process that may die: its environment, its end, and what is said where none can be started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from preprocessing.isolation import Isolated, ProcessDied

WITHOUT_GUARD = (
    "from preprocessing.isolation import Isolated\nwith Isolated() as isolated:\n    print(isolated.call(abs, -1))\n"
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
ORPHAN = """
import operator, os, time
from preprocessing.isolation import Isolated
if __name__ == "__main__":
    with Isolated() as isolated:
        print(isolated.call(operator.call, os.getpid), flush=True)
        time.sleep(600)
"""


def test_it_goes_on_in_a_new_process_with_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    with Isolated() as isolated:
        first = isolated.call(os.getenv, "PLACE_OF_TEST")
        monkeypatch.setenv("PLACE_OF_TEST", "here")
        with pytest.raises(ProcessDied):
            isolated.call(os._exit, 3)
        assert (first, isolated.call(os.getenv, "PLACE_OF_TEST")) == (None, "here")
        with pytest.raises(FileNotFoundError):
            isolated.call(os.listdir, "/nowhere")


def test_it_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(ORPHAN)
    command = [sys.executable, tmp_path / "parent.py"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 300
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WITHOUT_GUARD)
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert "call this below `if __name__ == '__main__':`" in done.stderr
