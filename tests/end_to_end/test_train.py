"""Training through the real `deepspeed` command: kill and resume, two launchers, the user's mistakes, eight nodes on paper."""

import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

import train
from mri_fm.config import load_config
from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.engine.loop import EXIT_STOPPED
from mri_fm.engine.stored import read_meta
from mri_fm.observe.recorder import read_metrics
from tests.distributed import free_port
from tests.end_to_end.commands import DEEPSPEED, ROOT, SMALL, finish, kill, run, start, wait_for_step
from tests.s3 import S3Server

pytestmark = pytest.mark.end_to_end


def train_command(corpus: Path, run_dir: Path, *words: str, objective: str = "jepa_vcr", ranks: int = 2) -> list[str]:
    launcher = [DEEPSPEED, "--num_gpus", str(ranks), "--master_port", str(free_port())]
    return [*launcher, "train.py", "--objective", objective, f"data.corpus={corpus}", f"run.dir={run_dir}", *SMALL, *words]


def losses(run_dir: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_metrics(run_dir)}


def test_a_killed_job_resumes_bitwise(corpus, tmp_path):
    words = ("train.steps=30", "checkpoint.every=3")  # many more than the kill comes after, however late it comes
    extensions = tmp_path / "extensions"  # where DeepSpeed would compile C++, which takes minutes
    command = train_command(corpus, tmp_path / "undisturbed", *words)
    code, output = run(command, tmp_path / "log", TORCH_EXTENSIONS_DIR=str(extensions))
    assert code == 0, output
    assert not list(extensions.rglob("*"))
    process = start(train_command(corpus, tmp_path / "killed", *words), tmp_path / "log-1")
    wait_for_step(process, tmp_path / "killed", 7)  # step 6 has waited for the checkpoint of step 3
    kill(process)
    code, output = run(train_command(corpus, tmp_path / "killed", *words), tmp_path / "log-2")
    assert code == 0, output
    assert "resuming after step" in output
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")
    assert list(losses(tmp_path / "killed")) == list(range(1, 31))


@pytest.mark.slow
def test_a_job_on_s3_with_workers_and_a_cache_equals_one_on_a_folder(corpus, tmp_path):
    """Its server does not answer for some seconds, and in the end not at all."""
    words = ("train.steps=8", "checkpoint.every=100", "data.workers=1", f"data.cache_dir={tmp_path / 'cache'}")
    code, output = run(train_command(corpus, tmp_path / "folder", "train.steps=8"), tmp_path / "log")
    assert code == 0, output
    with S3Server() as server:
        address = server.upload(corpus)
        process = start(train_command(address, tmp_path / "s3", *words), tmp_path / "log-1")
        wait_for_step(process, tmp_path / "s3", 1)
        server.stall()
        time.sleep(3)
        server.resume()
        code, output = finish(process, tmp_path / "log-1")
        assert code == 0, output
        server.kill()
        code, output = run(train_command(address, tmp_path / "late", *words), tmp_path / "log-2")
    assert losses(tmp_path / "s3") == losses(tmp_path / "folder")
    assert read_metrics(tmp_path / "s3")[-1]["cache_hits"] > 0
    assert code == 2
    assert re.search(r"^error: s3://.*/corpus\.json cannot be read \(S3 does not answer", output, re.MULTILINE), output


def test_a_cache_that_cannot_be_written_ends_in_one_line(corpus, tmp_path):
    code, output = run(train_command(corpus, tmp_path / "run", "data.cache_dir=/proc/cache", ranks=1), tmp_path / "log")
    assert code == 2
    (error,) = re.findall(r"^error: .*", output, re.MULTILINE)
    assert error.startswith("error: data.cache_dir=/proc/cache cannot be written (No such file or directory): give a folder")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_request_to_stop_saves_and_exits_75(corpus, tmp_path, number):
    command = train_command(corpus, tmp_path / "run", "train.steps=100000", "checkpoint.every=100000", ranks=1)
    process = start(command, tmp_path / "log")
    wait_for_step(process, tmp_path / "run", 2)
    (rank,) = re.findall(r"process (\d+) spawned", (tmp_path / "log").read_text())
    os.kill(int(rank), number)
    code, output = finish(process, tmp_path / "log")
    assert code == EXIT_STOPPED, output
    saved = read_meta(find_checkpoint(tmp_path / "run"))["step"]
    assert saved == max(losses(tmp_path / "run"))


