"""``kimiflow exec``: a command that runs as an account."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Final

from kimiflow.cli.running import run
from kimiflow.cli.talk import paint, say
from kimiflow.errors import UsageError
from kimiflow.settings import without_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimiflow.flow import KimiFlow

__all__ = ["CANNOT_RUN", "NOT_FOUND", "exec_", "parse_variables"]

CANNOT_RUN: Final = 126
NOT_FOUND: Final = 127
"""As shells count them."""

_USUAL: Final = {"KIMI_API_KEY": "token", "OPENAI_API_KEY": "token", "OPENAI_BASE_URL": "base"}

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_variables(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=token|base|api``, as typed; the usual ones where there are none.

    :raises UsageError: where one is something else.
    """
    made = {}
    for text in texts:
        name, _, what = text.partition("=")
        if _NAME.fullmatch(name) is None or what not in {"token", "base", "api"}:
            raise UsageError(f"{text!r} is not NAME=token, NAME=base or NAME=api")
        made[name] = what
    return made or dict(_USUAL)


def exec_(name: str, command: Sequence[str], variables: Sequence[str]) -> int:
    """Runs the command; returns an exit code, or, where the command takes over, not at all."""
    wanted = parse_variables(variables)
    if shutil.which(command[0]) is None:
        there = os.path.dirname(command[0]) and os.path.exists(command[0])  # noqa: PTH110, PTH120 - as typed
        return _complain(command[0], "it cannot be executed", CANNOT_RUN) if there else _not_found(command[0])
    environment: dict[str, str] = {}

    async def body(flow: KimiFlow) -> int:
        token = await flow.token(name)
        # Without a base a client would send the token to whatever its own default is.
        base = flow.api_base(name) if {"base", "api"} & set(wanted.values()) else ""
        values = {"token": token.access_token, "base": f"{base}/v1", "api": base}
        environment.update((variable, values[what]) for variable, what in wanted.items())
        return 0

    return run(body) or _become(command, {**without_settings(os.environ), **environment})


def _become(command: Sequence[str], environment: Mapping[str, str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if sys.platform == "win32":
            return _beside(command, environment)
        # Python ignores these, and what is ignored stays ignored in the program that takes its place.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], list(command), environment)  # noqa: S606 - what was asked for
    except FileNotFoundError:
        # The file is there; the interpreter that its first line names is not.
        return _not_found(command[0])
    except OSError as error:
        return _complain(command[0], error.strerror or "it cannot be executed", CANNOT_RUN)


def _beside(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Where no process can take another's place: Ctrl-C reaches both, and is the command's to deal with."""
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found = shutil.which(command[0]) or command[0]
    return subprocess.run([found, *command[1:]], env=environment, check=False).returncode  # noqa: S603


def _not_found(program: str) -> int:
    return _complain(program, "there is no such command", NOT_FOUND)


def _complain(program: str, reason: str, code: int) -> int:
    say(f"{paint('error:', 'red', sys.stderr)} {program}: {reason}")
    return code
