"""status, history, logout, machine, db, sandbox."""

from __future__ import annotations

import json
import re
import signal
import urllib.request

from kimiflow.cli.failures import FAILURE, PERSON_NEEDED, USAGE
from kimiflow.machine import to_dot, to_mermaid
from kimiflow.sandbox.fault_kinds import ENDPOINTS
from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import CTRL_C, Cli, until
from tests.cli.test_login import STATUS_KEYS
from tests.cli.test_token import sign_in


def test_an_empty_store_says_what_to_type(cli: Cli) -> None:
    done = cli("status")
    assert (done.returncode, done.stdout) == (0, "")
    assert "kimiflow login NAME" in done.stderr
    assert cli.json("status") == []


def test_status(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sign_in(cli, sandbox, "work")
    cli.good("login", "home", "--no-wait")
    rows = {line.split()[0]: line for line in cli.good("status").splitlines()}
    assert list(rows) == ["ACCOUNT", "home", "work"]
    assert re.search(r"pending +\w{4}-\w{4} \(14 min left\) +poll (now|in \d+ s)", rows["home"])
    assert re.search(r"granted +token 14 min left +refresh in \d+ min", rows["work"])

    told = cli.json("status", "work")
    assert [list(each) for each in told] == [STATUS_KEYS]
    assert cli("status", "nobody").returncode == PERSON_NEEDED


def test_status_watch_tells_changes(cli: Cli, sandbox: ThreadedSandbox) -> None:
    cli.good("login", "work", "--no-wait")
    watch = cli.start("status", "--watch", "--json")
    watch.wait_for("pending", "stdout")
    cli.good("logout", "work")
    until(lambda: len(watch.stdout.splitlines()) >= 2)
    watch.signal(CTRL_C)
    assert watch.end() == 0
    states = [json.loads(line)[0]["state"] for line in watch.stdout.splitlines()]
    assert states[0] == "pending"
    assert states[-1] is None
    assert watch.stderr == ""


def test_status_watch_in_a_pipe(cli: Cli) -> None:
    cli.good("login", "work", "--no-wait")
    watch = cli.start("status", "--watch")
    watch.wait_for("pending", "stdout")
    watch.signal(signal.SIGTERM)
    assert watch.end() == 0
    assert "\x1b" not in watch.stdout


def test_logout_forgets_secrets_and_keeps_the_name(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sign_in(cli, sandbox, "work")
    device_id = cli.json("token", "work")["device_id"]
    assert cli.good("logout", "work") == "work: signed out\n"
    gone = cli("token", "work")
    assert gone.returncode == PERSON_NEEDED
    assert "kimiflow login work" in gone.stderr
    assert "signed out" in cli.good("status")
    assert cli.json("history", "work")[-1]["event"] == "signed_out"

    sign_in(cli, sandbox, "work")
    assert cli.json("token", "work")["device_id"] == device_id
    assert cli.good("logout", "work", "--forget") == "work: forgotten\n"
    assert cli.json("status") == []
    assert cli("logout", "work").returncode == PERSON_NEEDED


def test_history(cli: Cli, sandbox: ThreadedSandbox) -> None:
    login = cli.start("login", "work")
    until(lambda: len(sandbox.log("poll")) > 4)
    sandbox.approve(sandbox.pending()[0].user_code)
    assert login.end() == 0
    told = cli.json("history", "work")
    assert all(list(each) == ["at", "from", "to", "event", "detail"] for each in told)
    assert [(told[0]["from"], told[0]["to"], told[0]["event"]) for _ in "1"] == [(None, "requested", "login_requested")]
    assert told[-1]["event"] == "access_token_issued"
    assert all(each["at"].endswith("Z") for each in told)

    shown = cli.good("history", "work")
    polls = len([each for each in told if each["event"] == "authorization_pending"])
    assert f"authorization_pending ×{polls}" in shown  # noqa: RUF001
    assert cli.good("history", "work", "--all").count("authorization_pending") == polls
    assert cli("history", "nobody").returncode == PERSON_NEEDED


def test_machine(cli: Cli) -> None:
    assert cli.good("machine") == to_mermaid() + "\n"
    assert cli.good("machine", "--format", "dot") == to_dot() + "\n"
    assert cli("machine", "--format", "png").returncode == USAGE


def test_db(cli: Cli) -> None:
    assert cli.good("db", "current") == "empty\n"
    nothing = cli("db", "check")
    assert nothing.returncode == FAILURE
    assert "kimiflow db upgrade" in nothing.stderr

    assert re.fullmatch(r"empty -> \w+\n", cli.good("db", "upgrade"))
    assert "nothing to do" in cli.good("db", "upgrade")
    assert "up to date" in cli.good("db", "check")
    assert re.fullmatch(r"\w+\n", cli.good("db", "current"))


def test_sandbox(cli: Cli) -> None:
    server = cli.start("sandbox", "--port", "0", "--approve", "auto", "--fault", "slow_down:poll=x1")
    server.wait_for("KIMIFLOW_OAUTH_HOST=", "stdout")
    url = server.stdout.splitlines()[0]
    assert f"export KIMIFLOW_OAUTH_HOST={url} KIMIFLOW_API_BASE={url}/coding " in server.stdout
    with urllib.request.urlopen(f"{url}/healthz") as reply:
        assert reply.status == 200
    server.signal(signal.SIGTERM)
    assert server.end() == 0


def test_sandbox_usage(cli: Cli, sandbox: ThreadedSandbox) -> None:
    for wrong in (["--approve", "perhaps"], ["--fault", "plague"], ["--port", "70000"], ["--interval", "-1"]):
        done = cli("sandbox", *wrong)
        assert done.returncode == USAGE, wrong
        assert done.stderr.startswith("error: ")
    taken = cli("sandbox", "--port", str(sandbox.port))
    assert taken.returncode == FAILURE
    assert "--port 0" in taken.stderr
    faults = cli.good("sandbox", "--list-faults")
    assert "slow_down" in faults
    assert all(endpoint in faults.splitlines()[0] for endpoint in ENDPOINTS)
