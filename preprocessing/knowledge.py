"""What is known of an input besides its voxels: data set, person, session, contrast, labels, and rules that exclude it.

Sources, the first that speaks wins: `labels.csv` at the raw root (`preprocessing.labels`); the adapter of the data set
(`preprocessing.datasets`), which for a folder of unknown layout is the file name and the JSON sidecar.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mri_fm.errors import UserError
from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Describe, Knowledge, Tree
from preprocessing.datasets.registry import ADAPTERS, claim
from preprocessing.labels import LABELS_FILE, apply_row, read_labels

AUTO = "auto"


def know(raw: Path, files: Iterable[str], inputs: list[Input], key: bytes, dataset: str = AUTO) -> dict[str, Knowledge]:
    """Gather what is known of every input, by source path.

    Args:
        raw: the raw folder.
        files: relative paths of all its files.
        inputs: what `find_inputs` found there.
        key: secret of the pseudonyms.
        dataset: the adapter that all inputs must obey, which excludes those of another layout; "auto": each input is
            described by the first adapter whose layout it has.

    Raises:
        UserError: a table of a data set that cannot be used; a row of labels.csv that is wrong, by its line number.
    """
    check_dataset(dataset)
    tree = Tree(raw, tuple(sorted(files)), key)
    rows = read_labels(raw / LABELS_FILE, inputs)
    described = _describe_all(tree, inputs, dataset)
    return _with_bases({path: apply_row(knowledge, rows.get(path, {})) for path, knowledge in described.items()})


def check_dataset(dataset: str) -> None:
    """Refuse a name that is no adapter.

    Raises:
        UserError: it is none.
    """
    if dataset not in (AUTO, *ADAPTERS):
        raise UserError(f"--dataset {dataset} is no known data set: take {AUTO}, {', '.join(ADAPTERS)}")


def _describe_all(tree: Tree, inputs: list[Input], dataset: str) -> dict[str, Knowledge]:
    opened: dict[str, Describe] = {}
    found = {}
    for item in inputs:
        adapter, match = claim(item.files[0])
        asked = ADAPTERS.get(dataset, adapter).pattern.search(item.files[0])
        if asked:
            adapter, match = ADAPTERS.get(dataset, adapter), asked
        if adapter.name not in opened:
            opened[adapter.name] = adapter.open(tree)
        knowledge = replace(opened[adapter.name](item, match), adapter=adapter.name)
        found[item.source_path] = knowledge if asked else replace(knowledge, excluded=f"not in the layout of {dataset}")
    return found


def _with_bases(found: dict[str, Knowledge]) -> dict[str, Knowledge]:
    """Fill `base` with the subject; where two data sets use one name for two people, with both names."""
    datasets = defaultdict(set)
    for knowledge in found.values():
        datasets[knowledge.subject].add(knowledge.dataset)
    return {
        path: replace(k, base=k.base or (k.subject if len(datasets[k.subject]) == 1 else f"{k.dataset}/{k.subject}"))
        for path, k in found.items()
    }
