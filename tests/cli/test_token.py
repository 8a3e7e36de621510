from __future__ import annotations

import time

import pytest

from kimiflow.cli.failures import FAILURE, PENDING, PERSON_NEEDED, UNREACHABLE, USAGE
from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import Cli, until


@pytest.fixture
def granted(cli: Cli, sandbox: ThreadedSandbox) -> Cli:
    return sign_in(cli, sandbox, "work")


def sign_in(cli: Cli, sandbox: ThreadedSandbox, *names: str) -> Cli:
    login = cli.start("login", *names)
    until(lambda: len(sandbox.pending()) == len(names))
    for code in sandbox.pending():
        sandbox.approve(code.user_code)
    assert login.end() == 0, login.stderr
    return cli


def test_the_token_and_nothing_else(granted: Cli, sandbox: ThreadedSandbox) -> None:
    done = granted("token", "work")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert sandbox.is_valid(done.stdout.strip())


def test_json(granted: Cli) -> None:
    told = granted.json("token", "work")
    assert list(told) == ["account", "access_token", "token_type", "expires_at", "scope", "device_id"]
    assert told["account"] == "work"
    assert told["token_type"] == "Bearer"


def test_ten_processes_cause_one_refresh(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("expires_in/2:poll=x1")
    sign_in(cli, sandbox, "work")
    time.sleep(1.2)
    asking = [cli.start("token", "work") for _ in range(10)]
    assert [process.end(60) for process in asking] == [0] * 10, [process.stderr for process in asking]
    assert len({process.stdout for process in asking}) == 1
    assert len(sandbox.log("refresh")) == 1
    assert sandbox.is_valid(asking[0].stdout.strip())


def test_who_is_not_signed_in_is_told_what_to_type(cli: Cli) -> None:
    unknown = cli("token", "nobody")
    assert unknown.returncode == PERSON_NEEDED
    assert unknown.stdout == ""
    assert unknown.stderr == "error: there is no account nobody\nSign in with: kimiflow login nobody\n"

    cli.good("login", "work", "--no-wait")
    pending = cli("token", "work")
    assert pending.returncode == PENDING
    assert cli.status()["work"]["user_code"] in pending.stderr


def test_refresh(granted: Cli, sandbox: ThreadedSandbox) -> None:
    before = granted.good("token", "work")
    assert granted.good("refresh", "work").startswith("work: refreshed; token good for ")
    assert granted.good("token", "work") != before
    assert len(sandbox.log("refresh")) == 1


def test_refresh_all_is_for_those_that_hold_tokens(cli: Cli, sandbox: ThreadedSandbox) -> None:
    nobody = cli("refresh", "--all")
    assert nobody.returncode == 0
    assert "No account holds tokens" in nobody.stderr

    sign_in(cli, sandbox, "a", "b")
    cli.good("login", "c", "--no-wait")
    lines = cli.good("refresh", "--all").splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["a", "b"]
    assert len(sandbox.log("refresh")) == 2


def test_refresh_tells_about_each_and_ends_with_the_worst(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sign_in(cli, sandbox, "a")
    cli.good("login", "b", "--no-wait")
    done = cli("refresh", "a", "b", "nobody")
    assert done.returncode == PERSON_NEEDED
    assert done.stdout.startswith("a: refreshed")
    assert "error: b waits for somebody to approve it" in done.stderr
    assert "error: there is no account nobody" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--all", "work"]])
def test_refresh_needs_names_or_all(cli: Cli, arguments: list[str]) -> None:
    done = cli("refresh", *arguments)
    assert done.returncode == USAGE
    assert "kimiflow refresh --all" in done.stderr


def test_a_grant_that_was_revoked(granted: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.revoke(granted.json("token", "work")["device_id"])
    done = granted("refresh", "work")
    assert done.returncode == PERSON_NEEDED
    assert "kimiflow login work" in done.stderr


@pytest.mark.parametrize("fault", ["404:refresh", "410:refresh", "html/401:refresh", "empty/403:refresh"])
def test_a_gateway_that_refuses_costs_no_grant(granted: Cli, sandbox: ThreadedSandbox, fault: str) -> None:
    sandbox.inject(fault)
    done = granted("refresh", "work")
    assert done.returncode == FAILURE
    assert "Nothing is lost; it is tried again by: kimiflow run, or: kimiflow refresh work" in done.stderr
    assert granted("token", "work").returncode == 0, "the present token still works"
    sandbox.clear_faults()
    assert granted.good("refresh", "work").startswith("work: refreshed")


def test_refusals_beyond_the_tokens_end_ask_for_a_person_and_go_on(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("expires_in/2:poll=x1")
    sign_in(cli, sandbox, "work")
    sandbox.inject("404:refresh")
    until(lambda: cli("token", "work").returncode == PERSON_NEEDED)
    done = cli("token", "work")
    assert "error: the server does not refresh work, whose token has ended (http_404" in done.stderr
    assert "kimiflow login work" in done.stderr
    status = cli.status()["work"]
    assert (status["state"], status["needs_person"]) == ("refreshing", True)
    told = cli("status")
    assert "needs a person; refresh" in told.stdout
    assert "kimiflow login work" in told.stderr

    # Who signs in anew need not force it; and the old grant is kept until the new one is there.
    assert cli("login", "work", "--no-wait").returncode == 0
    assert cli.status()["work"]["state"] == "pending"
    sandbox.clear_faults()
    assert cli.good("refresh", "work").startswith("work: refreshed")


def test_a_client_that_the_server_does_not_know_is_a_matter_of_settings(granted: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("invalid_client:refresh")
    done = granted("refresh", "work")
    assert done.returncode == PERSON_NEEDED
    assert "error: work is misconfigured (invalid_client" in done.stderr
    assert "client_id" in done.stderr
    assert granted.status()["work"]["needs_person"]
    assert granted("token", "work").returncode == 0, "the present token still works"
    sandbox.clear_faults()
    assert granted.good("refresh", "work").startswith("work: refreshed")
    assert not granted.status()["work"]["needs_person"]


def test_a_person_does_not_wait_for_what_the_server_asked_for(granted: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("503/86400:refresh=x1")
    assert granted("refresh", "work").returncode == FAILURE
    assert granted.good("refresh", "work").startswith("work: refreshed")


def test_a_reply_that_could_not_be_read_is_not_said_to_cost_nothing(granted: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("invalid_json:refresh=x1")
    done = granted("refresh", "work")
    assert done.returncode == FAILURE
    assert "Nothing is lost" not in done.stderr
    assert "may have held new tokens" in done.stderr


def test_a_token_without_an_end(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.inject("missing/expires_in:poll=x1")
    sandbox.inject("missing/refresh_token:poll=x1")
    sign_in(cli, sandbox, "work")
    token = cli.json("token", "work")
    assert token["expires_at"] is None
    assert sandbox.is_valid(token["access_token"])
    assert cli.good("token", "work").strip() == token["access_token"]
    assert "token without an end" in cli("status").stdout
    done = cli("refresh", "work")
    assert done.returncode == PERSON_NEEDED
    assert "no refresh token" in done.stderr
    assert cli("refresh", "--all").returncode == 0
    assert cli.json("token", "work") == token, "none of that has cost it"


def test_a_server_that_is_away(granted: Cli, sandbox: ThreadedSandbox) -> None:
    sandbox.__exit__(None, None, None)
    done = granted("refresh", "work")
    assert done.returncode == UNREACHABLE
    assert "could not be reached" in done.stderr
    assert granted("token", "work").returncode == 0, "the present token still works"


def test_a_wrong_key_is_said_and_harms_nothing(granted: Cli) -> None:
    wrong = granted("token", "work", KIMIFLOW_KEY="AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    assert wrong.returncode == FAILURE
    assert wrong.stdout == ""
    assert "KIMIFLOW_KEY" in wrong.stderr
    assert len(wrong.stderr.splitlines()) <= 2
    assert granted("token", "work").returncode == 0


def test_no_secret_is_in_what_a_command_says_of_itself(granted: Cli, sandbox: ThreadedSandbox) -> None:
    granted.good("refresh", "work")
    secrets = {
        secret
        for entry in sandbox.log()
        for secret in (entry.device_code, entry.refresh_token, entry.issued_access_token, entry.issued_refresh_token)
        if secret
    }
    assert len(secrets) >= 4
    talk = "".join(
        done.stdout + done.stderr
        for done in (
            granted("status", "--json", KIMIFLOW_LOG_LEVEL="debug"),
            granted("history", "work", "--json", KIMIFLOW_LOG_LEVEL="debug"),
            granted("refresh", "work", KIMIFLOW_LOG_LEVEL="debug"),
        )
    )
    assert not [secret for secret in secrets if secret in talk]
