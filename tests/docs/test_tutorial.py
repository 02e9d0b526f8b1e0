"""The tutorial, as it stands: DICOM to a corpus, a run, an AUROC with an interval, and an encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.pages import ROOT, blocks

TREE = ["train.py", "ds_configs", "docs", "mri_fm", "preprocessing", "launch"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository to work in, with this Python in its .venv/bin and the command that the package installs."""
    root = tmp_path_factory.mktemp("tutorial")
    for name in TREE:
        (root / name).symlink_to(ROOT / name)
    scripts = root / ".venv/bin"
    scripts.mkdir(parents=True)
    (scripts / "activate").write_text(f'export PATH="{scripts}:{Path(sys.executable).parent}:$PATH"\n')
    (scripts / "mri-fm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mri_fm.cli "$@"\n')
    (scripts / "mri-fm").chmod(0o755)
    return root


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_tutorial_runs_as_it_stands(folder: Path) -> None:
    lines = ["set -e -o pipefail"]
    for number, block in enumerate(blocks("tutorial.md")):
        if block.language == "python":
            (folder / f"block{number}.py").write_text(block.text)
            lines.append(f"python block{number}.py")
        else:
            lines.append(block.text)
    (folder / "tutorial.sh").write_text("\n".join(lines))
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        ["bash", "tutorial.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((folder / "runs/tutorial/probe/result.json").read_text())
    assert f"AUROC {result['auroc']:.2f} [" in done.stdout
    assert result["n_volumes"] == 24
    assert "torch.Size([96])" in done.stdout
    assert pq.read_table(folder / "runs/tutorial/features.parquet").column("decision").to_pylist() == ["accepted"] * 24
    assert (folder / "runs/tutorial/preview/preview.html").is_file()