def test_two_launchers_with_a_hostfile_and_no_ssh_train_as_one_node(corpus, tmp_path):
    """Two nodes' launchers on this machine: the same losses as two ranks of one launcher."""
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("node0 slots=1\nnode1 slots=1\n")
    words = ("train.steps=3", "checkpoint.every=3")
    port = str(free_port())
    processes = []
    for rank in range(2):
        command = [
            DEEPSPEED,
            "--hostfile",
            hostfile,
            "--num_nodes",
            "2",
            "--num_gpus",
            "1",
            "--no_ssh",
            "--node_rank",
            str(rank),
        ]
        command += ["--master_addr", "127.0.0.1", "--master_port", port, *train_command(corpus, tmp_path / "two", *words)[5:]]
        processes.append(start(command, tmp_path / f"log-{rank}", GLOO_SOCKET_IFNAME="lo"))
    for rank, process in enumerate(processes):
        code, output = finish(process, tmp_path / f"log-{rank}")
        assert code == 0, output
    code, output = run(train_command(corpus, tmp_path / "one", *words), tmp_path / "log")
    assert code == 0, output
    assert losses(tmp_path / "two") == losses(tmp_path / "one")


@pytest.mark.slow
def test_torchrun_trains_as_deepspeed_does(corpus, tmp_path):
    words = ("train.steps=3", "checkpoint.every=3")
    code, output = run(train_command(corpus, tmp_path / "deepspeed", *words), tmp_path / "log")
    assert code == 0, output
    launcher = [Path(DEEPSPEED).with_name("torchrun"), "--nproc-per-node", "2", "--master-port", str(free_port())]
    code, output = run([*launcher, *train_command(corpus, tmp_path / "torchrun", *words)[5:]], tmp_path / "log-2")
    assert code == 0, output
    assert losses(tmp_path / "torchrun") == losses(tmp_path / "deepspeed")


def cut_shard(corpus: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "cut"
    shutil.copytree(corpus, copy)
    shard = next((copy / "shards").glob("train-*.tar"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return copy


MISTAKES = {
    "a typo in a key": (["train.stepz=3"], "train.steps"),
    "a batch that does not divide": (["train.global_batch=5", "train.accumulation=2"], "global_batch"),
    "a missing corpus": (["data.corpus=nowhere"], "nowhere"),
    "a truncated shard": (["data.corpus={cut}"], "train-"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(corpus, tmp_path, mistake):
    words, named = MISTAKES[mistake]
    words = [word.format(cut=cut_shard(corpus, tmp_path)) if "{cut}" in word else word for word in words]
    command = [sys.executable, *train_command(corpus, tmp_path / "run", *words)[5:]]
    code, output = run(command, tmp_path / "log", MASTER_PORT=str(free_port()))
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert code == 2, output
    assert len(errors) == 1
    assert named in errors[0]
    assert "Traceback" not in output


def test_a_mistake_under_the_launcher_is_said_once(corpus, tmp_path):
    code, output = run(train_command(corpus, tmp_path / "run", "data.corpus=nowhere"), tmp_path / "log")
    assert code == 2, output
    assert output.count("error: ") == 1
    assert "Traceback" not in output


def test_a_checkpoint_of_another_model_is_refused(corpus, tmp_path):
    words = ("train.steps=1",)
    single = train_command(corpus, tmp_path / "run", *words, objective="mae")[5:]
    assert run([sys.executable, *single], tmp_path / "log", MASTER_PORT=str(free_port()))[0] == 0
    other = [sys.executable, *single, "model.depth=3", "train.steps=2"]
    code, output = run(other, tmp_path / "log-2", MASTER_PORT=str(free_port()))
    assert code == 2, output
    assert "belongs to another run: model" in output


def test_the_cluster_command_reaches_eight_hosts(tmp_path):
    """The README's command, dry: in the place of pdsh stands a program that writes down what it was asked to do."""
    called = tmp_path / "called"
    for name in ("pdsh", "ssh"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\n[ "$(basename "$0")" = pdsh ] && echo "$@" > {called}\necho 10.0.0.1\n')
        program.chmod(0o755)
    block = (ROOT / "README.md").read_text().split("### On a cluster\n\n```bash\n")[1].split("```")[0]
    words = shlex.split(block.replace("\\\n", " "))
    code, output = run([DEEPSPEED, *words[1:]], tmp_path / "log", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert code == 0, output
    asked = called.read_text().replace("'", "")
    assert ",".join(f"worker-{n}" for n in range(1, 9)) in asked
    assert "train.py --objective jepa_vcr --ds_config ds_configs/zero2.json model=vit_large" in asked
    assert str(ROOT) in asked
    options = train.parse(words[words.index("train.py") + 1 :])
    config = load_config(options.objective, options.words)
    assert (config.model.name, config.data.size, config.train.global_batch) == ("vit_large", [64, 160, 160], 192)
