"""The API behind the sign-in, without IO: who one is, what is left of the quota, models, chat completions.

It takes the access tokens that the authority has issued, and no others. What it says is what public clients
read: OpenAI's shapes for models and completions; for the quota, numbers as decimal strings and times with nanoseconds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from kimiflow.sandbox.completions import InvalidBody, complete
from kimiflow.sandbox.effects import Delivery, api_error, json_delivery
from kimiflow.sandbox.quota import Limit, Tell, limited, usages

if TYPE_CHECKING:
    from kimiflow.sandbox.authority import Authority
    from kimiflow.sandbox.records import Exchange

__all__ = ["API_BASE", "MODELS", "Api"]

API_BASE: Final = "/coding"
"""What stands before ``/v1`` in each path."""

MODELS: Final = ("kimi-for-coding", "kimi-for-coding-highspeed")

_METHODS: Final = {"/v1/me": "GET", "/v1/usages": "GET", "/v1/models": "GET", "/v1/chat/completions": "POST"}


class Api:
    """Answers requests that `Authority.arrive_api` has seen. ``now`` is Unix time in seconds.

    :param stream_pause: seconds between two pieces of a streamed reply.
    """

    def __init__(self, authority: Authority, *, stream_pause: float = 0.0) -> None:
        self._authority = authority
        self._stream_pause = stream_pause
        self._people: dict[str, dict[str, Any]] = {}
        self._limits: dict[str, Limit] = {}
        self._served: Counter[str] = Counter()

    def set_profile(self, device_id: str, **fields: object) -> None:
        """What ``/v1/me`` says of a device's account: these fields in place of its own, ``None`` for one left out."""
        self._people.setdefault(device_id, {}).update(fields)

    def limit(self, device_id: str, seconds: float, now: float, *, status: int = 429, tell: Tell = "header") -> None:
        """From now on the quota of a device's account is used up, for so many seconds. See `Sandbox.limit`.

        :raises ValueError: for another status than 429, or 403 as Kimi answers where the week's quota is used up.
        """
        if status not in (403, 429):
            raise ValueError(f"status is {status!r}, but a limit is told with 403 or 429")
        self._limits[device_id] = Limit(now + seconds, status, tell)

    def act(self, exchange: Exchange, now: float) -> Delivery:
        """The reply. The quota is looked at for completions only: asking what is left costs nothing."""
        call = exchange.call
        assert call is not None, "only for what arrived as a call"  # noqa: S101
        method = _METHODS.get(call.path)
        if method is None:
            return self._refuse(exchange, 404, "there is nothing here", "resource_not_found_error")
        if call.method != method:
            return self._refuse(exchange, 405, f"only {method} is understood here", "method_not_allowed")
        token = None if call.access_token is None else self._authority.introspect(call.access_token, now)
        if token is None:
            return self._refuse(exchange, 401)
        account = token.device_id
        exchange.bearer = account
        exchange.outcome = "served"
        match call.path:
            case "/v1/me":
                return json_delivery(200, self._me(account))
            case "/v1/usages":
                return json_delivery(200, usages(self._served[account], self._limits.get(account), now))
            case "/v1/models":
                return json_delivery(200, _models())
        limit = self._limits.get(account)
        if limit is not None and now < limit.until:
            delivery, exchange.outcome, exchange.retry_after = limited(limit, now)
            return delivery
        try:
            delivery = complete(call.body, f"chatcmpl-{exchange.arrival:08x}", now, self._stream_pause)
        except InvalidBody as error:
            return self._refuse(exchange, 400, str(error))
        self._served[account] += 1
        return delivery

    def _me(self, account: str) -> dict[str, Any]:
        digest = hashlib.sha256(account.encode()).hexdigest()
        fields = {
            "user_id": f"u-{digest[:12]}",
            "nickname": f"Sandbox {digest[:4]}",
            "email": f"{digest[:8]}@sandbox.invalid",
            "region": "REGION_CN",
            "user_level_name": "Moderato",
        }
        return {key: value for key, value in {**fields, **self._people.get(account, {})}.items() if value is not None}

    @staticmethod
    def _refuse(exchange: Exchange, status: int, message: str = "", kind: str = "") -> Delivery:
        delivery, exchange.outcome = api_error(status, message=message, kind=kind)
        return delivery


def _models() -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": 1_760_000_000, "owned_by": "moonshot"} for name in MODELS]
    return {"object": "list", "data": data}
