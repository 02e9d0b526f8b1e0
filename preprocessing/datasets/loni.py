"""What exports of LONI's Image and Data Archive share: the path of a scan, and one XML file of metadata per scan.

ADNI/003_S_1257/MP-RAGE/2007-03-14_10_48_45.0/I45108/ADNI_003_S_1257_MR_MP-RAGE_Br_20070404172342811_S29023_I45108.nii
ADNI/ADNI_003_S_1257_MP-RAGE_S29023_I45108.xml
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from preprocessing.datasets.adapter import Tree, without_blanks
from preprocessing.datasets.visits import day_number

DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
XML_NAME = re.compile(r"_(I\d+)\.xml$")
FIELDS = ("researchGroup", "subjectSex", "subjectAge", "weightKg")
SEXES = {"m": "M", "f": "F", "male": "M", "female": "F", "1": "M", "2": "F"}


@dataclass(frozen=True)
class Metadata:
    """The text of an XML file's elements, "" where absent; `weighting` is the protocol term of that name."""

    group: str = ""
    sex: str = ""
    age: str = ""
    weight: str = ""
    weighting: str = ""


def scan_pattern(project: str, subject: str) -> re.Pattern[str]:
    """The path of a scan of a project whose subjects match a regular expression."""
    return re.compile(
        rf"(?:^|/)(?P<subject>{subject})/(?P<description>[^/]+)/(?P<date>\d{{4}}-\d{{2}}-\d{{2}})[^/]*/"
        rf"[^/]+/{project}_(?P=subject)_[^/]*_(?P<image>I\d+)(?![0-9])[^/]*$"
    )


def metadata_files(tree: Tree) -> dict[str, Path]:
    """The XML file of each image id."""
    return {match[1]: tree.raw / path for path in tree.files if (match := XML_NAME.search(path))}


def read_metadata(path: Path | None) -> Metadata:
    """Read one XML file; empty where there is none or it cannot be read, so that the scan serves pretraining only."""
    if path is None:
        return Metadata()
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return Metadata()
    texts: dict[str, str] = {}
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        name = element.get("term", "") if name == "protocol" else name
        texts.setdefault(name, (element.text or "").strip())
    return Metadata(*(texts.get(name, "") for name in (*FIELDS, "Weighting")))


def person_labels(sex: str, age: str, weight: str) -> dict[str, str]:
    """`sex` (M, F), `age` in years and `weight_kg` to one decimal: finer would tell a birthday."""
    return without_blanks({"sex": SEXES.get(sex.lower(), ""), "age": rounded(age), "weight_kg": rounded(weight)})


def rounded(number: str) -> str:
    """A positive number to one decimal; "" for anything else."""
    try:
        value = float(number)
    except ValueError:
        return ""
    return f"{value:.1f}" if 0 < value < 1000 else ""


def day_in(path: str) -> int | None:
    """The number of the first day that a path names."""
    found = DATE.search(path)
    return day_number(*found.groups()) if found else None
