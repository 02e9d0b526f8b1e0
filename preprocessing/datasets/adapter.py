"""What an adapter is: the rules of one data set's layout, from a path to who and what a scan is.

An adapter is one file of this package. It names a pattern of paths, and a function that reads the data set's tables once and
gives a function from one scan to its `Knowledge`. Research ids that match the pattern are kept; everything else that could
name a person or a day becomes a pseudonym under the corpus' key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mri_fm.errors import UserError
from mri_fm.volume.discover import Input
from preprocessing.datasets.table import Row, read_columns
from preprocessing.privacy import pseudonym, public_session

PHANTOM = "phantom"  # an object or a test pattern, no brain
KINDS = ("individual", "template", "variant", "format_sample", PHANTOM)
PRETRAINING_ONLY = "pretraining_only"  # label column: 1 where a data set has labels and this scan none


@dataclass(frozen=True)
class IntensityRule:
    """Limits on the intensities of a whole volume, in units of the source; None: no limit."""

    max_mean: float | None = None
    min_std: float | None = None

    def broken(self, mean: float, std: float) -> str:
        """The limit that a volume breaks, in words; "" if none."""
        if self.max_mean is not None and mean > self.max_mean:
            return f"mean {mean:.1f} above {self.max_mean:g}"
        if self.min_std is not None and std < self.min_std:
            return f"standard deviation {std:.1f} below {self.min_std:g}"
        return ""


@dataclass(frozen=True)
class Knowledge:
    """What is known of one input besides its voxels.

    Attributes:
        dataset, subject, session: as in the manifest.
        contrast: "" until a source names it.
        kind: one of `KINDS`.
        base: the anatomy behind the voxels; filled in once all inputs are known.
        scan_uid: the scan's name in published splits; "" where there is none.
        labels: further columns of the manifest, as text.
        excluded: the rule that keeps the input out of the corpus; "" for none.
        intensity: what the voxels have to fulfil besides.
        adapter: who said so.
    """

    dataset: str
    subject: str
    session: str = ""
    contrast: str = ""
    kind: str = "individual"
    base: str = ""
    scan_uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    excluded: str = ""
    intensity: IntensityRule = IntensityRule()
    adapter: str = ""

    @property
    def person(self) -> tuple[str, str]:
        """(data set, subject): data sets may use one name for two people."""
        return self.dataset, self.subject


@dataclass(frozen=True)
class Tree:
    """A raw folder as adapters see it: its root, the relative paths of all files in name order, the key of the pseudonyms."""

    raw: Path
    files: tuple[str, ...]
    key: bytes

    def pseudonym(self, identity: str) -> str:
        """Of a person; see `preprocessing.privacy.pseudonym`."""
        return pseudonym(self.key, identity)

    def session(self, subject: str, name: str) -> str:
        """What may be told of a session's name; see `preprocessing.privacy.public_session`."""
        return public_session(self.key, subject, name)

    def table(self, name: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> list[Row]:
        """Some columns of the one table whose file name matches a regular expression; [] where there is none.

        Raises:
            UserError: several such tables, or one without the required columns.
        """
        found = [path for path in self.files if re.fullmatch(name, path.rpartition("/")[2], re.IGNORECASE)]
        if len(found) > 1:
            raise UserError(f"{self.raw} has {len(found)} tables for one purpose, {found[0]} and {found[1]}: keep one of them")
        return read_columns(self.raw / found[0], required, optional) if found else []


Describe = Callable[[Input, "re.Match[str]"], Knowledge]
"""From a scan, and the match of the adapter's pattern with its first file, to what is known of it."""


@dataclass(frozen=True)
class Adapter:
    """One data set's layout.

    Attributes:
        name: what `--dataset` calls it.
        layout: where it is told by, in one line, for `--help`.
        pattern: searched in the relative posix path of a scan's first file.
        open: reads the tables of a raw folder and returns the function that describes its scans.
    """

    name: str
    layout: str
    pattern: re.Pattern[str]
    open: Callable[[Tree], Describe]


def without_blanks(labels: dict[str, str]) -> dict[str, str]:
    """The labels that have a value."""
    return {name: value for name, value in labels.items() if value != ""}


def diagnosis(column: str, value: str) -> dict[str, str]:
    """A diagnosis as label; a scan without one serves pretraining only."""
    return {column: value, PRETRAINING_ONLY: "0"} if value else {PRETRAINING_ONLY: "1"}
