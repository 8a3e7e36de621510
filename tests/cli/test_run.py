from __future__ import annotations

import json
import signal
import time

from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import Cli, until
from tests.cli.test_token import sign_in


def test_until_settled(cli: Cli, sandbox: ThreadedSandbox) -> None:
    cli.good("login", "a", "b", "c", "--no-wait")
    codes = [code.user_code for code in sandbox.pending()]
    for code in codes[:2]:
        sandbox.approve(code)
    sandbox.deny(codes[2])
    done = cli("run", "--until-settled")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "Driving every account" in done.stderr
    assert sorted(each["state"] for each in cli.status().values()) == ["denied", "granted", "granted"]


def test_sigterm_lets_a_request_in_flight_land(cli: Cli, sandbox: ThreadedSandbox) -> None:
    cli.good("login", "work", "--no-wait")
    sandbox.approve(sandbox.pending()[0].user_code)
    sandbox.inject("late/1.5:poll")
    worker = cli.start("run")
    until(lambda: sandbox.counts().get("issued", 0) >= 1 or bool(sandbox.log("approve")))
    worker.wait_for("Driving every account")
    time.sleep(0.8)
    worker.signal(signal.SIGTERM)

    assert worker.end() == 0
    assert "Waiting for replies that may hold the only copy of a token, at most 18 s: work." in worker.stderr
    assert "Traceback" not in worker.stderr
    assert cli.status()["work"]["state"] == "granted"


def test_kill_9_loses_nothing(cli: Cli, sandbox: ThreadedSandbox) -> None:
    sign_in(cli, sandbox, "granted")
    cli.good("login", "a", "b", "--no-wait")
    before = cli.status()
    worker = cli.start("run", KIMIFLOW_HTTP_TIMEOUT="0.5")
    polls = len(sandbox.log("poll"))
    until(lambda: len(sandbox.log("poll")) > polls + 4)
    worker.signal(signal.SIGKILL)
    assert worker.end() == -signal.SIGKILL

    for name in ("a", "b"):
        sandbox.approve(before[name]["user_code"])
    assert cli("run", "--until-settled", KIMIFLOW_HTTP_TIMEOUT="0.5").returncode == 0
    after = cli.status()
    assert {name: after[name]["state"] for name in after} == {"a": "granted", "b": "granted", "granted": "granted"}
    assert {name: after[name]["user_code"] for name in after} == {name: before[name]["user_code"] for name in before}
    assert len(sandbox.log("device_authorization")) == 3
    assert not [entry for entry in sandbox.log("poll") if entry.too_fast]


def test_several_workers_share_the_work(cli: Cli, sandbox: ThreadedSandbox) -> None:
    names = [f"account{number}" for number in range(20)]
    cli.good("login", *names, "--no-wait")
    workers = [cli.start("run", "--until-settled") for _ in range(3)]
    for worker in workers:
        worker.wait_for("Driving every account")
    for code in sandbox.pending():
        sandbox.approve(code.user_code)
    assert [worker.end() for worker in workers] == [0, 0, 0]
    assert {each["state"] for each in cli.status().values()} == {"granted"}
    assert not [entry for entry in sandbox.log("poll") if entry.too_fast or entry.concurrent]


def test_logs_in_json_are_all_that_is_on_stderr(cli: Cli, sandbox: ThreadedSandbox) -> None:
    cli.good("login", "work", "--no-wait")
    sandbox.approve(sandbox.pending()[0].user_code)
    done = cli("run", "--until-settled", KIMIFLOW_LOG_FORMAT="json")
    assert done.returncode == 0
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert "access_token_issued" in events
