"""The authority with its faults: from the bytes of a request to the bytes of a reply, still without IO.

Whoever carries the bytes, sockets or a simulation, makes three calls for each request::

    exchange = service.arrive("token", content_type, body, device_id, now)
    # wait exchange.hold seconds; where the client leaves meanwhile: service.abandon(exchange, now)
    delivery = service.act(exchange, now)
    # wait delivery.delay seconds, then do with the connection what delivery.ending says
    service.complete(exchange, delivery, now, delivered=…)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from kimiflow.sandbox import effects
from kimiflow.sandbox.api import Api

if TYPE_CHECKING:
    import random
    from typing import Literal

    from kimiflow.sandbox.authority import Authority
    from kimiflow.sandbox.effects import Delivery
    from kimiflow.sandbox.faults import Faults
    from kimiflow.sandbox.log import LogEntry
    from kimiflow.sandbox.records import ApiCall, Exchange

__all__ = ["DEVICE_AUTHORIZATION_PATH", "REVOCATION_PATH", "TOKEN_PATH", "Service", "parse_form"]

DEVICE_AUTHORIZATION_PATH: Final = "/api/oauth/device_authorization"
TOKEN_PATH: Final = "/api/oauth/token"  # noqa: S105 - a path, not a token
REVOCATION_PATH: Final = "/api/oauth/revoke"

_MOST_FIELDS: Final = 32
# By kind of request; what is not here is hit by faults of the endpoint `any` only.
_ENDPOINTS: Final = {"device_authorization": "device"}


class Service:
    """Times in Unix seconds. ``random`` decides about faults that have a probability."""

    def __init__(self, authority: Authority, faults: Faults, random: random.Random) -> None:
        self.authority = authority
        self.api = Api(authority, stream_pause=authority.settings.stream_pause)
        self.faults = faults
        self._random = random

    def arrive(
        self,
        endpoint: Literal["device_authorization", "token", "revocation", "redirected"],
        content_type: str,
        body: bytes,
        device_id: str,
        now: float,
    ) -> Exchange:
        """A request has arrived whole."""
        exchange = self.authority.arrive(endpoint, parse_form(content_type, body), device_id, now)
        return exchange if exchange.kind == "redirected" else self._beset(exchange)

    def arrive_api(self, call: ApiCall, device_id: str, now: float) -> Exchange:
        """A request to the API has arrived whole."""
        return self._beset(self.authority.arrive_api(call, device_id, now))

    def _beset(self, exchange: Exchange) -> Exchange:
        if self.faults:
            fault = self.faults.first(_endpoint(exchange), exchange.device_id, self._random)
            if fault is not None:
                exchange.fault = fault
                exchange.struck(fault)
                if fault.kind in {"delay", "hang"}:
                    exchange.hold = fault.number
        return exchange

    def act(self, exchange: Exchange, now: float) -> Delivery:
        """Process the request, or what a fault makes of it. Infinite holds end here too, once they are given up."""
        fault = exchange.fault
        if fault is not None and fault.stage == "instead":
            return effects.instead(fault, exchange, now)
        if exchange.call is not None:
            return self.api.act(exchange, now)
        if not self.faults:
            return effects.deliver(self.authority.act(exchange, now))
        hits = self.faults.altering(_endpoint(exchange), exchange.device_id, self._random)
        withheld = any(hit.kind == "missing" and hit.value == "refresh_token" for hit in hits)
        reply = self.authority.act(exchange, now, refresh_token=not withheld)
        delivery, body = effects.deliver(reply), reply.body
        if reply.outcome != "issued":
            return delivery
        for hit in hits:
            altered = effects.alter(hit, body, delivery)
            if altered is not None:
                body, delivery = altered
                self.faults.spend(hit)
                exchange.struck(hit)
        return effects.finish(body, delivery)

    def complete(self, exchange: Exchange, delivery: Delivery, now: float, *, delivered: bool = True) -> LogEntry:
        """The exchange is over. ``delivered``: whether the connection was still there for all of it."""
        return self.authority.complete(exchange, now, delivery.status, delivered=delivered and delivery.whole)

    def abandon(self, exchange: Exchange, now: float) -> LogEntry:
        """The client has gone before the server acted."""
        return self.authority.complete(exchange, now, 0, delivered=False)


def parse_form(content_type: str, body: bytes) -> dict[str, str] | None:
    """The parameters; those without a value count as omitted.

    ``None`` where it is no form, or where a parameter comes twice (RFC 6749 §3.2).
    """
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return None
    try:
        pairs = parse_qsl(body.decode("ascii"), max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        return None
    form = dict(pairs)
    return form if len(form) == len(pairs) else None


def _endpoint(exchange: Exchange) -> str:
    return _ENDPOINTS.get(exchange.kind, exchange.kind)
