"""Look a node over before a run, or every node of a hostfile, and say what to fix.

    python -m launch.doctor [--corpus CORPUS] [--run-dir RUN] [--hostfile HOSTS] [--json]

Exit code 0 if nothing is wrong, 1 if something has to be fixed; warnings do not count. What needs a GPU says so where there is
none.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from launch.checks import Finding, code_version, examine
from launch.hostfile import SSH, read_hostfile
from mri_fm.errors import run_main

_PATIENCE_S = 300.0
_SKEW_S = 1.0
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL", "skip": "-   "}


def main() -> int:
    """Print the findings of this node, or of all nodes."""
    options = parse(sys.argv[1:])
    if options.hostfile is None:
        findings = examine(options.corpus, options.run_dir)
        print(report(findings) if not options.json else as_json(findings))
        return int(any(finding.level == "fail" for finding in findings))
    slots = read_hostfile(options.hostfile)
    with ThreadPoolExecutor(min(64, len(slots))) as pool:
        nodes = dict(zip(slots, pool.map(lambda host: ask(host, slots[host], options), slots), strict=True))
    for host, findings in nodes.items():
        print(f"{host}\n{report(findings)}")
    return int(any(finding.level == "fail" for findings in nodes.values() for finding in findings))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="a corpus, whose shards are read for a few seconds")
    parser.add_argument("--run-dir", type=Path, help="a folder that a run will write to")
    parser.add_argument("--hostfile", type=Path, help="look over every node in it, by ssh")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args(arguments)


def report(findings: Sequence[Finding]) -> str:
    """A line for each finding, and what to do about it."""
    return "\n".join(
        f"  {_MARKS[finding.level]} {finding.name:12} {finding.detail}" + (f": {finding.advice}" if finding.advice else "")
        for finding in findings
    )


def as_json(findings: Sequence[Finding]) -> str:
    """What another node's doctor reads: findings, and this node's code."""
    return json.dumps({"code": code_version(), "findings": [asdict(finding) for finding in findings]})


def ask(host: str, slots: int, options: argparse.Namespace) -> list[Finding]:
    """The findings of another node, and how its clock, code and number of GPUs compare with what they should be."""
    words = [sys.executable, "-m", "launch.doctor", "--json"]
    words += ["--corpus", options.corpus] if options.corpus else []
    words += ["--run-dir", str(options.run_dir)] if options.run_dir else []
    command = f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(words)}"
    try:
        done = subprocess.run([*SSH, host, command], capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        answer = json.loads(done.stdout.splitlines()[-1])
    except FileNotFoundError:
        return [Finding("fail", "ssh", "there is no ssh on this machine", "install an ssh client")]
    except subprocess.TimeoutExpired:
        return [Finding("fail", "ssh", f"no answer for {_PATIENCE_S:g} s", "look at the node; leave it out of the hostfile")]
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        advice = "nodes need passwordless ssh, and the same paths: `ssh HOST true` first"
        return [Finding("fail", "ssh", f"no findings came back ({said})", advice)]
    findings = [Finding(**finding) for finding in answer["findings"]]
    return [clock(host), *compare(answer["code"], slots, findings), *findings]


def clock(host: str) -> Finding:
    """How far another node's clock is from this one's, in doubt for as long as the question and its answer took."""
    sent = time.time()
    try:
        done = subprocess.run([*SSH, host, "date +%s.%N"], capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        theirs = float(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return Finding("skip", "clock", "`date +%s.%N` gave no answer")
    received = time.time()
    return judge_clock(theirs - (sent + received) / 2, (received - sent) / 2)


def judge_clock(skew_s: float, doubt_s: float) -> Finding:
    """Two clocks may differ by a second beyond doubt."""
    if abs(skew_s) - doubt_s <= _SKEW_S:
        return Finding("ok", "clock", f"{skew_s:+.2f} ± {doubt_s:.2f} s from this node's")
    detail = f"{skew_s:+.1f} ± {doubt_s:.1f} s from this node's"
    return Finding("warn", "clock", detail, "logs and file times cannot be compared: start chrony or ntpd")


def compare(code: str, slots: int, findings: Sequence[Finding]) -> list[Finding]:
    """Whether a node runs the same files, and has the GPUs that the hostfile says."""
    compared = []
    if code != code_version():
        compared.append(Finding("fail", "code", f"{code}, here {code_version()}", "nodes need the same files at the same path"))
    gpus = next((finding.count for finding in findings if finding.name == "gpu"), 0)
    if gpus and gpus < slots:
        compared.append(Finding("fail", "slots", f"slots={slots} and {gpus} GPUs", "correct the hostfile, or mend the GPU"))
    return compared


if __name__ == "__main__":
    run_main(main)
