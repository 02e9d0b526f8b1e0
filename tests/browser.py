"""Pages as a real browser leaves them. Tests that ask for one are skipped where there is none, or none that starts."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-dev-shm-usage
""".split()
LIMIT_S, TRIES = 300, 5


def dump_dom(page: Path, profile: Path, *flags: str, until: str = "") -> str:
    """The document of a page after its scripts have run.

    Args:
        page: an HTML file.
        profile: a folder for what the browser keeps.
        flags: more of the browser's.
        until: what stands in it once its scripts are done, for those that go on after the page has loaded.
    """
    program = browser()
    if program is None:
        pytest.skip("no Chromium that starts is installed")
    for number in range(TRIES):  # it may crash, or look too early
        command = [program, *FLAGS, f"--user-data-dir={profile / str(number)}", *flags, "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        if done.returncode == 0 and until in done.stdout:
            return done.stdout
    raise AssertionError(f"{program} ends with {done.returncode}, and no {until!r} in the page: {done.stderr}")


@cache
def browser() -> str | None:
    """The first of `NAMES` that can show an empty page: on some systems a name stands for a hint how to install it."""
    for program in filter(None, map(shutil.which, NAMES)):
        if subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0:
            return program
    return None
