"""Help, errors, and what a command leaves unimported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import kimiflow
from kimiflow import errors
from kimiflow.cli import failures, main
from kimiflow.cli.app import build
from kimiflow.cli.failures import FAILURE, USAGE
from tests.cli.processes import Cli

COMMANDS = [
    "login",
    "run",
    "status",
    "token",
    "refresh",
    "logout",
    "history",
    "disable",
    "enable",
    "rename",
    "label",
    "set",
    "key",
    "doctor",
    "import",
    "export",
    "exec",
    "machine",
    "db",
    "sandbox",
    "demo",
]
BELOW = ["key check", "key rotate", "key new", "db upgrade", "db current", "db check"]


def test_alone_it_shows_help(cli: Cli) -> None:
    shown = cli.good()
    assert shown.strip() == cli.good("--help").strip()
    assert all(f" {command} " in shown for command in COMMANDS)
    assert "kimiflow demo" in shown
    assert "--install-completion" in shown


@pytest.mark.parametrize("command", [*COMMANDS, *BELOW])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: kimiflow {command}" in shown
    assert f"kimiflow {command}" in shown.partition("Examples")[2]


def test_every_command_is_among_these() -> None:
    app = typer.main.get_group(build())
    below = [f"{name} {each}" for name, group in app.commands.items() for each in getattr(group, "commands", {})]
    assert sorted(app.commands) == sorted(COMMANDS)
    assert sorted(below) == sorted(BELOW)


def test_help_keeps_its_brackets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["login", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "a list: name [provider] [proxy] on each line" in shown
    assert "on each line: name [provider] [proxy]" in shown.partition("Examples")[2]


def test_version(cli: Cli) -> None:
    assert cli.good("--version") == f"kimiflow {kimiflow.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["tokne"], ["--wrong"], ["token"], ["token", "a", "b"], ["token", ".a"], ["history", "a b"]]
)
def test_usage_errors_are_short(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("KIMIFLOW_CONCURRENCY", "many"),
        ("KIMIFLOW_OAUTH_HOST", "http://example.com"),
        ("KIMIFLOW_PROVIDER", "nobody"),
        ("KIMIFLOW_LOG_LEVEL", "chatty"),
        ("KIMIFLOW_DATABASE_URL", "teapot://short/stout"),
    ],
)
def test_bad_settings(cli: Cli, key: str, value: str) -> None:
    is_bad_setting(cli("status", **{key: value}), key)


@pytest.mark.parametrize("command", [["run"], ["db", "check"], ["login", "work"]])
def test_bad_settings_stop_every_command(cli: Cli, command: list[str]) -> None:
    is_bad_setting(cli(*command, KIMIFLOW_CONCURRENCY="many"), "KIMIFLOW_CONCURRENCY")


def is_bad_setting(done: subprocess.CompletedProcess[str], key: str) -> None:
    assert done.returncode == USAGE
    assert key in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_exit_codes_of_errors() -> None:
    codes = {kind.__name__: failures.code_of(kind("x")) for kind in _all(errors.KimiFlowError)}
    promised = {
        "UsageError": 2,
        "InvalidSetting": 2,
        "InvalidAccountName": 2,
        "UnknownProvider": 2,
        "SignInNeeded": 3,
        "UnknownAccount": 3,
        "SignedOut": 3,
        "AccessDenied": 3,
        "AuthorizationExpired": 3,
        "StillPending": 4,
        "RequestFailed": 1,
        "ServerUnreachable": 5,
        "StoreError": 1,
        "StoreReplaced": 1,
        "StoreUnavailable": 1,
        "SchemaMismatch": 1,
        "VaultError": 1,
        "KeyMissing": 1,
        "WrongKey": 1,
    }
    assert codes | promised == codes


def _all(kind: type[errors.KimiFlowError]) -> list[type[errors.KimiFlowError]]:
    return [each for child in kind.__subclasses__() for each in (child, *_all(child))]


def test_the_worst_of_several() -> None:
    assert failures.worst([]) == 0
    assert failures.worst([0, 5, 4]) == 4
    assert failures.worst([3, 5, 0]) == 3
    assert failures.worst([1, 3]) == 1


def test_an_unexpected_error_shows_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KIMIFLOW_LOG_LEVEL", raising=False)
    with failures.reported() as outcome:
        raise RuntimeError("access_token=s3cret")
    assert outcome.code == FAILURE
    told = capsys.readouterr().err
    assert told.startswith("error: internal error: RuntimeError")
    assert "KIMIFLOW_LOG_LEVEL=debug" in told
    assert "s3cret" not in told

    monkeypatch.setenv("KIMIFLOW_LOG_LEVEL", "debug")
    with failures.reported():
        access_token = "s3cret"
        raise RuntimeError("access_token=" + access_token)
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "access_token=s3cret" not in told


def test_a_reader_that_has_seen_enough(cli: Cli) -> None:
    shell = f"set -o pipefail; {sys.executable} -m kimiflow machine | true"
    done = subprocess.run(["bash", "-c", shell], env=cli.environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_full_disk(cli: Cli) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kimiflow", "machine"],
            env=cli.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == FAILURE
    assert done.stderr == "error: the output: No space left on device\n"


def test_what_a_short_command_does_not_import(cli: Cli) -> None:
    cli.good("db", "upgrade")
    script = (
        "import sys; from kimiflow.cli import main; code = main(['status', '--json']); "
        "print(*[m for m in ('segno', 'starlette', 'uvicorn', 'alembic', 'kimiflow.sandbox', 'kimiflow.cli.live', "
        "'kimiflow.cli.demo', 'kimiflow.cli.login') if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=cli.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n\n"
