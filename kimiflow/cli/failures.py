"""From errors to exit codes and to the one or two lines that a person reads. No traceback gets out."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimiflow import errors
from kimiflow.cli.talk import paint, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "FAILURE",
    "INTERRUPTED",
    "PENDING",
    "PERSON_NEEDED",
    "UNREACHABLE",
    "USAGE",
    "code_of",
    "report",
    "reported",
    "worst",
]

FAILURE = 1
USAGE = 2
PERSON_NEEDED = 3
PENDING = 4
UNREACHABLE = 5
INTERRUPTED = 130
"""Ctrl-C, as shells count it: 128 and the signal's number."""

_BY_ERROR = (
    (errors.UsageError, USAGE),
    (errors.PersonNeeded, PERSON_NEEDED),
    (errors.StillPending, PENDING),
    (errors.ServerUnreachable, UNREACHABLE),
)

_GETTING_WORSE = (0, UNREACHABLE, PENDING, PERSON_NEEDED, FAILURE, USAGE)
"""What passes by itself, what needs a person to approve, what needs one to begin again, what needs somebody to look."""


@dataclass(slots=True)
class Outcome:
    """What became of a command."""

    code: int = 0


def code_of(error: BaseException) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILURE)


def worst(codes: Iterable[int]) -> int:
    """The exit code of a command that did several things."""
    return max(codes, key=_GETTING_WORSE.index, default=0)


def report(error: errors.KimiFlowError) -> int:
    """Tells a person what happened and what to type next; returns the exit code."""
    _error(error.message, error.hint)
    return code_of(error)


@contextmanager
def reported() -> Iterator[Outcome]:
    """Whatever goes wrong inside is told on stderr and becomes an exit code."""
    outcome = Outcome()
    try:
        yield outcome
        if sys.stdout is not None:
            sys.stdout.flush()
    except errors.KimiFlowError as error:
        outcome.code = report(error)
    except KeyboardInterrupt:
        outcome.code = INTERRUPTED
    except SystemExit as leave:
        outcome.code = leave.code if isinstance(leave.code, int) else FAILURE
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is still buffered has nowhere to go.
        _discard_stdout()
        outcome.code = FAILURE
    except Exception as error:  # noqa: BLE001 - the last stop before a terminal
        outcome.code = _from_typer(error) or _unexpected(error)


def _error(message: str, hint: str = "") -> None:
    say(f"{paint('error:', 'red', sys.stderr)} {message}")
    if hint:
        say(hint)


def _from_typer(error: Exception) -> int | None:
    """The exit code for what Typer says about a command line; ``None`` where the error is none of its own.

    Recognised by what it can do: some versions of Typer bring their own copy of Click, others use the installed one.
    """
    if type(error).__module__.split(".")[0] not in {"typer", "click"}:
        return None
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    tell, code = getattr(error, "format_message", None), getattr(error, "exit_code", FAILURE)
    if tell is None:
        return None
    command = getattr(getattr(error, "ctx", None), "command_path", "kimiflow")
    if message := tell():
        _error(message[:1].lower() + message[1:].rstrip("."), f"How it is used: {command} --help")
    return int(code)


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno is not None and not hasattr(error, "host"):
        _error(f"{error.filename or 'the output'}: {error.strerror}")
        _discard_stdout()
        return FAILURE
    # The text of an error that nobody foresaw may hold anything, so only its type is shown.
    if os.environ.get("KIMIFLOW_LOG_LEVEL", "").lower() == "debug":
        import traceback

        from kimiflow.logs import redact

        text = "".join(traceback.format_exception(error))
        say(str(redact(None, "", {"traceback": text})["traceback"]).rstrip())
        _error(f"internal error: {type(error).__name__}")
    else:
        _error(
            f"internal error: {type(error).__name__}, a defect of kimiflow; "
            "run with KIMIFLOW_LOG_LEVEL=debug for the traceback"
        )
    return FAILURE


def _discard_stdout() -> None:
    """Keeps the interpreter from complaining at exit about output that cannot be written."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
