"""Two nodes on one machine: two network namespaces joined by a veth pair."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ADDRESSES = ("10.77.0.1", "10.77.0.2")
INTERFACE = "link0"
_SSHD = "/usr/sbin/sshd"


class TwoNodes:
    """`with TwoNodes(folder) as nodes: …`; they share this machine's files and nothing of its network."""

    def __init__(self, folder: Path) -> None:
        """Choose names that nobody else has; `folder` is for what ssh needs."""
        self.names = tuple(f"node{number}-{os.getpid()}" for number in range(2))
        self.folder = folder
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> TwoNodes:
        pair = [f"v{number}-{os.getpid()}" for number in range(2)]
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
        for name, end, address in zip(self.names, pair, ADDRESSES, strict=True):
            _ip("link", "set", end, "netns", name, "name", INTERFACE)
            _ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
        for name in self.names:
            _ip("netns", "delete", name)

    def command(self, number: int, words: Sequence[str | Path]) -> list[str]:
        """A command on a node, with the variables that a node's own set-up gives it."""
        variables = [f"GLOO_SOCKET_IFNAME={INTERFACE}"]
        return ["ip", "netns", "exec", self.names[number], "env", *variables, *map(str, words)]

    def cut(self) -> None:
        """Take the link down."""
        _ip("-n", self.names[1], "link", "set", INTERFACE, "down")

    def mend(self) -> None:
        """Bring it up again."""
        _ip("-n", self.names[1], "link", "set", INTERFACE, "up")

    def start_ssh(self) -> Path:
        """Start sshd on both nodes with keys of their own; returns a folder with the `ssh` that reaches them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for key in ("host", "client"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        server, client = self.folder / "sshd_config", self.folder / "ssh_config"
        server.write_text(
            f"HostKey {self.folder / 'host'}\nAuthorizedKeysFile {self.folder / 'client.pub'}\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
        )
        client.write_text(
            f"Host *\n  IdentityFile {self.folder / 'client'}\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n"
            "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
        for number in range(2):
            self._servers.append(subprocess.Popen(self.command(number, [_SSHD, "-D", "-f", server])))
        return self._wrapper(client)

    def _wrapper(self, config: Path) -> Path:
        folder = self.folder / "bin"
        folder.mkdir()
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        (folder / "ssh").chmod(0o755)
        return folder


def why_not(*programs: str) -> str | None:
    """Why there can be no two nodes here, or None."""
    missing = [name for name in ("ip", *programs) if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    if missing:
        return f"{', '.join(missing)} is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"probe-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"network namespaces may not be created here ({done.stderr.strip()})"
    _ip("netns", "delete", name)
    return None


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
