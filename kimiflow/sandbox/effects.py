"""What a fault makes of a request: the bytes that go out instead, or the reply that was altered. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from kimiflow.sandbox.authority import SLOW_DOWN_STEP, json_seconds
from kimiflow.sandbox.fault_kinds import OAUTH_ERRORS, RetryAfter

if TYPE_CHECKING:
    from kimiflow.sandbox.faults import Fault
    from kimiflow.sandbox.records import Exchange, Reply

__all__ = ["REDIRECT_TARGET", "Delivery", "Ending", "alter", "api_error", "deliver", "instead", "json_delivery"]

REDIRECT_TARGET: Final = "/api/oauth/redirected"
"""Where a redirect leads; a request that arrives there carried its secret along."""

Headers: TypeAlias = tuple[tuple[str, str], ...]

# Tokens and codes stay out of caches (RFC 6749 §5.1).
_JSON: Final[Headers] = (
    ("content-type", "application/json"),
    ("cache-control", "no-store"),
    ("pragma", "no-cache"),
)
_TEXT: Final[Headers] = (("content-type", "text/plain; charset=utf-8"),)
_HTML: Final[Headers] = (("content-type", "text/html; charset=utf-8"),)


# What the API says with a status, and the type it gives to the error.
_API_ERRORS: Final = {
    400: ("The request is not understood.", "invalid_request_error"),
    401: ("The access token is not known, or has expired.", "invalid_authentication_error"),
    402: ("There is no membership that covers this.", "payment_required_error"),
    403: ("This is not allowed.", "permission_denied_error"),
    429: ("We're receiving too many requests at the moment.", "rate_limit_reached_error"),
}


class Ending(Enum):
    """How a delivery ends on the wire."""

    WHOLE = auto()
    """With the last byte of the body; the connection stays open."""
    CUT_OFF = auto()
    """The body breaks off before the announced length, and the connection is closed."""
    CLOSE = auto()
    """The connection is closed before the first byte."""
    RESET = auto()
    """The connection is reset before the first byte."""


@dataclass(frozen=True, slots=True, repr=False)
class Delivery:
    """What goes out on the wire. ``delay``: seconds to wait before. ``body`` is what is sent of it.

    Where there are ``pieces``, they are sent one by one instead, with ``pause`` seconds between them.
    """

    status: int
    headers: Headers = ()
    body: bytes = b""
    ending: Ending = Ending.WHOLE
    delay: float = 0.0
    pieces: tuple[bytes, ...] = ()
    pause: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether a client can read all of it."""
        return self.ending is Ending.WHOLE

    def __repr__(self) -> str:
        return f"Delivery({self.status}, {len(self.body)} bytes, {self.ending.name}, delay={self.delay})"


def deliver(reply: Reply) -> Delivery:
    """The authority's reply as it is."""
    return _json(reply.status, reply.body)


def instead(fault: Fault, exchange: Exchange, now: float) -> Delivery:  # noqa: PLR0912 - a branch per kind
    """What is sent where ``fault`` keeps the server from looking at the request."""
    kind = fault.kind
    # What the number of most kinds is; the others do not look at it.
    status = 0 if math.isinf(fault.number) else int(fault.number)
    match kind:
        case "slow_down":
            return _slow_down(fault, exchange)
        case "message" | "detail":
            return _json(status, {kind: _complaint(exchange)})
        case "nested":
            return _json(status, {"error": {"message": _complaint(exchange), "type": "sandbox"}})
        case "html":
            return Delivery(status, _HTML, _page(status))
        case "empty":
            return Delivery(status, _JSON)
        case "invalid_json":
            return Delivery(status, _JSON, b'{"error": "authorization_pending",')
        case "huge":
            return Delivery(200, _JSON, b'{"padding": "%b"}' % (b"x" * round(fault.number * (1 << 20))))
        case "redirect":
            return Delivery(status, (("location", REDIRECT_TARGET),))
        case "cut_off":
            return _cut_off(_json(200, {"error": "authorization_pending", "error_description": "Wait."}))
        case "reset":
            return Delivery(0, ending=Ending.RESET)
        case "hang":
            return Delivery(0, ending=Ending.CLOSE)
        case error if error in OAUTH_ERRORS:
            exchange.outcome = error
            return _json(status, {"error": error, "error_description": "The sandbox was told to say so."})
        case "access_terminated_error":
            delivery, exchange.outcome = api_error(403, kind=kind)
            return delivery
        case code:
            return _http_error(int(code), fault.value, exchange, now)


