import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from launch import supervise
from launch.command import Command
from launch.supervise import Supervisor, decide, members
from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.engine.relay import ask
from mri_fm.engine.stored import read_meta
from mri_fm.errors import UserError
from mri_fm.observe.recorder import read_metrics
from tests.distributed import free_port
from tests.end_to_end.commands import DEEPSPEED, ROOT, SMALL, finish, run, start, wait_for_step

RANK = Path(__file__).with_name("rank.py")
WORDS = ["train.py", "--objective", "mae", "data.corpus=C", "train.steps=10"]


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    """Signals of the test process are handled as before, and subprocesses find the tree."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(supervise, "_SETTLE_S", 0.1)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def supervisor(tmp_path: Path, scenario: str, *options: str) -> Supervisor:
    words = [sys.executable, str(RANK), str(tmp_path), scenario, *WORDS, f"run.dir={tmp_path}"]
    return Supervisor(Command.read(words), supervise.parse(["--backoff-s", "0.01", *options]))


def starts(run_dir: Path) -> int:
    return len(list(run_dir.glob("start-*")))


@pytest.mark.parametrize(
    ("scenario", "options", "code", "times"),
    [
        ("done", [], 0, 1),
        ("crash,crash,done", [], 0, 3),
        ("mistake", [], 2, 1),
        ("crash", ["--max-failures", "3"], 1, 3),
        ("progress,progress,crash,progress,done", ["--max-failures", "2"], 0, 5),
        ("early,done", [], 0, 2),  # a launcher that was killed may say 0
    ],
)
def test_a_run_is_started_until_it_is_done_or_hopeless(tmp_path, scenario, options, code, times):
    assert supervisor(tmp_path, scenario, *options).run() == code
    assert starts(tmp_path) == times


def when(condition, act) -> None:
    def wait() -> None:
        while not condition():
            time.sleep(0.05)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_stop_reaches_the_ranks(tmp_path, number):
    work = supervisor(tmp_path, "work")
    when(lambda: starts(tmp_path) == 1, lambda: os.kill(os.getpid(), number))
    assert work.run() == 75
    assert work.saved_step() == 5
    assert starts(tmp_path) == 1


def test_a_request_to_stop_ends_the_wait_between_two_starts(tmp_path):
    work = supervisor(tmp_path, "crash", "--backoff-s", "1000")
    when(lambda: starts(tmp_path) == 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert work.run() == 75


def test_a_run_that_hangs_is_ended_with_its_stacks(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "_SETTLE_S", 5.0)
    assert supervisor(tmp_path, "hang,done", "--hang-s", "3").run() == 0
    stacks = (tmp_path / "supervision" / "stacks-00000.txt").read_text()
    assert "rank.py" in stacks
    assert '"event": "hangs"' in (tmp_path / "supervision" / "log.jsonl").read_text()


def test_ranks_that_outlive_their_launcher_save_and_end(tmp_path):
    assert supervisor(tmp_path, "orphan,done").run() == 0
    assert (tmp_path / "orphan-saved").is_file()


def test_a_full_disk_does_not_end_the_supervision(tmp_path, capsys):
    (tmp_path / "supervision").mkdir()
    for name in ("log.jsonl", ".request"):  # every write fails with ENOSPC
        (tmp_path / "supervision" / name).symlink_to("/dev/full")
    assert supervisor(tmp_path, "crash,done").run() == 0
    assert "ranks cannot be asked signal=SIGKILL reason=[Errno 28] No space left" in capsys.readouterr().err


def test_a_hostfile_that_cannot_be_written_is_said_in_one_line(tmp_path, monkeypatch):
    work = Supervisor(hostfile_command(tmp_path), supervise.parse([]))
    stub_ssh(tmp_path, monkeypatch, "nobody")
    (tmp_path / "supervision" / "hostfile").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"hostfile cannot be written \(.*No space left"):
        work._words()


def test_a_run_has_one_supervisor(tmp_path):
    first = supervisor(tmp_path, "done")
    with pytest.raises(UserError, match="supervised already"):
        supervisor(tmp_path, "done")
    os.close(first._lock)
    supervisor(tmp_path, "done")


def test_launchers_of_their_own_nodes_have_each_a_supervisor(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=1\nb slots=1\n")
    for node in ("0", "1"):
        launcher = ["deepspeed", "--hostfile", str(hosts), "--no_ssh", "--node_rank", node]
        work = Supervisor(Command.read([*launcher, *WORDS, f"run.dir={tmp_path}"]), supervise.parse([]))
        assert work._words()[: len(launcher)] == launcher
        work.say("here")
        assert (tmp_path / "supervision" / f"log-{node}.jsonl").is_file()


@pytest.mark.parametrize(
    ("code", "done", "asked", "failures", "end"),
    [
        (0, True, True, 0, 0),
        (0, False, False, 1, None),
        (75, False, False, 0, None),
        (75, False, True, 0, 75),
        (137, False, True, 0, 75),
        (2, False, True, 0, 2),
        (137, False, False, 5, 137),
        (0, False, False, 5, 1),
    ],
)
def test_what_follows_from_an_exit_code(code, done, asked, failures, end):
    assert decide(code, done, asked, failures, 5) == end


def hostfile_command(tmp_path: Path, *launcher: str, batch: int = 24) -> Command:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=4\nb slots=4\nc slots=4\n")
    words = ["deepspeed", "--hostfile", str(hostfile), *launcher, *WORDS, f"run.dir={tmp_path}", f"train.global_batch={batch}"]
    return Command.read(words)


def stub_ssh(tmp_path: Path, monkeypatch, gone: str) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nfor host in {gone}; do case "$*" in *" $host "*) echo timed out >&2; exit 255;; esac; done\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_node_that_is_gone_is_left_out(tmp_path, monkeypatch):
    work = Supervisor(hostfile_command(tmp_path, "--num_nodes=3", "--num_gpus", "2"), supervise.parse([]))
    stub_ssh(tmp_path, monkeypatch, "b")
    words = work._words()
    assert words[:5] == ["deepspeed", "--hostfile", str(tmp_path / "supervision" / "hostfile"), "--num_nodes", "2"]
    assert words[5:9] == ["--num_gpus", "2", "train.py", "--objective"]
    assert (tmp_path / "supervision" / "hostfile").read_text() == "a slots=2\nc slots=2\n"


def test_nodes_that_the_batch_does_not_divide_over_stay_idle(tmp_path, monkeypatch):
    work = Supervisor(hostfile_command(tmp_path, batch=32), supervise.parse([]))  # 32 over 12, 8 or 4 ranks
    stub_ssh(tmp_path, monkeypatch, "nobody")
    assert work._words()[4] == "2"
    stub_ssh(tmp_path, monkeypatch, "a b c")
    with pytest.raises(UserError, match="no node can be reached"):
        work._words()


def test_more_micro_steps_are_asked_for_where_a_gpu_cannot_take_more_unless_they_must_stay(tmp_path, monkeypatch):
    stub_ssh(tmp_path, monkeypatch, "b c")
    command = hostfile_command(tmp_path)  # 24 over 4 ranks instead of 12
    assert Supervisor(command, supervise.parse(["--most-per-rank", "6"]))._words()[-1] == "train.global_batch=24"
    shutil.rmtree(tmp_path / "supervision")
    work = Supervisor(command, supervise.parse(["--most-per-rank", "3"]))
    assert work._words()[-1] == "train.accumulation=2"
    with pytest.raises(UserError, match="--most-per-rank"):
        supervise.parse(["--most-per-rank", "-1"])


def test_a_command_that_cannot_be_understood_is_refused(tmp_path):
    with pytest.raises(UserError, match="after `--`"):
        Command.read(["deepspeed"])
    with pytest.raises(UserError, match=r"train\.steps"):
        Command.read(["deepspeed", *WORDS, "train.stepz=1", f"run.dir={tmp_path}"])
    with pytest.raises(UserError, match="--num_nodes 4"):
        hostfile_command(tmp_path, "--num_nodes", "4")
    assert not hostfile_command(tmp_path, "--no_ssh", "--node_rank", "0").slots


def supervised(corpus: Path, run_dir: Path, *words: str, options: tuple[str, ...] = ()) -> list[str]:
    launcher = [DEEPSPEED, "--num_gpus", "2", "--master_port", str(free_port())]
    command = [*launcher, "train.py", "--objective", "jepa_vcr", f"data.corpus={corpus}", f"run.dir={run_dir}", *SMALL, *words]
    return [sys.executable, "-m", "launch.supervise", "--backoff-s", "0.1", *options, "--", *command]


def ranks(log: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"process (\d+) spawned", log.read_text())]


@pytest.mark.end_to_end
def test_a_supervised_deepspeed_run_stops_resumably_and_leaves_no_orphan(corpus, tmp_path):
    log = tmp_path / "log"
    process = start(supervised(corpus, tmp_path / "run", "train.steps=100000", "checkpoint.every=100000"), log)
    wait_for_step(process, tmp_path / "run", 2)
    (launcher,) = re.findall(r"supervise: started pid=(\d+)", log.read_text())
    process.send_signal(signal.SIGTERM)
    code, output = finish(process, log)
    assert code == 75, output
    saved = read_meta(find_checkpoint(tmp_path / "run"))["step"]
    assert saved == max(record["step"] for record in read_metrics(tmp_path / "run"))
    assert members(int(launcher)) == []


def kill_rank(process, log: Path) -> None:
    os.kill(ranks(log)[-1], signal.SIGKILL)


def stop_rank(process, log: Path) -> None:
    os.kill(ranks(log)[-1], signal.SIGSTOP)


def kill_launcher(process, log: Path) -> None:
    os.kill(int(re.findall(r"started pid=(\d+)", log.read_text())[-1]), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.parametrize("fault", [kill_rank, stop_rank, kill_launcher])
def test_a_supervised_run_survives(corpus, tmp_path, fault):
    words = ("train.steps=30", "checkpoint.every=3")
    log, run_dir = tmp_path / "log", tmp_path / "run"
    process = start(supervised(corpus, run_dir, *words, options=("--hang-s", "40")), log)
    wait_for_step(process, run_dir, 5)
    fault(process, log)
    code, output = finish(process, log)
    assert code == 0, output
    if fault is stop_rank:
        assert "supervise: hangs" in output
        assert "loop.py" in (run_dir / "supervision" / "stacks-00000.txt").read_text()
    undisturbed = supervised(corpus, tmp_path / "undisturbed", *words)
    assert run(undisturbed[undisturbed.index("--") + 1 :], tmp_path / "log-2")[0] == 0
    assert losses(run_dir) == losses(tmp_path / "undisturbed")
    shutil.rmtree(run_dir)


def losses(run_dir: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_metrics(run_dir)}


def test_a_request_of_an_earlier_start_is_not_obeyed(tmp_path):
    (tmp_path / "supervision").mkdir()
    ask(tmp_path, signal.SIGKILL)
    assert supervisor(tmp_path, "hang,done", "--hang-s", "3").run() == 0
    assert "hangs" in (tmp_path / "supervision" / "log.jsonl").read_text()
