"""The nearest visit: by distance, ties to the earlier, none without a day."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from preprocessing.datasets.visits import Visit, day_number, nearest_visit, visits_by_person

DAYS = st.integers(-20, 20)  # few, so that ties come up


@given(st.lists(DAYS), DAYS)
def test_no_visit_is_nearer_and_none_as_near_is_earlier(days: list[int], day: int) -> None:
    visits = [Visit(d, {"number": str(i)}) for i, d in enumerate(days)]
    found = nearest_visit(visits, day)
    if not days:
        assert found is None
        return
    assert found is not None
    assert (abs(found.day - day), found.day) == min((abs(d - day), d) for d in days)
    assert found.row == {"number": str(days.index(found.day))}


@given(st.lists(DAYS))
def test_a_scan_without_a_day_has_no_visit(days: list[int]) -> None:
    assert nearest_visit([Visit(d, {}) for d in days], None) is None


def test_a_visit_without_a_day_is_none() -> None:
    row = {"a": "b"}
    assert visits_by_person([("p", 3, row), ("p", None, row), ("q", None, row)]) == {"p": [Visit(3, row)]}


@given(st.dates(date(1900, 1, 1)), st.integers(-3000, 3000))
def test_days_are_counted_as_a_calendar_does(day: date, further: int) -> None:
    def number(d: date) -> int | None:
        return day_number(str(d.year), f"{d.month:02d}", str(d.day))

    try:
        other = day + timedelta(further)
    except OverflowError:
        return
    assert number(other) - number(day) == further


@given(st.text(), st.text(), st.text())
def test_nonsense_is_no_day(year: str, month: str, day: str) -> None:
    assert day_number(year, month, f"x{day}") is None
    assert day_number("2021", "13", "1") is None
    assert day_number("2021", "2", "30") is None
    assert day_number("", "1", "1") is None
