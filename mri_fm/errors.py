"""The one exception a user is meant to see."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake the user can mend. The message says what is wrong, where, and what to do, in one line."""


def nearest(word: str, known: Sequence[str]) -> str:
    """ ", did you mean '…'?" for the known word nearest to a mistyped one, or nothing if none is near."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f", did you mean '{match[0]}'?" if match else ""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command-line `main` and exit; a `UserError` becomes one line on stderr and exit code 2."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_USER_ERROR
    sys.exit(code or 0)
