"""Blocks of code in docs/, and what understands their commands.

A page's Python blocks are run one after the other in one namespace. Bash blocks are run on pages that are listed for it, and
read by the commands' own parsers on all others. A comment `<!-- illustrative: why -->` or `<!-- cluster: why -->` before a
block says that it cannot be run here; it is read all the same.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import train
from mri_fm.config import load_config
from mri_fm.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"(?:<!-- (?P<mark>\w+)(?:: (?P<why>[^>]+))? -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
MARKS = ("illustrative", "cluster")
LANGUAGES = ("bash", "python", "yaml", "json", "text")
OUTSIDE = {"aws", "docker", "export", "git", "head", "kubectl", "ls", "sbatch", "source", "srun", "tail", "torchrun"}
COMMANDS = re.compile(r"^ {4}(?=(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:python|deepspeed|make|mri-fm) )")


@dataclass(frozen=True)
class Block:
    """One block of code; `mark` is "" where it is run or read as usual."""

    page: str
    language: str
    text: str
    mark: str


def pages() -> list[str]:
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text()
    found = [Block(page, m["language"], m["text"], m["mark"] or "") for m in FENCE.finditer(text)]
    assert len(found) * 2 == len(re.findall(r"^```", text, flags=re.M)), f"{page}: a fence is not closed"
    return found


def indented_commands(page: str) -> list[str]:
    """Commands in indented blocks, one a line."""
    text = FENCE.sub("", (DOCS / page).read_text())
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if COMMANDS.match(line)]


def commands(text: str) -> list[str]:
    """The commands of a bash block, one a line."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def require_understood(command: str) -> None:
    """Fail unless bash and the command's own parser understand it."""
    plain = re.sub(r"\[[^\]]*…\]|…", "", command)
    plain = re.sub(r"\[(--[^\]]+)\]", r"\1", plain)
    done = subprocess.run(["bash", "-n", "-c", plain], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = [word for word in shlex.split(plain, comments=True) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program = words[0].removeprefix(".venv/bin/")
    if "train.py" in words:
        _require_training(words[words.index("train.py") + 1 :])
    elif program == "deepspeed" and "--module" in words:
        place = next(i for i, word in enumerate(words) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", word))
        _require_module(words[place], words[place + 1 :])
    elif program == "python" and words[1] == "-m":
        _require_module(words[2], words[3:])
    elif program == "python":
        assert (ROOT / words[1]).is_file(), command
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), command
    elif program == "mri-fm":
        _require_module("mri_fm.cli", words[1:])
    else:
        assert program in OUTSIDE, f"nothing says how to read `{command}`"


def _require_training(words: list[str]) -> None:
    """The words of `train.py`; of an objective that a page has just made up, all but its own options."""
    options = train.parse(words)
    known = options.objective in OBJECTIVES
    given = [word for word in options.words if known or not word.startswith("objective.")]
    needed = [f"{key}=x" for key in ("data.corpus", "run.dir") if not any(word.startswith(f"{key}=") for word in given)]
    load_config(options.objective if known else "mae", [*given, *needed])


def _require_module(name: str, words: list[str]) -> None:
    """The module exists, and it or a module beside it knows the options."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    assert spec.origin is not None, name
    if name == "pytest":
        return
    file = Path(spec.origin)
    source = "".join(path.read_text() for path in (file.parent.glob("*.py") if file.name == "__init__.py" else [file]))
    for module in re.findall(r"from ((?:mri_fm|preprocessing|launch)[\w.]*) import", source):
        other = ROOT / Path(*module.split(".")).with_suffix(".py")
        source += other.read_text() if other.is_file() else ""
    for option in (word.partition("=")[0] for word in words if word.startswith("--") and word != "--"):
        assert f'"{option}"' in source or "--{name}" in source, f"{name} does not know {option}"
