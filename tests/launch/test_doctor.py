import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch import checks, doctor
from launch.checks import Finding, code_version, examine
from tests.distributed import free_port
from tests.end_to_end.commands import ROOT

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_node_is_looked_over(corpus, tmp_path):
    findings = named(examine(str(corpus), tmp_path / "run"))
    for name in ("python", "torch", "deepspeed", "dali", "corpus"):
        assert findings[name].level == "ok", findings[name]
    for name in ("shm", "ulimit -n", "ulimit -l", "interfaces", "host name", "free space", "write", "shards"):
        assert findings[name].level in ("ok", "warn"), findings[name]
        assert findings[name].advice or findings[name].level == "ok" or name == "interfaces"
    assert not list((tmp_path / "run").iterdir())


def test_where_there_is_no_gpu_it_says_so(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    findings = list(checks.gpus())
    assert [finding.name for finding in findings] == ["driver", "gpu", "nccl"]
    assert all(finding.level == "skip" and finding.detail.startswith("no GPU") for finding in findings)


def test_what_is_wrong_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib7")
    assert named(list(checks.network()))["NCCL_SOCKET_IFNAME"].level == "fail"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "^docker")
    assert "NCCL_SOCKET_IFNAME" not in named(list(checks.network()))
    monkeypatch.setattr(checks, "version", lambda name: "1.0")
    assert named(list(checks.packages()))["deepspeed"].detail == "1.0 instead of 0.19.8"
    (tmp_path / "file").touch()
    assert named(examine(None, tmp_path / "file"))["run.dir"].level == "fail"
    assert named(examine(str(tmp_path), None))["shards"].level == "fail"


@pytest.mark.parametrize(
    ("code", "gpus", "wrong"),
    [("", 8, []), ("other", 8, ["code"]), ("", 7, ["slots"]), ("", 0, [])],
)
def test_nodes_are_compared(code, gpus, wrong):
    findings = doctor.compare(code or code_version(), 8, [Finding("ok", "gpu", "", count=gpus)])
    assert [finding.name for finding in findings] == wrong


@pytest.mark.parametrize(
    ("skew", "doubt", "level"), [(0.3, 0.1, "ok"), (-3.0, 0.1, "warn"), (-3.0, 2.5, "ok"), (9.0, 5.0, "warn")]
)
def test_a_clock_is_judged_beyond_doubt(skew, doubt, level):
    assert doctor.judge_clock(skew, doubt).level == level


def run_doctor(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.doctor", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_a_hostfile_is_checked_and_a_node_that_does_not_answer_is_a_failure(tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=1\na slots=1\n")
    done = run_doctor("--hostfile", str(hostfile))
    assert (done.returncode, done.stderr.count("stands twice")) == (2, 1)
    ssh = tmp_path / "ssh"
    answer = json.dumps({"code": code_version(), "findings": []})
    ssh.write_text(
        f"#!/bin/sh\ncase \"$*\" in *gone*) echo no route >&2; exit 255;; *date*) echo 12345.6;; *) echo '{answer}';; esac\n"
    )
    ssh.chmod(0o755)
    hostfile.write_text("here slots=1\ngone slots=1\n")
    done = run_doctor("--hostfile", str(hostfile), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "no findings came back (no route)" in done.stdout
    assert "WARN clock" in done.stdout


@contextmanager
def ssh_server(folder: Path):
    """An sshd of our own on a free port, and a folder with an `ssh` that reaches it without touching ~/.ssh."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    shutil.copy(folder / "user.pub", folder / "authorized")
    settings = f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\nPidFile none\nUsePAM no\n"
    (folder / "sshd_config").write_text(f"ListenAddress 127.0.0.1\nPort {port}\n{settings}")
    (folder / "ssh").write_text(
        f"#!/bin/sh\nexec {shutil.which('ssh')} -F none -p {port} -i {folder}/user -o IdentitiesOnly=yes "
        f'-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@"\n'
    )
    (folder / "ssh").chmod(0o755)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(SSHD is None, reason="no sshd here")
def test_a_node_is_looked_over_by_ssh(tmp_path):
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd, run as root, locks its unprivileged part up
    hostfile = tmp_path / "hosts"
    hostfile.write_text("127.0.0.1 slots=2\n")
    with ssh_server(tmp_path):
        path = f"{tmp_path}:{os.environ['PATH']}"
        for _ in range(50):  # until it listens
            if subprocess.run([tmp_path / "ssh", "-o", "BatchMode=yes", "127.0.0.1", "true"], check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.skip("this sshd does not let us in")
        done = run_doctor("--hostfile", str(hostfile), PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("127.0.0.1\n")
    assert "ok   clock" in done.stdout
    assert "ok   deepspeed" in done.stdout
