"""The exceptions a user is meant to see, and the exit codes they end in."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2
EXIT_RESUMABLE = 75
OF_THE_MACHINE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE,
     errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
     errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV, errno.ENXIO)
)  # fmt: skip
"""Codes of `OSError` that speak of rights, room, devices or a network, and so of no file's content."""


class UserError(Exception):
    """A mistake the user can mend. The message says what is wrong, where, and what to do, in one line."""


class ResumableError(Exception):
    """Something beside the program failed (storage, a worker process); the same command goes on. The message is one line."""


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an error says that the machine or its storage fails, rather than that a file is bad."""
    return isinstance(error, OSError) and (
        error.errno in OF_THE_MACHINE or isinstance(error, PermissionError | TimeoutError | ConnectionError)
    )


def exit_code(error: UserError | ResumableError) -> int:
    """The exit code that a process ends with."""
    return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_RESUMABLE


def nearest(word: str, known: Sequence[str]) -> str:
    """ ", did you mean '…'?" for the known word nearest to a mistyped one, or nothing if none is near."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f", did you mean '{match[0]}'?" if match else ""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command-line `main` and exit; a `UserError` or `ResumableError` becomes one line on stderr and its exit code."""
    try:
        code = main()
    except (UserError, ResumableError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = exit_code(error)
    sys.exit(code or 0)
