"""What a shell is told when somebody presses Tab, in the ways in which bash, zsh and fish ask."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.processes import Cli

SHELLS = ["bash", "zsh", "fish"]


def asked(cli: Cli, shell: str, line: str, **environment: str) -> list[str]:
    """What is offered where the cursor is at the end of ``line``."""
    words = line.split(" ")
    how = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    done = cli(**(how[shell] | {"_KIMIFLOW_COMPLETE": f"complete_{shell}"} | environment))
    assert done.stderr == ""
    if shell == "zsh":
        return re.findall(r'^(?:_arguments .*\(\()?"([^"]+)"', done.stdout, re.MULTILINE)
    return [each.partition("\t")[0] for each in done.stdout.splitlines() if each]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell(shell: str, cli: Cli) -> None:
    cli.good("login", "team-1", "team-2", "work", "--no-wait")
    script = cli.good(_KIMIFLOW_COMPLETE=f"source_{shell}")
    assert f"_KIMIFLOW_COMPLETE=complete_{shell}" in script
    assert asked(cli, shell, "kimiflow exp") == ["export"]
    assert asked(cli, shell, "kimiflow key r") == ["rotate"]
    assert asked(cli, shell, "kimiflow export work --ou") == ["--output"]
    assert asked(cli, shell, "kimiflow token te") == ["team-1", "team-2"]
    assert asked(cli, shell, "kimiflow refresh team-1 te") == ["team-2"], "not what was typed already"
    assert asked(cli, shell, "kimiflow export work --format kimi-") == ["kimi-cli", "kimi-code"]
    assert asked(cli, shell, "kimiflow status --state granted,pe") == ["granted,pending"]
    assert asked(cli, shell, "kimiflow status --sort e") == ["expires"]


def test_names_of_nobody_make_no_noise_and_no_files(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "new"
    assert asked(cli, "bash", "kimiflow token ", KIMIFLOW_HOME=str(home)) == []
    assert not home.exists()
    home.mkdir()
    (home / "kimiflow.db").write_text("no database")
    (home / "config.toml").write_text("no = toml =")
    assert asked(cli, "bash", "kimiflow token ", KIMIFLOW_HOME=str(home)) == []
    (home / "config.toml").unlink()
    assert asked(cli, "bash", "kimiflow token ", KIMIFLOW_HOME=str(home)) == []
    nowhere = {"KIMIFLOW_DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    assert asked(cli, "bash", "kimiflow token ", KIMIFLOW_HOME=str(home), **nowhere) == []
    assert [each.name for each in home.iterdir()] == ["kimiflow.db"]
