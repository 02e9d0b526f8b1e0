"""Any BIDS tree. Its people become pseudonyms, since nobody knows whose names they are; columns of participants.tsv are labels.

Columns that may say who somebody is stay behind (`preprocessing.privacy.public_columns`), and the build says which.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath

from mri_fm.data.schema import MANIFEST
from mri_fm.volume.discover import Input, image_stem
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.sidecar import read_sidecar
from preprocessing.datasets.table import MISSING_VALUES, Row, read_table
from preprocessing.privacy import public_columns, public_dataset

TAKEN = {*MANIFEST.names, "kind", "base", "scan_uid", "duplicate_uids"}


def open_bids(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    participants: dict[str, dict[str, Row]] = {}

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        root = match["root"] or ""
        if root not in participants:
            participants[root] = read_participants(tree.raw / root / "participants.tsv")
        subject = tree.pseudonym(f"bids {root} {match['subject']}")
        return Knowledge(
            public_dataset(tree.key, root, PurePosixPath(root).name or tree.raw.resolve().name),
            subject,
            tree.session(subject, match["session"] or ""),
            contrast_of(PurePosixPath(image_stem(item.files[0])).name, read_sidecar(tree.raw, item)),
            labels=participants[root].get(match["subject"], {}),
        )

    return describe


def read_participants(path: Path) -> dict[str, Row]:
    """Label columns by participant, those that say who somebody is left out; a column that the manifest has is renamed.

    Raises:
        UserError: it is no table in UTF-8.
    """
    if not path.is_file():
        return {}
    people = {}
    for _, row in read_table(path, "\t")[1]:
        name = (row.get("participant_id") or "").strip()
        values = {k: (v or "").strip() for k, v in row.items() if k and k != "participant_id"}
        people[name if name.startswith("sub-") else f"sub-{name}"] = values
    present = [{k: "" if v.lower() in MISSING_VALUES else v for k, v in values.items()} for values in people.values()]
    public = public_columns(present)
    if left := sorted({column for values in people.values() for column in values} - set(public)):
        print(f"{path}: {', '.join(left)} stay behind, as they may name people; labels.csv may pass them on", file=sys.stderr)
    names = {column: f"participant_{column}" if column in TAKEN else column for column in public}
    return {person: {names[k]: v for k, v in values.items() if k in names} for person, values in people.items()}


ADAPTER = Adapter(
    "bids",
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz, participants.tsv at its root",
    re.compile(r"^(?:(?P<root>.*?)/)?(?P<subject>sub-[A-Za-z0-9]+)/(?:(?P<session>ses-[A-Za-z0-9]+)/)?"),
    open_bids,
)
