"""The clinical visit that a scan belongs to: the nearest in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from preprocessing.datasets.table import Row


@dataclass(frozen=True)
class Visit:
    """What was found on one day; days are counted from any day that a person's scans are counted from too."""

    day: int
    row: Row


def nearest_visit(visits: Sequence[Visit], day: int | None) -> Visit | None:
    """The visit nearest to a day; of two equally near, the earlier; of two on one day, the first. None without visit or day."""
    if day is None:
        return None
    return min(visits, key=lambda visit: (abs(visit.day - day), visit.day), default=None)


def visits_by_person(rows: Iterable[tuple[str, int | None, Row]]) -> dict[str, list[Visit]]:
    """Group (person, day, row); a row without a day is no visit."""
    visits = defaultdict(list)
    for person, day, row in rows:
        if day is not None:
            visits[person].append(Visit(day, row))
    return dict(visits)


def day_number(year: str, month: str, day: str) -> int | None:
    """Days since 1 January of year 1; None for a date that does not exist."""
    try:
        return date(int(year), int(month), int(day)).toordinal()
    except (ValueError, OverflowError):
        return None