def alter(fault: Fault, body: dict[str, Any], delivery: Delivery) -> tuple[dict[str, Any], Delivery] | None:
    """The altered reply that issued something; ``None`` where the fault finds nothing to alter.

    ``body`` is the JSON object, ``delivery`` the way it goes out; the caller joins them when all faults had their turn.
    """
    value = fault.value
    match fault.kind:
        case "late":
            return body, replace(delivery, delay=delivery.delay + fault.number)
        case "lost":
            endings = {"close": Ending.CLOSE, "reset": Ending.RESET, "cut_off": Ending.CUT_OFF}
            return body, replace(delivery, ending=endings[str(value)])
        case "missing" if value in body:
            return {name: item for name, item in body.items() if name != value}, delivery
        case "missing" if value == "refresh_token":
            # The authority was told before, so that it does not rotate a token that is not sent.
            return body, delivery
        case "expires_in" | "interval" if fault.kind in body:
            return {**body, fault.kind: _number(value, body[fault.kind])}, delivery
        case "verification_url" if "verification_uri" in body:
            return {name.replace("_uri", "_url"): item for name, item in body.items()}, delivery
    return None


def finish(body: dict[str, Any], delivery: Delivery) -> Delivery:
    """``body`` put into ``delivery``, in part where it breaks off."""
    content = json.dumps(body).encode()
    if delivery.ending is Ending.CUT_OFF:
        return _cut_off(replace(delivery, body=content))
    if delivery.ending is not Ending.WHOLE:
        return replace(delivery, status=0, headers=(), body=b"")
    return replace(delivery, body=content)


def json_delivery(status: int, body: dict[str, Any]) -> Delivery:
    """A JSON object."""
    return _json(status, body)


def api_error(
    status: int, headers: Headers = (), *, message: str = "", kind: str = "", **more: str
) -> tuple[Delivery, str]:
    """An error as the API writes it, and its type: ``kind``, or what goes with the status."""
    words, by_itself = _API_ERRORS.get(status, (_phrase(status), "server_error" if status >= 500 else "api_error"))
    kind = kind or by_itself
    delivery = _json(status, {"error": {"message": message or words, "type": kind, **more}})
    return replace(delivery, headers=(*delivery.headers, *headers)), kind


def _json(status: int, body: dict[str, Any]) -> Delivery:
    return Delivery(status, _JSON, json.dumps(body).encode())


def _cut_off(delivery: Delivery) -> Delivery:
    half = delivery.body[: len(delivery.body) // 2]
    headers = (*delivery.headers, ("content-length", str(len(delivery.body))))
    return replace(delivery, headers=headers, body=half, ending=Ending.CUT_OFF)


def _slow_down(fault: Fault, exchange: Exchange) -> Delivery:
    exchange.outcome = "slow_down"
    if exchange.interval is not None:
        exchange.slower = max(exchange.interval + SLOW_DOWN_STEP, fault.number)
    if fault.value is None:
        return _json(400, {"error": "slow_down"})
    return _json(400, {"error": "slow_down", "interval": json_seconds(fault.number)})


def _http_error(status: int, value: object, exchange: Exchange, now: float) -> Delivery:
    headers = _TEXT
    if isinstance(value, RetryAfter):
        exchange.retry_after = value.seconds
        # Dates have whole seconds: rounded up, so that whoever waits until then has waited long enough.
        text = formatdate(math.ceil(now + value.seconds), usegmt=True) if value.as_date else f"{value.seconds:g}"
        headers = (*headers, ("retry-after", text))
    if exchange.call is not None:
        delivery, exchange.outcome = api_error(status, headers[1:])
        return delivery
    return Delivery(status, headers, f"{_phrase(status)}\n".encode())


def _complaint(exchange: Exchange) -> str:
    """Words for a person; servers echo what they were sent, so that a client has something to strike out."""
    echoed = "" if exchange.presented is None else f" ({exchange.presented})"
    return f"The sandbox was told to complain{echoed}."


def _page(status: int) -> bytes:
    phrase = _phrase(status)
    return (
        f"<!DOCTYPE html>\n<html><head><title>{phrase}</title></head><body><h1>{phrase}</h1></body></html>\n".encode()
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def _number(word: object, number: float) -> object:
    """``number`` as a server might send it; see `kimiflow.sandbox.fault_kinds.NUMBER_WORDS`."""
    match word:
        case "string":
            return str(number)
        case "float":
            return number + 0.5
        case "word":
            return "soon"
        case "nan":
            return math.nan
        case "infinite":
            return math.inf
        case "negative":
            return -number
        case "zero":
            return 0
        case "null":
            return None
        case "enormous":
            return 10**30
        case _:
            return word
