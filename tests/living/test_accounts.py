"""disable, enable, rename, label; globs; and what ``status`` shows of many."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from kimiflow import KimiFlow, SignInNeeded, State, UnknownAccount, UsageError
from kimiflow.accounts import valid_label
from kimiflow.cli.names import matching
from kimiflow.cli.selection import Selection, Sort, parse_states
from kimiflow.settings import load_settings
from kimiflow.status import Status
from tests.formats.house import House

if TYPE_CHECKING:
    from kimiflow.sandbox.threads import ThreadedSandbox


class TestDisabled:
    def test_it_is_kept_fresh_and_served_by_name(self, house: House) -> None:
        house.sign_in("work", "home")
        assert house.good("disable", "work").out == "work: disabled\n"
        table = house.good("status").out
        assert "granted, disabled" in next(line for line in table.splitlines() if line.startswith("work"))
        assert table.count("disabled") == 1
        assert house.good("refresh", "work").code == 0
        assert house.good("token", "work").out
        assert house.status()["work"]["state"] == "granted"
        assert house.good("enable", "work").out == "work: enabled\n"
        assert "disabled" not in house.good("status").out

    def test_no_pool_hands_it_out(self, house: House, sandbox: ThreadedSandbox) -> None:
        house.sign_in("a", "b")
        asyncio.run(self.served(sandbox))

    async def served(self, sandbox: ThreadedSandbox) -> None:
        async with KimiFlow.open(load_settings()) as flow:
            pool = flow.pool(["a", "b"], origins=[sandbox.url])
            async with httpx.AsyncClient(auth=pool, base_url=sandbox.url) as client:
                await flow.accounts.disable(["a"])
                for _ in range(4):
                    assert (await client.get("/coding/v1/me")).status_code == 200
                (b,) = [s.account.device_id for s in await flow._store.snapshots(["b"])]
                assert {entry.bearer for entry in sandbox.log() if entry.bearer} == {b}
                await flow.accounts.disable(["b"])
                with pytest.raises(Exception, match="a is disabled; b is disabled"):
                    await client.get("/coding/v1/me")
                await flow.accounts.enable(["a", "b"])
                assert (await client.get("/coding/v1/me")).status_code == 200


class TestNames:
    def test_a_new_name_keeps_everything(self, house: House) -> None:
        house.sign_in("work")
        token = house.good("token", "work").out
        assert house.good("rename", "work", "office").out == "work: now office\n"
        assert house.good("token", "office").out == token
        assert house("token", "work").code == 3
        assert len(house.good("history", "office", "--json").json) > 2
        house.good("refresh", "office")

    def test_a_name_that_cannot_be(self, house: House) -> None:
        house.sign_in("work", "home")
        taken = house("rename", "work", "home")
        assert (taken.code, "there is an account home already" in taken.err) == (2, True)
        assert house("rename", "work", "a b").code == 2
        assert house("rename", "nobody", "x").code == 3
        assert house.good("rename", "work", "work").code == 0

    @pytest.mark.parametrize(
        ("patterns", "found"),
        [
            (["b", "a", "b"], ["b", "a"]),
            (["team-*"], ["team-1", "team-2"]),
            (["team-2", "team-*", "nobody"], ["team-2", "team-1", "nobody"]),
            (["*-?", "solo"], ["team-1", "team-2", "solo"]),
            (["team-[2-9]"], ["team-2"]),
        ],
    )
    def test_globs(self, patterns: list[str], found: list[str]) -> None:
        assert matching(patterns, ["team-2", "solo", "team-1"]) == found

    def test_upper_and_lower_case_are_two_things(self) -> None:
        with pytest.raises(UnknownAccount, match=r"unknown account: no name matches 'Team-\*'"):
            matching(["Team-*"], ["team-1"])

    def test_every_command_for_accounts_that_exist_takes_them(self, house: House) -> None:
        house.sign_in("team-1", "team-2", "solo")
        both = ["team-1", "team-2"]
        for command, after in (("disable", ""), ("enable", ""), ("refresh", ""), ("label", "note")):
            out = house.good(command, "team-*", *filter(None, [after])).out
            assert sorted(line.partition(":")[0] for line in out.splitlines()) == both, command
        assert [each["account"] for each in house.good("status", "team-*", "--json").json] == both
        folder = house.root / "out"
        house.good("export", "team-*", "--output", f"{folder}/")
        assert len(list(folder.iterdir())) == 2
        assert house.good("logout", "team-*").out == "team-1: signed out\nteam-2: signed out\n"
        assert house.status()["solo"]["state"] == "granted"
        for command in ("disable", "enable", "refresh", "label", "status", "logout"):
            done = house(command, "x-*")
            assert (done.code, "unknown account" in done.err, done.out) == (3, True, ""), command

    def test_new_accounts_are_not_globs(self, house: House) -> None:
        assert house("login", "team-*").code == 2
        assert house("token", "team-*").code == 2


class TestLabels:
    def test_they_are_shown_and_taken_away(self, house: House) -> None:
        house.sign_in("work", "home")
        assert "LABEL" not in house.good("status").out
        assert house.good("label", "work", "  Ann, until März ").out == "work: Ann, until März\n"
        assert house.good("label", "work", "Bob").out == "work: Bob (was: Ann, until März)\n"
        rows = house.good("status").out.splitlines()
        assert [row.split("  ")[-1].strip() for row in rows] == ["LABEL", "-", "Bob"]
        assert house.good("label", "work").out == "work: no label (was: Bob)\n"
        assert "LABEL" not in house.good("status").out

    @pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "x" * 201, "a\u202eb"])
    def test_no_label_plays_tricks_with_the_terminal(self, text: str) -> None:
        with pytest.raises(UsageError, match="one line"):
            valid_label(text)

    def test_blanks_are_no_label(self) -> None:
        assert (valid_label("  "), valid_label(" a b ")) == (None, "a b")

    def test_an_unknown_account(self, house: House) -> None:
        assert house("label", "nobody", "x").code == 3


class TestStatus:
    def test_json_keeps_its_keys_unless_more_is_asked_for(self, house: House) -> None:
        house.sign_in("work")
        house.good("label", "work", "Ann")
        house.good("disable", "work")
        (short,) = house.good("status", "--json").json
        (long,) = house.good("status", "--json", "--long").json
        assert long == short | {"disabled": True, "label": "Ann"}
        assert not {"disabled", "label"} & short.keys()

    def test_only_some(self, house: House) -> None:
        house.sign_in("a", "b")
        house.good("login", "c", "--no-wait")
        house.good("logout", "b")
        house.good("label", "a", "Team Red")

        def shown(*arguments: str) -> list[str]:
            return [each["account"] for each in house.good("status", "--json", *arguments).json]

        assert shown("--state", "granted") == ["a"]
        assert shown("--state", "granted, pending,slow_down") == ["a", "c"]
        assert shown("--state", "signed-out") == ["b"]
        assert shown("--label", "team*") == ["a"]
        assert shown("b", "c", "--state", "granted") == []
        assert shown("--sort", "expires") == ["a", "c", "b"] or shown("--sort", "expires") == ["c", "a", "b"]
        assert shown("--sort", "state") == ["c", "a", "b"]
        nobody = house.good("status", "--state", "denied")
        assert (nobody.out, "kimiflow status" in nobody.err) == ("", True)
        wrong = house("status", "--state", "grnted")
        assert (wrong.code, "'grnted' is not a state" in wrong.err, "slow_down" in wrong.err) == (2, True, True)
        assert house("status", "--workers", "--state", "granted").code == 2

    def test_a_label_in_a_narrow_terminal(self, house: House) -> None:
        house.sign_in("work")
        house.good("label", "work", "Ann")
        for columns in (50, 120):
            screen = house.cli.terminal("status", columns=columns)
            assert screen.end() == 0
            assert "Ann" in screen.text


def status(account: str, state: State | None, **changes: float | str | None) -> Status:
    values = dict.fromkeys(Status.__slots__) | {"provider": "kimi", "attempts": 0, "updated_at": 0.0}
    return Status(**(values | {"account": account, "state": state} | changes))  # type: ignore[arg-type]


def test_sorting() -> None:
    found = [
        status("e", State.EXPIRED, updated_at=9.0, code_expires_at=1.0),
        status("g", State.GRANTED, updated_at=7.0, token_expires_at=50.0, code_expires_at=2.0),
        status("n", None, updated_at=8.0),
        status("p", State.PENDING, updated_at=6.0, token_expires_at=90.0, code_expires_at=40.0),
    ]
    names = {by: "".join(each.account for each in Selection(sort=by).of(found)) for by in Sort}
    assert names == {Sort.name: "egnp", Sort.state: "pgen", Sort.expires: "pgen", Sort.updated: "engp"}


def test_states_as_they_are_typed() -> None:
    assert parse_states(None) == parse_states(" , ") == frozenset()
    assert parse_states("Slow-Down,signed_out") == {State.SLOW_DOWN, None}


def test_in_code(house: House) -> None:
    house.sign_in("a", "b")
    asyncio.run(changed())
    assert house.good("status", "--json", "--long").json[0]["disabled"]


async def changed() -> None:
    async with KimiFlow.open(load_settings()) as flow:
        await flow.accounts.label(["a"], "x")
        await flow.accounts.rename("a", "c")
        found = {each.account: each for each in await flow.status()}
        assert (found["c"].label, found["c"].disabled) == ("x", False)
        with pytest.raises(UnknownAccount):
            await flow.accounts.disable(["b", "a"])
        assert not (await flow.status(["b"]))[0].disabled, "nothing was done"
        await flow.accounts.disable(["b"])
        assert (await flow.token("b")).access_token
        with pytest.raises(SignInNeeded, match="is disabled"):
            await flow._api.token("b")
