"""Layers of a configuration, preset files and key=value words, merged with errors that name the nearest key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mri_fm.errors import UserError, nearest

PRESETS = Path(__file__).parent / "presets"
GROUPS = ("recipe", "model", "data", "optim")
FREE_KEYS = ("data.mixture.",)  # what follows is a name of the user's
_EVERY_OBJECTIVE = "all"  # the part of a recipe that does not depend on the objective


def split_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The presets that words choose, by group, and the other words.

    Raises:
        UserError: a word that is not of the form key=value.
    """
    choices: dict[str, str] = {}
    overrides = []
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise UserError(f"'{word}' is not of the form key=value, for instance train.steps=100")
        if key in GROUPS:
            choices[key] = value
        else:
            overrides.append(word)
    return choices, overrides


def parse_word(word: str) -> DictConfig:
    """The tree of one key=value word.

    Raises:
        UserError: a value that is not YAML.
    """
    key, _, value = word.partition("=")
    if re.fullmatch(r"\d+(:\d+)+", value):  # which YAML 1.1 reads as a number of base 60
        word = f"{key}='{value}'"
    try:
        return OmegaConf.from_dotlist([word])
    except YAMLError:
        raise UserError(f"the value of '{word}' is not valid YAML: close its brackets and quotes") from None


def preset_file(group: str, name: str) -> Path:
    """Where a preset lies.

    Raises:
        UserError: there is none of this name.
    """
    path = PRESETS / group / f"{name}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise UserError(f"no {group} preset '{name}'{nearest(name, names)}; there are {', '.join(names)}")
    return path


def layers_of(file: Path, objective: str) -> list[Any]:
    """What a preset file contributes: a recipe has a part for every objective and one for this.

    Raises:
        UserError: a recipe for other objectives.
    """
    content = cast(DictConfig, OmegaConf.load(file))
    if file.parent.name != "recipe":
        return [content]
    known = [str(name) for name in content if name != _EVERY_OBJECTIVE]
    if objective not in known:
        raise UserError(f"recipe={file.stem} says nothing about {objective}; it is for {', '.join(known)}")
    return [content[_EVERY_OBJECTIVE], content[objective]]


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing():
            yield from _keys(child, f"{prefix}{key}.")


def merge(target: DictConfig, layer: Any, origin: str, free: Sequence[str] = FREE_KEYS) -> None:
    """Merge a layer into the tree; `origin` names it in errors, below the prefixes `free` any key may stand.

    Raises:
        UserError: an unknown key (the nearest one is named) or an ill-typed value.
    """
    known = list(_keys(target))
    for key in reversed(list(_keys(layer))):  # the leaves first: their full name finds the nearest key
        if key not in known and not key.startswith(tuple(free)):
            raise UserError(f"unknown key '{key}' in {origin}{nearest(key, known)}")
    try:
        target.merge_with(layer)
    except OmegaConfBaseException as error:
        raise UserError(f"{origin}: {str(error).splitlines()[0]}") from error
