from __future__ import annotations

import json
import signal
import socket
import time

from kimiflow.cli.failures import PENDING, PERSON_NEEDED, UNREACHABLE, USAGE
from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import CTRL_C, Cli, until

STATUS_KEYS = [
    "account",
    "provider",
    "state",
    "user_code",
    "verification_uri",
    "verification_uri_complete",
    "code_expires_at",
    "interval",
    "token_expires_at",
    "next_attempt_at",
    "attempts",
    "error",
    "error_description",
    "updated_at",
    "needs_person",
]


def test_two_accounts_sign_in_and_the_results_are_on_stdout(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.start("login", "work", "personal")
    until(lambda: len(sandbox.pending()) == 2)
    codes = [code.user_code for code in sandbox.pending()]
    login.wait_for(codes[0])
    login.wait_for(codes[1])
    for code in codes:
        sandbox.approve(code)

    assert login.end() == 0
    assert sorted(line.split(";")[0] for line in login.stdout.splitlines()) == [
        "personal: signed in",
        "work: signed in",
    ]
    assert f"approve the code {codes[0]} at {sandbox.url}/device?user_code={codes[0]}" in login.stderr
    assert "\x1b" not in login.stdout + login.stderr


def test_where_no_link_holds_the_code_it_is_shown_beside_the_plain_one(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("missing/verification_uri_complete:device=x2")
    sandbox.inject("verification_url:device=x2")
    login = cli("login", "work", "--no-wait")
    (code,) = sandbox.pending()
    assert f"work: enter the code {code.user_code} at {sandbox.url}/device, within" in login.stderr

    terminal = cli.terminal("login", "home", "--no-wait", "--no-browser")
    terminal.end()
    (code,) = [each for each in sandbox.pending() if each.user_code != code.user_code]
    assert f"home: enter the code {code.user_code} at" in terminal.text
    assert f"{sandbox.url}/device\n" in terminal.text.replace("\r", "")


def test_signed_in_already_does_nothing_unless_forced(cli: Cli, sandbox: ThreadedSandbox) -> None:
    first = cli.start("login", "work")
    until(sandbox.pending)
    sandbox.approve(sandbox.pending()[0].user_code)
    assert first.end() == 0
    token = cli.good("token", "work")

    again = cli("login", "work")
    assert again.returncode == 0
    assert again.stdout == ""
    assert "work is already signed in" in again.stderr
    assert "kimiflow login --force work" in again.stderr

    forced = cli.start("login", "work", "--force")
    until(sandbox.pending)
    assert cli.good("token", "work") == token, "the old grant works until the new one arrives"
    sandbox.approve(sandbox.pending()[0].user_code)
    assert forced.end() == 0
    assert cli.good("token", "work") != token


def test_ctrl_c_leaves_the_flow_pending_and_the_same_code_is_picked_up(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.start("login", "work")
    login.wait_for("approve the code")
    code = cli.status()["work"]["user_code"]

    login.signal(CTRL_C)
    assert login.end() == PENDING
    assert "Left with work pending. Nothing is lost; pick up with: kimiflow login work" in login.stderr
    assert "Traceback" not in login.stderr

    again = cli("login", "work", "--no-wait")
    assert again.returncode == 0
    assert code in again.stderr
    assert len(sandbox.log("device_authorization")) == 1


def test_json_is_one_object_a_line_for_each_state_and_nothing_else(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.start("login", "work", "--json")
    login.wait_for('"pending"', "stdout")
    sandbox.approve(sandbox.pending()[0].user_code)
    assert login.end() == 0

    told = [json.loads(line) for line in login.stdout.splitlines()]
    assert all(list(each) == STATUS_KEYS for each in told)
    assert [each["state"] for each in told][-2:] == ["pending", "granted"]
    assert [each["state"] for each in told][:-2] in ([], ["requested"])
    assert told[-1]["token_expires_at"].endswith("Z")
    assert login.stderr == ""


def test_json_of_an_account_that_is_signed_in(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.start("login", "work")
    until(sandbox.pending)
    sandbox.approve(sandbox.pending()[0].user_code)
    login.end()
    told = [json.loads(line) for line in cli.good("login", "work", "--json").splitlines()]
    assert [each["state"] for each in told] == ["granted"]


def test_no_wait_returns_once_every_code_was_shown(cli: Cli, sandbox: ThreadedSandbox) -> None:
    done = cli("login", "a", "b", "c", "--no-wait")
    assert done.returncode == 0
    codes = [code.user_code for code in sandbox.pending()]
    assert len(codes) == 3
    assert all(code in done.stderr for code in codes)
    assert "kimiflow run" in done.stderr


def test_a_denied_account_outweighs_a_granted_one(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.start("login", "yes", "no")
    until(lambda: len(sandbox.pending()) == 2)
    login.wait_for("no: approve")
    login.wait_for("yes: approve")
    status = cli.status()
    sandbox.approve(status["yes"]["user_code"])
    sandbox.deny(status["no"]["user_code"])

    assert login.end() == PERSON_NEEDED
    assert login.stdout.startswith("yes: signed in")
    assert "error: the sign-in of no was denied" in login.stderr
    assert "kimiflow login no" in login.stderr


def test_time_is_up(cli: Cli) -> None:
    done = cli("login", "work", "--timeout", "1.5")
    assert done.returncode == PENDING
    assert "work is not approved yet" in done.stderr
    assert "kimiflow login work" in done.stderr


def test_a_code_that_runs_out(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("expires_in/1:device")
    done = cli("login", "work")
    assert done.returncode == PERSON_NEEDED
    assert "error: the sign-in of work has expired" in done.stderr


def test_a_server_that_is_not_there(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nowhere = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    done = cli("login", "work", "home", KIMIFLOW_OAUTH_HOST=nowhere)

    assert done.returncode == UNREACHABLE
    assert time.monotonic() - started < 20
    assert "could not be reached" in done.stderr
    assert "Nothing is lost; try again with: kimiflow login" in done.stderr
    assert cli.status()["work"]["state"] == "requested"


def test_a_server_that_comes_back_gets_the_flow_that_waited(cli: Cli, sandbox: ThreadedSandbox) -> None:
    assert cli("login", "work", KIMIFLOW_OAUTH_HOST="http://127.0.0.1:1").returncode == UNREACHABLE
    assert cli("login", "work", "--no-wait").returncode == 0
    assert cli.status()["work"]["state"] == "pending"


def test_usage(cli: Cli) -> None:
    for wrong in (["a b"], ["-x"], [], ["work", "--provider", "nobody"], ["work", "--timeout", "-1"]):
        done = cli("login", *wrong)
        assert done.returncode == USAGE, wrong
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) <= 2
        assert done.stdout == ""


def test_sigterm_is_like_ctrl_c(cli: Cli) -> None:
    login = cli.start("login", "work")
    login.wait_for("approve the code")
    login.signal(signal.SIGTERM)
    assert login.end() == PENDING
