"""What a person sees: the same commands on a terminal."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from kimiflow.cli.failures import PENDING
from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import CTRL_C, Cli, until
from tests.cli.test_token import sign_in

COLOURS = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-9]|4[0-9]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


def test_login_shows_link_code_qr_and_a_countdown(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.terminal("login", "work", "--no-browser")
    until(sandbox.pending)
    code = sandbox.pending()[0].user_code
    login.wait_for(f"work: approve the code {code} at")
    login.wait_for(f"{sandbox.url}/device?user_code={code}")
    login.wait_for("█▄▄▄▄▄▄▄█")
    login.wait_for("14:5")
    assert COLOURS.search(login.raw)

    sandbox.approve(code)
    assert login.end() == 0
    assert "work: signed in; token good for" in login.text


def test_no_color(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.terminal("login", "work", "--no-browser", NO_COLOR="1")
    login.wait_for("Ctrl-C leaves, and loses nothing.")
    login.wait_for("14:5")
    sandbox.deny(sandbox.pending()[0].user_code)
    login.end()
    assert "error: the sign-in of work was denied" in login.text
    status = cli.terminal("status", NO_COLOR="1")
    status.end()
    assert "denied" in status.text
    assert not COLOURS.search(login.raw + status.raw)


def test_a_narrow_terminal_has_the_code_but_no_qr_code_that_would_break(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.terminal("login", "work", "--no-browser", columns=30)
    until(sandbox.pending)
    code = sandbox.pending()[0].user_code
    login.wait_for(code)
    login.wait_for("14:5")
    assert f"{sandbox.url}/device?user_code={code}" in login.text, "a link is never cut in two"
    assert "█" not in login.text
    login.signal(CTRL_C)
    assert login.end() == PENDING
    assert "pick up with: kimiflow login work" in login.text


def test_many_accounts_fit_the_screen(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.terminal("login", *(f"account{n:02}" for n in range(30)), "--no-browser", rows=20)
    login.wait_for("… and 15 more")
    login.wait_for("0 of 30 settled")
    until(lambda: len(sandbox.pending()) == 30)
    assert "█" not in login.text
    for code in sandbox.pending():
        sandbox.approve(code.user_code)
    assert login.end() == 0


def test_status_in_a_wide_and_in_a_narrow_terminal(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sign_in(cli, sandbox, "work")
    wide = cli.terminal("status", columns=100)
    wide.end()
    assert re.search(r"ACCOUNT +STATE +HOLDS +NEXT STEP", wide.text)
    narrow = cli.terminal("status", columns=40)
    narrow.end()
    lines = [line.rstrip() for line in narrow.text.splitlines()]
    assert lines[0] == "work  granted"
    assert all(len(line) <= 40 for line in lines)
    history = cli.terminal("history", "work", columns=60)
    history.end()
    assert "requested → pending" in history.text


def test_status_watch_counts_down_until_ctrl_c(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sign_in(cli, sandbox, "work")
    watch = cli.terminal("status", "--watch")
    watch.wait_for("Ctrl-C ends the watch.")
    watch.signal(CTRL_C)
    assert watch.end() == 0


def test_a_browser_opens_for_one_account_only(cli: Cli, sandbox: ThreadedSandbox, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    seen = tmp_path / "environment"
    browser.write_text(f'#!/bin/sh\nenv > {seen}\necho "$1" >> {opened}\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)

    assert cli("login", "pipe", "--no-wait", BROWSER=f"{browser} %s").returncode == 0
    for arguments in (["a", "b"], ["c", "--no-browser"]):
        several = cli.terminal("login", *arguments, BROWSER=f"{browser} %s")
        several.wait_for("Ctrl-C leaves, and loses nothing.")
        several.signal(CTRL_C)
        several.end()
    assert not opened.exists()

    one = cli.terminal("login", "one", BROWSER=f"{browser} %s")
    until(lambda: opened.exists() and opened.read_text())
    one.signal(CTRL_C)
    one.end()
    assert opened.read_text().splitlines() == [cli.status()["one"]["verification_uri_complete"]]
    assert "KIMIFLOW_" not in seen.read_text(), "a browser has no use for kimiflow's key"


def test_markup_from_a_server_is_only_text(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("message/500:device")
    login = cli.terminal("login", "work", "--no-browser")
    assert login.end() == 1
    assert "Nothing is lost; try again with: kimiflow login work" in login.text
