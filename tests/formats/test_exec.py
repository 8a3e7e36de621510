from __future__ import annotations

import json
import signal
import sys

import pytest

from kimiflow.cli.exec import parse_variables
from kimiflow.errors import UsageError
from tests.cli.processes import CTRL_C
from tests.formats.house import House

SHOW = "import json, os, sys; print(json.dumps(dict(os.environ))); print('err', file=sys.stderr); sys.exit(42)"


@pytest.fixture
def work(house: House) -> House:
    house.sign_in("work")
    return house


def test_the_usual_variables_and_the_exit_code(work: House) -> None:
    done = work.cli("exec", "work", "--", sys.executable, "-c", SHOW)
    assert (done.returncode, done.stderr) == (42, "err\n"), "all that is said is the command's"
    seen = json.loads(done.stdout)
    assert work.sandbox.is_valid(seen["KIMI_API_KEY"])
    assert seen["OPENAI_API_KEY"] == seen["KIMI_API_KEY"]
    assert seen["OPENAI_BASE_URL"] == "https://api.kimi.com/coding/v1"
    assert not [secret for secret in work.secrets() if secret in str(seen)]


def test_kimiflows_own_settings_are_not_the_commands(work: House) -> None:
    """The key opens every account, the database's URL may hold a password."""
    mine = {"KIMIFLOW_LOG_LEVEL": "error", "KIMI_API_KEY": "old", "MY_OWN": "stays"}
    done = work.cli("exec", "work", "--", sys.executable, "-c", SHOW, **mine)
    seen = json.loads(done.stdout)
    assert [name for name in seen if name.upper().startswith("KIMIFLOW")] == []
    assert seen["MY_OWN"] == "stays"
    assert seen["KIMI_API_KEY"] != "old"


def test_names_of_ones_own(work: House, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def becoming(_: object, environment: dict[str, str]) -> int:
        seen.update(environment)
        return 0

    monkeypatch.setattr("kimiflow.cli.exec._become", becoming)
    work.good("exec", "work", "--env", "MY_TOKEN=token", "--env", "MY_URL=base", "--env", "MY_API=api", "--", "true")
    assert work.sandbox.is_valid(seen["MY_TOKEN"])
    assert (seen["MY_URL"], seen["MY_API"]) == ("https://api.kimi.com/coding/v1", "https://api.kimi.com/coding")
    assert "OPENAI_API_KEY" not in seen
    for wrong in ("X", "X=y", "=token", "1X=token"):
        with pytest.raises(UsageError):
            parse_variables([wrong])


@pytest.mark.parametrize("number", [signal.SIGTERM, CTRL_C])
def test_signals_pass_through(work: House, number: int) -> None:
    process = work.cli.start("exec", "work", "--", "sh", "-c", "echo $$; exec sleep 30")
    process.wait_for("\n", "stdout")
    assert int(process.stdout) == process.process.pid, "it is the same process"
    process.signal(number)
    assert process.end() == -number


def test_what_python_ignores_is_not_ignored_there(work: House) -> None:
    done = work.cli("exec", "work", "--", "sh", "-c", 'kill -s PIPE $$; echo "still here"')
    assert (done.returncode, done.stdout) == (-signal.SIGPIPE, "")


def test_a_command_that_is_not_there(work: House) -> None:
    done = work("exec", "work", "--", "no-such-command-here", "x")
    assert (done.code, done.out) == (127, "")
    assert done.err == "error: no-such-command-here: there is no such command\n"
    (work.root / "plain").write_text("not a program")
    done = work("exec", "work", "--", work.root / "plain")
    assert (done.code, "cannot be executed" in done.err) == (126, True)
    script = work.write("script", "#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert work.cli("exec", "work", "--", str(script)).returncode == 127


def test_nobody_is_signed_in(house: House) -> None:
    done = house("exec", "nobody", "--", "true")
    assert (done.code, "kimiflow login nobody" in done.err) == (3, True)


def test_an_account_without_an_api(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    home = house.root.parent / "home"
    (home / "config.toml").write_text(
        f'[providers.plain]\ndevice_authorization_endpoint = "{house.sandbox.url}/api/oauth/device_authorization"\n'
        f'token_endpoint = "{house.sandbox.url}/api/oauth/token"\n'
        'client_id = "17e5f671-d194-4dfb-9706-5516cb48c098"\n'
    )
    house.good("login", "other", "--provider", "plain", "--no-wait")
    house.sandbox.approve(house.sandbox.pending()[0].user_code)
    house.good("run", "--until-settled")
    done = house("exec", "other", "--", "true")
    assert (done.code, "has no api_base" in done.err) == (2, True)
    monkeypatch.setattr("kimiflow.cli.exec._become", lambda *_: 0)
    assert house("exec", "other", "--env", "T=token", "--", "true").code == 0
