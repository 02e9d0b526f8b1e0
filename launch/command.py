"""The command that is supervised: a launcher, `train.py` and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.hostfile import Batch, read_hostfile
from mri_fm.config import Config, load_config
from mri_fm.errors import UserError

_DEFAULT_HOSTFILE = Path("/job/hostfile")
_HOSTFILE_FLAGS = ("--hostfile", "-H")
_OWN_CHOICE = ("--include", "-i", "--exclude", "-e", "--no_ssh")


@dataclass(frozen=True)
class Command:
    """Its words, the configuration they mean, and the nodes that it may use (empty: it does not choose among nodes)."""

    words: tuple[str, ...]
    script: int  # where train.py stands
    config: Config
    slots: Mapping[str, int]
    node: str | None = None  # the number of the one node that it starts ranks on, beside other launchers; None: all nodes

    @classmethod
    def read(cls, words: Sequence[str]) -> Command:
        """Understand a command line.

        Raises:
            UserError: no train.py in it, a configuration or a hostfile that is wrong, or more nodes than it has.
        """
        from train import parse

        found = [place for place, word in enumerate(words) if Path(word).name == "train.py"]
        if not found:
            raise UserError("give the command after `--`, for instance: python -m launch.supervise -- deepspeed train.py …")
        options = parse(list(words[found[0] + 1 :]))
        config = load_config(options.objective, options.words)
        launcher = words[: found[0]]
        node = _value(launcher, ("--node_rank",)) if "--no_ssh" in launcher else None
        return cls(tuple(words), found[0], config, _slots(launcher), node)

    @property
    def run_dir(self) -> Path:
        """`run.dir`."""
        return Path(self.config.run.dir)

    def batch(self, most: int) -> Batch:
        """What its ranks share, of which one takes at most `most` samples at once (0: any number)."""
        train, objective = self.config.train, self.config.objective
        constant = objective.require_constant_batch and objective.couples_samples()
        return Batch(train.global_batch, train.accumulation, most, constant, train.sequence_parallel)

    def on(self, hostfile: Path, nodes: int, accumulation: int) -> list[str]:
        """The command with another hostfile, all of whose nodes it uses, in so many micro-steps."""
        launcher = _without(self.words[: self.script], (*_HOSTFILE_FLAGS, "--num_nodes"))
        words = [launcher[0], "--hostfile", str(hostfile), "--num_nodes", str(nodes), *launcher[1:], *self.words[self.script :]]
        return words if accumulation == self.config.train.accumulation else [*words, f"train.accumulation={accumulation}"]


def _slots(launcher: Sequence[str]) -> dict[str, int]:
    if not any(Path(word).name == "deepspeed" for word in launcher) or _value(launcher, _OWN_CHOICE) is not None:
        return {}
    named = _value(launcher, _HOSTFILE_FLAGS)
    if named is None and not _DEFAULT_HOSTFILE.is_file():
        return {}
    path = Path(named or _DEFAULT_HOSTFILE)
    slots = read_hostfile(path)
    wanted, gpus = (_value(launcher, flags) for flags in (("--num_nodes",), ("--num_gpus", "--num_accelerators")))
    if int(wanted or 0) > len(slots):
        raise UserError(f"--num_nodes {wanted}, and {path} names {len(slots)}: add nodes to it or ask for fewer")
    hosts = list(slots)[: int(wanted or 0) or None]
    return {host: min(slots[host], int(gpus or slots[host])) for host in hosts}


def _value(words: Sequence[str], flags: Sequence[str]) -> str | None:
    """The value of the first of these flags, "" where it has none; None: not given."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in flags:
            return value if equals else next(iter(words[place + 1 :]), "")
    return None


def _without(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The words without these flags and their values."""
    kept: list[str] = []
    skip = False
    for word in words:
        name, equals, _ = word.partition("=")
        if not skip and name not in flags:
            kept.append(word)
        skip = not skip and name in flags and not equals
    return kept
