"""``login --from`` and ``login --renew``."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kimiflow.cli.login_list import Entry, parse
from kimiflow.errors import UsageError
from kimiflow.provider import BUILT_IN
from tests.cli.processes import CTRL_C, until
from tests.formats.house import House

if TYPE_CHECKING:
    from kimiflow.sandbox.threads import ThreadedSandbox


def entries(text: str) -> list[tuple[str, str | None, str | None]]:
    return [(each.name, each.provider, each.proxy) for each in parse(text, "list", BUILT_IN)]


class TestTheList:
    def test_blanks_commas_and_comments(self) -> None:
        text = (
            "# the team\n\n"
            "ann\n"
            "bob kimi-global   # abroad\n"
            "cid\tkimi\thttp://proxy.test:3128\n"
            "dan, kimi-global, env:DAN_PROXY\n"
            "eve - socks5://proxy.test:1080\n"
            "fay,,http://proxy.test:1\n"
            "gus@example.com\n"
        )
        assert entries(text) == [
            ("ann", None, None),
            ("bob", "kimi-global", None),
            ("cid", "kimi", "http://proxy.test:3128"),
            ("dan", "kimi-global", "env:DAN_PROXY"),
            ("eve", None, "socks5://proxy.test:1080"),
            ("fay", None, "http://proxy.test:1"),
            ("gus@example.com", None, None),
        ]

    def test_the_names_of_columns_are_passed_over(self) -> None:
        assert entries("Name,Provider,Proxy\nann,kimi,\n") == [("ann", "kimi", None)]
        assert entries("name\n") == [("name", None, None)], "alone it may be one"

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("a/b", "'a/b' is not an account name"),
            ("team-*", "'team-*' is not an account name"),
            (",kimi", "'' is not an account name"),
            ("bob nobody", "'nobody' is not known"),
            ("bob kimi ftp://x", "'ftp://x'"),
            ("bob kimi http://x:1 more", "'more' is one field too many"),
            ("ann", "ann stands on line 1"),
        ],
    )
    def test_an_error_names_line_and_value(self, line: str, told: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse(f"ann\n# two\n{line}\n", "team.txt", BUILT_IN)
        assert caught.value.message.startswith("team.txt, line 3: ")
        assert told in caught.value.message

    def test_a_password_is_not_shown(self) -> None:
        with pytest.raises(UsageError) as caught:
            parse("ann kimi http://me:hunter2@proxy.test:1", "list", BUILT_IN)
        assert "hunter2" not in str(caught.value)
        assert "line 1" in caught.value.message

    @pytest.mark.parametrize("text", ["", "# nobody\n\n"])
    def test_a_list_of_nobody(self, text: str) -> None:
        with pytest.raises(UsageError, match="names no account"):
            parse(text, "list", BUILT_IN)

    def test_an_entry_knows_where_it_stands(self) -> None:
        assert parse("\n\nann", "list", BUILT_IN) == [Entry("list, line 3", "ann")]


class TestLoginFrom:
    def test_a_file(self, house: House, sandbox: ThreadedSandbox) -> None:
        path = house.write("team.txt", "\ufeffann\nbob kimi-global\ncid kimi env:CID_PROXY\n")
        done = house("login", "--from", path, "dan", "--no-wait", "--json")
        assert {json.loads(line)["account"] for line in done.out.splitlines()} == {
            "ann",
            "bob",
            "cid",
            "dan",
        }
        assert {name: each["provider"] for name, each in house.status().items()} == {
            "ann": "kimi",
            "bob": "kimi-global",
            "cid": "kimi",
            "dan": "kimi",
        }
        assert len(sandbox.pending()) == 3, "the one whose proxy is missing asks for none"
        assert (done.code, "CID_PROXY" in done.err) == (3, True)

    def test_options_fill_in_what_a_line_leaves_out(self, house: House) -> None:
        path = house.write("team.txt", "ann\nbob kimi\n")
        house.good("login", "--from", path, "--provider", "kimi-global", "--no-wait")
        assert {each["provider"] for each in house.status().values()} == {"kimi", "kimi-global"}

    def test_nothing_is_begun_where_one_line_is_wrong(self, house: House, sandbox: ThreadedSandbox) -> None:
        house.sign_in("old")
        for last, told in (("a/b", "is not an account name"), ("old kimi-global", "old belongs to the provider kimi")):
            path = house.write("team.txt", f"ann\nbob kimi-global\n{last}\n")
            done = house("login", "--from", path)
            assert done.code == 2
            assert f"{path}, line 3: " in done.err
            assert told in done.err
        assert list(house.status()) == ["old"]
        assert sandbox.pending() == []

    def test_stdin(self, house: House) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "kimiflow", "login", "--from", "-", "--no-wait"],
            input="ann\nbob\n",
            env=house.cli.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert list(house.status()) == ["ann", "bob"]

    def test_a_file_that_is_not_there(self, house: House) -> None:
        done = house("login", "--from", "nowhere.txt")
        assert (done.code, "nowhere.txt cannot be read" in done.err) == (2, True)

    def test_neither_names_nor_a_list(self, house: House) -> None:
        done = house("login")
        assert (done.code, "which accounts?" in done.err) == (2, True)


class TestLoginRenew:
    def test_another_code_when_one_runs_out(self, house: House, sandbox: ThreadedSandbox) -> None:
        sandbox.inject("expires_in/0.5:device")
        login = house.cli.start("login", "work", "--renew", "20")
        until(lambda: login.stderr.count("approve the code") >= 3)
        assert "work: the code ran out; asking for another one (2 of 20)" in login.stderr
        sandbox.clear_faults()

        def over() -> bool:
            for code in sandbox.pending():
                sandbox.approve(code.user_code)
            return login.process.poll() is not None

        until(over)
        assert login.end() == 0
        assert "work: signed in" in login.stdout

    def test_no_more_often_than_that(self, house: House, sandbox: ThreadedSandbox) -> None:
        sandbox.inject("expires_in/0.3:device")
        done = house("login", "a", "b", "--renew", "2")
        assert done.code == 3
        assert done.err.count("asking for another one") == 4
        assert len(sandbox.log("device_authorization")) == 6
        assert "the sign-in of a has expired" in done.err

    def test_never_unasked(self, house: House, sandbox: ThreadedSandbox) -> None:
        sandbox.inject("expires_in/0.3:device")
        assert house("login", "a").code == 3
        assert len(sandbox.log("device_authorization")) == 1

    def test_never_after_a_no(self, house: House, sandbox: ThreadedSandbox) -> None:
        login = house.cli.start("login", "work", "--renew", "5")
        until(sandbox.pending)
        sandbox.deny(sandbox.pending()[0].user_code)
        assert login.end() == 3
        assert "denied" in login.stderr
        assert len(sandbox.log("device_authorization")) == 1

    def test_only_while_it_runs(self, house: House, sandbox: ThreadedSandbox) -> None:
        sandbox.inject("expires_in/1:device")
        login = house.cli.start("login", "work", "--renew", "5")
        until(sandbox.pending)
        login.wait_for("approve the code")
        login.signal(CTRL_C)
        assert login.end() == 4
        house.good("run", "--until-settled")
        assert house.status()["work"]["state"] == "expired"
        assert len(sandbox.log("device_authorization")) == 1

    def test_the_time_that_it_waits_is_one(self, house: House, sandbox: ThreadedSandbox) -> None:
        sandbox.inject("expires_in/0.4:device")
        assert house("login", "work", "--renew", "50", "--timeout", "1.5").code in {3, 4}
        assert 2 <= len(sandbox.log("device_authorization")) <= 6

    def test_without_waiting_there_is_nothing_to_renew(self, house: House) -> None:
        assert house("login", "work", "--renew", "1", "--no-wait").code == 2
