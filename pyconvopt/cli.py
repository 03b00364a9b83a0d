"""The entry point `pyconvopt`: runs a command, and turns what goes wrong into one line.

Exit status: 0 if it worked, 1 for a run that failed, 2 for wrong usage, 130 if interrupted. With
PYCONVOPT_DEBUG=1 in the environment an error is shown with its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from pyconvopt.extras import require

INTERRUPTED = 130  # what a shell expects after Ctrl-C
DEBUG = "PYCONVOPT_DEBUG"
# What the library raises about the user's input and the machine; anything else is a fault in it.
EXPECTED = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def one_line(error: object) -> str:
    """An error's message without line breaks."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def fail(message: str, status: int) -> int:
    """Say what went wrong, and give back the exit status."""
    rank = os.environ.get("RANK", "0")  # of the processes that torchrun started
    if rank == "0":
        print(f"error: {message}", file=sys.stderr)
    elif status == 1:  # wrong usage is the same in every process, a failure need not be
        print(f"error in process {rank}: {message}", file=sys.stderr)
    return status


def explained(error: BaseException) -> str:
    """What is said of a run that failed."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = f" for {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}: free some, or choose a folder on another disk"
    if isinstance(error, EXPECTED):
        return one_line(error)
    return (
        f"unexpected {type(error).__name__}: {one_line(error)}; this is a fault of pyconvopt: "
        f"{DEBUG}=1 in the environment shows the traceback to report"
    )


def warning_line(message: Any, *place: Any) -> str:
    """How a warning is shown: without the place in the source it came from."""
    return f"warning: {one_line(message)}\n"


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit status."""
    try:
        typer = require("typer", "the command line")
    except ImportError as error:
        return fail(one_line(error), 1)
    # typer carries click's exceptions under a private name; its public BadParameter is one.
    usage_error = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
    try:
        from pyconvopt.commands import app

        status = app(
            args=None if arguments is None else list(arguments),
            prog_name="pyconvopt",
            standalone_mode=False,
        )
        if status == INTERRUPTED:  # newer typer swallows the interrupt and gives its status
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except usage_error as error:
        return fail(f"{one_line_usage(error)} (see pyconvopt --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if os.environ.get(DEBUG, "0") != "0":
            traceback.print_exc()
        return fail(explained(error), 1)


def one_line_usage(error: BaseException) -> str:
    """A usage error's message, without line breaks and full stop."""
    message = getattr(error, "format_message", error.__str__)()
    return " ".join(message.split()).rstrip(".")


def main() -> None:
    """What the console script calls."""
    if os.environ.get(DEBUG, "0") == "0":
        warnings.formatwarning = warning_line  # type: ignore[assignment]
    sys.exit(run())


if __name__ == "__main__":
    main()
