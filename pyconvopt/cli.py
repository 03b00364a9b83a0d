"""The entry point `pyconvopt`: runs a command, and turns what goes wrong into one line.

Exit status: 0 if it worked, 1 for a run that failed, 2 for wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyconvopt.extras import require

INTERRUPTED = 130  # what a shell expects after Ctrl-C


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def fail(message: str, status: int) -> int:
    """Say what went wrong, and give back the exit status."""
    print(f"error: {message}", file=sys.stderr)
    return status


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
    except (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError) as error:
        return fail(one_line(error), 1)


def one_line_usage(error: BaseException) -> str:
    """A usage error's message, without line breaks and full stop."""
    message = getattr(error, "format_message", error.__str__)()
    return " ".join(message.split()).rstrip(".")


def main() -> None:
    """What the console script calls."""
    sys.exit(run())


if __name__ == "__main__":
    main()
