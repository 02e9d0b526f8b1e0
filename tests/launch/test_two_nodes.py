"""Two nodes as two network namespaces: the same losses as two ranks of one node."""

import os
import sys
from pathlib import Path

import pytest

from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.engine.stored import read_meta
from mri_fm.observe.recorder import read_metrics
from tests.distributed import free_port
from tests.end_to_end.commands import DEEPSPEED, ROOT, SMALL, finish, run, start, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.end_to_end]
WORDS = ("train.steps=4", "checkpoint.every=2")
PORT = "29611"  # nobody else is in the namespaces


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from fault_injection.nodes import TwoNodes, why_not

    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with TwoNodes(tmp_path / "ssh") as joined:
        yield joined


def training(corpus: Path, run_dir: Path) -> list[str]:
    return ["train.py", "--objective", "jepa_vcr", f"data.corpus={corpus}", f"run.dir={run_dir}", *SMALL, *WORDS]


def weights_and_losses(run_dir: Path) -> tuple[str, list[float]]:
    """Checksums of all files of the last checkpoint but meta.json, and the loss of each step."""
    sums = (run_dir / "checkpoints" / "step-00000004" / "checksums.json").read_text()
    files = "\n".join(line for line in sums.splitlines() if "rank-" in line)
    return files, [record["loss"] for record in read_metrics(run_dir)]


@pytest.fixture(scope="module")
def one_node(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    launcher = [DEEPSPEED, "--num_gpus", "2", "--master_port", str(free_port())]
    code, output = run([*launcher, *training(corpus, folder / "run")], folder / "log")
    assert code == 0, output
    return weights_and_losses(folder / "run")


def write_hostfile(folder: Path, hosts: tuple[str, ...]) -> Path:
    hostfile = folder / "hostfile"
    hostfile.write_text("".join(f"{host} slots=1\n" for host in hosts))
    return hostfile


def test_a_launcher_on_each_node_trains_as_one_node(nodes, one_node, corpus, tmp_path):
    hostfile = write_hostfile(tmp_path, ("node0", "node1"))
    processes = []
    for number in range(2):
        place = ["--hostfile", hostfile, "--num_nodes", "2", "--num_gpus", "1", "--no_ssh", "--node_rank", str(number)]
        launcher = [DEEPSPEED, *place, "--master_addr", "10.77.0.1", "--master_port", PORT]
        command = nodes.command(number, [*launcher, *training(corpus, tmp_path / "two")])
        processes.append(start(command, tmp_path / f"log-{number}"))
    for number, process in enumerate(processes):
        code, output = finish(process, tmp_path / f"log-{number}")
        assert code == 0, output
    assert weights_and_losses(tmp_path / "two") == one_node


@pytest.fixture
def by_ssh(nodes, tmp_path):
    """The environment and the launcher of one that reaches both nodes from the first."""
    from fault_injection.nodes import ADDRESSES, INTERFACE, why_not

    reason = why_not("pdsh", "ssh", "sshd", "ssh-keygen")
    if reason is not None:
        pytest.skip(reason)
    exported = tmp_path / "deepspeed_env"
    exported.write_text(f"GLOO_SOCKET_IFNAME={INTERFACE}\nDS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
    environment = {"PATH": f"{nodes.start_ssh()}:{os.environ['PATH']}", "DS_ENV_FILE": str(exported)}
    return environment, [DEEPSPEED, "--hostfile", write_hostfile(tmp_path, ADDRESSES), "--master_port", PORT]


def test_one_launcher_reaches_both_nodes_by_pdsh_and_trains_as_one_node(nodes, by_ssh, one_node, corpus, tmp_path):
    environment, launcher = by_ssh
    command = nodes.command(0, [*launcher, *training(corpus, tmp_path / "two")])
    code, output = finish(start(command, tmp_path / "log-2", **environment), tmp_path / "log-2")
    assert code == 0, output
    assert "10.77.0.2: " in output
    assert weights_and_losses(tmp_path / "two") == one_node


def test_a_run_goes_on_without_a_node_that_is_gone(nodes, by_ssh, corpus, tmp_path):
    """Its cable is pulled for good. The other node takes the whole batch, so that batch statistics stay what they were."""
    environment, launcher = by_ssh
    environment["PDSH_SSH_ARGS_APPEND"] = "-o ServerAliveInterval=2 -o ServerAliveCountMax=3"
    words = [*training(corpus, tmp_path / "run"), "train.steps=9", "checkpoint.every=3", "data.timeout_s=10"]
    supervise = [sys.executable, "-m", "launch.supervise", "--backoff-s", "0.1", "--grace-s", "30", "--"]
    process = start(nodes.command(0, [*supervise, *launcher, *words]), tmp_path / "log-2", **environment)
    wait_for_step(process, tmp_path / "run", 5)
    nodes.cut()
    code, output = finish(process, tmp_path / "log-2")
    assert code == 0, output
    assert "supervise: without a node host=10.77.0.2" in output
    assert read_meta(find_checkpoint(tmp_path / "run"))["world"] == 1
    alone = [DEEPSPEED, "--num_gpus", "1", "--master_port", str(free_port())]
    code, output = run([*alone, *training(corpus, tmp_path / "alone"), "train.steps=9"], tmp_path / "log")
    assert code == 0, output
    losses = [[record["loss"] for record in read_metrics(tmp_path / name)] for name in ("run", "alone")]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)
