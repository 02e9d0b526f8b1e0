"""The body of the batch script, with programs in the place of Slurm's that do for two local processes what Slurm would."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.observe.recorder import read_metrics
from tests.end_to_end.commands import ROOT, SMALL, finish, start, wait_for_step

SCRIPT = ROOT / "launch" / "slurm.sbatch"
RANK = Path(__file__).with_name("rank.py")
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0 SLURM_STEP_NODELIST=localhost
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids+=($!); done
worst=0
for pid in "${pids[@]}"; do wait "$pid"; code=$?; ((code > worst)) && worst=$code; done
exit $worst
"""
SCONTROL = '#!/bin/sh\necho "$@" >> "$SLURM_STUBS/scontrol.log"\n[ "$1" = show ] && echo localhost\nexit 0\n'


@pytest.fixture
def slurm(tmp_path):
    """Variables of a job, and a PATH with stubs."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "ssh": "#!/bin/sh\necho 127.0.0.1\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SLURM_STUBS": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_PROCID": "0",  # as the batch script has them
        "SLURM_NTASKS": "2",
    }


def batch(*words: str) -> list[str]:
    return ["bash", str(SCRIPT), *words]


def requeued(slurm) -> bool:
    log = Path(slurm["SLURM_STUBS"]) / "scontrol.log"
    return log.is_file() and f"requeue {slurm['SLURM_JOB_ID']}" in log.read_text()


@pytest.mark.parametrize(
    ("scenario", "number", "code"),
    [
        ("work", signal.SIGUSR1, 75),
        ("mistake", None, 2),
        pytest.param("work", signal.SIGTERM, 75, marks=pytest.mark.slow),
        pytest.param("done", None, 0, marks=pytest.mark.slow),
    ],
)
def test_the_job_is_queued_again_after_75_alone(slurm, tmp_path, scenario, number, code):
    run = tmp_path / "run"
    run.mkdir()
    stub = f'#!/bin/sh\nexec {sys.executable} {RANK} {run} {scenario} "$@"\n'
    (tmp_path / "srun").write_text(stub)
    words = ["--objective", "mae", "data.corpus=C", f"run.dir={run}", "train.steps=10"]
    process = start(batch(*words), tmp_path / "log", **slurm)
    if number is not None:
        while not (run / "start-0").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, number)
    assert finish(process, tmp_path / "log")[0] == code
    assert requeued(slurm) == (code == 75)


def test_the_script_is_well_formed(slurm):
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    directives = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    for needed in ("--signal=B:USR1@600", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {needed}" in directives
    done = subprocess.run(batch(), env=os.environ | slurm | {"WAY": "rsh"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: WAY=rsh is neither srun nor pdsh\n")


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.parametrize("way", ["srun", "pdsh"])
def test_two_ranks_train_stop_before_the_limit_and_go_on(corpus, tmp_path, slurm, way):
    run = tmp_path / "run"
    words = ["--objective", "jepa_vcr", f"data.corpus={corpus}", f"run.dir={run}", *SMALL, "checkpoint.every=100000"]
    environment = slurm | {"WAY": way}
    process = start(batch(*words, "train.steps=100000"), tmp_path / "log", **environment)
    wait_for_step(process, run, 2)
    os.kill(process.pid, signal.SIGUSR1)
    code, output = finish(process, tmp_path / "log")
    assert code == 75, output
    assert requeued(slurm)
    assert find_checkpoint(run).is_dir()
    assert read_metrics(run)[-1]["samples"] == 4 * read_metrics(run)[-1]["step"]
    done = read_metrics(run)[-1]["step"]
    code, output = finish(start(batch(*words, f"train.steps={done}"), tmp_path / "log-2", **environment), tmp_path / "log-2")
    assert code == 0, output
    assert "nothing to do" in output
