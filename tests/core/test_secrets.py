"""No secret is ever shown: not by ``repr``, ``str`` or ``format``, not in a log line, not in an exception's text."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import pickle
import traceback
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from kimiflow import events, logs, wire
from kimiflow.model import Account, AccountTransition, Authorization, Sealed, State, Transition
from kimiflow.pacing import Pacing
from kimiflow.provider import Provider
from kimiflow.scheduling.breaker import Breaker
from kimiflow.secret import Secret
from kimiflow.status import Status, Token
from kimiflow.stores.base import Amendment, Beginning, Claim, Holding, Lease, Snapshot, Step, WorkerReport
from kimiflow.vault import Vault
from kimiflow.wire import Identity, Reply, TokenRequest

from .samples import NOW, PROVIDER, account, authorization_in, issued, quick, recorded, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HUNTER = "hunter2-the-secret"


def sealed_authorization() -> Authorization[Sealed]:
    return Vault(bytes(32)).seal_authorization(secret_authorization())


def secret_authorization() -> Authorization[Secret]:
    secret = Secret(HUNTER)
    return authorization_in(State.GRANTED, device_code=secret, access_token=secret, refresh_token=secret)


def claim() -> Claim:
    return Claim(account(), sealed_authorization(), "worker", 1, interrupted=False)


BEGUN = Transition(NOW, None, State.REQUESTED, "login_requested")
ISSUED = issued(device_code=Secret(HUNTER))
TOKENS = tokens(access_token=Secret(HUNTER), refresh_token=Secret(HUNTER))

HOLDERS = {
    type(each): each
    for each in (
        secret_authorization(),
        ISSUED,
        ISSUED.device_authorization,
        TOKENS,
        TOKENS.tokens,
        wire.refresh_request(PROVIDER, Secret(HUNTER)),
        Reply(200, json.dumps({"access_token": HUNTER}).encode()),
        Token("work", HUNTER, "Bearer", NOW, None, "device-1"),
        claim(),
        Step(claim(), sealed_authorization(), (BEGUN,)),
        Beginning(sealed_authorization(), BEGUN),
        Snapshot(account(), (sealed_authorization(),)),
        Amendment(sealed_authorization(), sealed_authorization()),
    )
}
"""One of each type that holds a secret, open or sealed, or holds something that does."""

SECRETLESS: set[type[Any]] = {
    AccountTransition,
    Account, Transition, Pacing, Provider, Identity, Breaker, Status, Lease, Holding, WorkerReport,
    events.LoginRequested, events.AuthorizationPending, events.SlowDown, events.AccessDenied, events.ExpiredToken,
    events.RefreshDue, events.InvalidGrant, events.AttemptFailed,
}  # fmt: skip
"""Those that have nothing to hide."""

CORE = [
    "advance", "events", "machine", "model", "pacing", "provider", "scheduling.breaker", "secret", "status",
    "stores.base", "vault", "wire",
]  # fmt: skip


def shown(thing: object) -> Iterator[str]:
    yield repr(thing)
    yield str(thing)
    yield f"{thing}"
    yield f"{thing!a}"
    yield f"{[thing]} { ({'k': thing}) }"
    yield "%s %r" % (thing, thing)  # noqa: UP031
    yield "".join(traceback.format_exception(ValueError(thing)))


class TestASecret:
    @pytest.mark.parametrize("text", list(shown(Secret(HUNTER))))
    def test_shows_a_mask(self, text: str) -> None:
        assert HUNTER not in text
        assert "***" in text

    @pytest.mark.parametrize("spec", ["", "s", ">20", "^5", ".1", ".3s"])
    def test_in_any_format(self, spec: str) -> None:
        assert format(Secret(HUNTER), spec) == format("***", spec)

    def test_is_given_away_only_when_asked(self) -> None:
        assert Secret(HUNTER).reveal() == HUNTER

    @pytest.mark.parametrize("carry", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda f: f.__name__)
    def test_is_not_carried_off(self, carry: Any) -> None:
        with pytest.raises(TypeError, match="not to be pickled"):
            carry(Secret(HUNTER))
        with pytest.raises(TypeError, match="not to be pickled"):
            carry([Secret(HUNTER)]) if carry is not copy.copy else carry(Secret(HUNTER))

    def test_is_no_json_and_has_no_dict(self) -> None:
        with pytest.raises(TypeError):
            json.dumps(Secret(HUNTER))
        assert not hasattr(Secret(HUNTER), "__dict__")

    def test_keeps_a_dataclass_from_being_poured_out(self) -> None:
        with pytest.raises(TypeError, match="not to be pickled"):
            asdict(TOKENS)

    def test_equals_the_same_secret_and_nothing_else(self) -> None:
        assert Secret("a") == Secret("a")
        assert Secret("a") != Secret("b")
        assert Secret("a") != "a"
        assert Secret("ä") == Secret("ä")
        assert len({Secret("a"), Secret("a"), Secret("b")}) == 2

    def test_is_true_even_when_it_is_empty(self) -> None:
        assert Secret("")


class TestWhateverHoldsOne:
    @pytest.mark.parametrize("holder", HOLDERS.values(), ids=lambda each: type(each).__name__)
    def test_shows_neither_it_nor_its_sealed_form(self, holder: object) -> None:
        for text in shown(holder):
            assert HUNTER not in text
            assert Vault(bytes(32)).key_id not in text

    def test_every_type_of_the_core_was_looked_at(self) -> None:
        found: set[type[Any]] = set()
        for name in CORE:
            module = importlib.import_module(f"kimiflow.{name}")
            found |= {
                each
                for each in vars(module).values()
                if isinstance(each, type)
                and (is_dataclass(each) or issubclass(each, tuple))
                and each.__module__ == module.__name__
                and not each.__name__.startswith("_")
            }
        assert found == HOLDERS.keys() | SECRETLESS, "a new type: put it where it belongs"

    def test_what_has_nothing_to_hide_has_no_field_for_it(self) -> None:
        for each in SECRETLESS:
            for field in fields(each):
                assert "Secret" not in str(field.type), each
                assert "Sealed" not in str(field.type), each

    def test_the_history_has_none(self) -> None:
        for state, event in [
            (State.REQUESTED, ISSUED),
            (State.PENDING, TOKENS),
            (State.REFRESHING, TOKENS),
        ]:
            _, transition = recorded(authorization_in(state), event)
            assert HUNTER not in repr(transition)


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"

SLIPS: dict[str, object] = {
    "a Secret": Secret(HUNTER),
    "a header": f"Authorization: Bearer {HUNTER}",
    "a form": f"grant_type=refresh_token&refresh_token={HUNTER}&client_id=x",
    "a form in bytes": f"device_code={HUNTER}".encode(),
    "JSON": json.dumps({"access_token": HUNTER, "scope": "x"}),
    "Python": repr({"refresh_token": HUNTER}),
    "a URL with a password": f"http://me:{HUNTER}@proxy.example:3128/",
    "a URL with a password and no name": f"redis://:{HUNTER}@db.example/0",
    "a URL with an @ in its password": f"http://me:x@{HUNTER}@proxy.example",
    "an exception": RuntimeError(f"sent refresh_token={HUNTER}"),
    "a dict": {"access_token": HUNTER},
    "a dict in a list in a dict": {"a": [{"b": {"device_code": HUNTER}}]},
    "a Secret in a tuple": ("a", Secret(HUNTER)),
    "a Secret in a set": {Secret(HUNTER)},
    "an exception in a list": [ValueError(f"password={HUNTER}")],
}


class TestTheRedactingProcessor:
    """The last line of defence: nothing logs a secret on purpose."""

    @pytest.mark.parametrize("value", SLIPS.values(), ids=SLIPS)
    def test_strikes_out_what_slipped_through(self, value: object) -> None:
        cleaned = logs.redact(None, "info", {"event": "x", "what": value})
        assert HUNTER not in repr(cleaned)
        assert "[redacted]" in repr(cleaned)

    @pytest.mark.parametrize(
        "key",
        ["access_token", "refresh_token", "ACCESS_TOKEN", "token", "client_secret", "password", "device_code",
         "authorization", "proxy_authorization", "api_key", "key", "set_cookie", "credentials"],
    )  # fmt: skip
    def test_strikes_out_a_value_whose_key_tells(self, key: str) -> None:
        for value in (HUNTER, HUNTER.encode()):
            assert logs.redact(None, "info", {"event": "x", key: value})[key] == "[redacted]"
            assert HUNTER not in repr(logs.redact(None, "info", {"event": "x", "nested": {key: value}}))

    @pytest.mark.parametrize("text", [JWT, f"got {JWT}!", f"bearer {JWT}", f"x={JWT}", JWT.rpartition(".")[0] + "."])
    def test_strikes_out_what_has_the_shape_of_a_jwt(self, text: str) -> None:
        cleaned = logs.redact(None, "info", {"event": text})["event"]
        assert "eyJzdWIi" not in cleaned
        assert "[redacted]" in cleaned

    def test_leaves_the_rest_alone(self) -> None:
        event = {
            "event": "token_refreshed",
            "account": "work",
            "state": "granted",
            "detail": "access token for 900 s",
            "user_code": "GZ4V-K8PN",
            "url": "https://auth.kimi.com/api/oauth/token",
            "attempts": 3,
            "wait": 1.5,
            "tokens": 7,
            "key_id": "0a1b2c3d",
            "nothing": None,
            "mail": "me@example.com",
        }
        assert logs.redact(None, "info", dict(event)) == event

    @quick
    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=8,
        )
    )
    def test_never_raises(self, value: object) -> None:
        logs.redact(None, "info", {"event": "x", "value": value})


@contextmanager
def logging_to_stderr(level: str, log_format: str) -> Iterator[None]:
    """``configure`` as the command line does it, and everything as it was afterwards."""
    logger = logging.getLogger("kimiflow")
    before = (logger.handlers, logger.level, logger.propagate)
    logs.configure(level, log_format)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


@pytest.mark.parametrize("log_format", ["console", "json"])
class TestALogLine:
    @pytest.fixture
    def written(self, log_format: str, capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[], object]], str]:
        """What a call logs."""

        def written(call: Callable[[], object]) -> str:
            with logging_to_stderr("debug", log_format):
                call()
            return capsys.readouterr().err

        return written

    def test_has_its_name_its_facts_and_no_secret(self, written: Any) -> None:
        log = logs.get_logger(account="work")
        line = written(lambda: log.warning("commit_delayed", secret=Secret(HUNTER), note=f"Bearer {HUNTER}"))
        assert "commit_delayed" in line
        assert "work" in line
        assert HUNTER not in line

    def test_of_an_exception_has_none_either(self, written: Any) -> None:
        error = RuntimeError(f"https://me:{HUNTER}@host refresh_token={HUNTER} {JWT}")
        line = written(lambda: logs.get_logger().error("task_failed", exc_info=error))
        assert "RuntimeError" in line
        assert HUNTER not in line
        assert JWT not in line

    def test_of_the_standard_library_has_none_either(self, written: Any) -> None:
        log = logging.getLogger("kimiflow.elsewhere")
        line = written(lambda: log.warning("sent %s", f"refresh_token={HUNTER}"))
        assert "sent refresh_token=[redacted]" in line
        assert HUNTER not in line

    @pytest.mark.parametrize("holder", HOLDERS.values(), ids=lambda each: type(each).__name__)
    def test_of_whatever_holds_one_has_none(self, written: Any, holder: object) -> None:
        log = logs.get_logger()
        line = written(lambda: log.info("something_happened", what=holder, many=[holder], named={"x": holder}))
        assert "something_happened" in line
        assert HUNTER not in line

    def test_under_the_level_is_not_written(self, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
        with logging_to_stderr("error", log_format):
            logs.get_logger().warning("not_now")
            logs.get_logger().error("now")
        (line,) = capsys.readouterr().err.splitlines()
        assert "now" in line
        assert "error" in line


def test_an_error_that_a_server_provokes_has_none() -> None:
    """The parser's own events, which end in the history, on terminals and in logs."""
    request: TokenRequest = wire.refresh_request(PROVIDER, Secret(HUNTER))
    for body in ({"error": HUNTER}, {"error": "x", "detail": HUNTER}, {"error": {"message": f"no {HUNTER}"}}):
        for status in (200, 400, 401, 403, 500):
            event = wire.parse_refresh(Reply(status, json.dumps(body).encode()), request)
            _, transition = recorded(authorization_in(State.REFRESHING), event)
            assert HUNTER not in repr(event) + repr(transition)


def test_a_library_leaves_the_applications_logging_alone() -> None:
    logs.get_logger().debug("nobody_listens")
    assert structlog.is_configured() is False
