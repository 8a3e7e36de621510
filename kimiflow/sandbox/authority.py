"""The authorization server itself, without any IO: what it issues, refuses, and remembers.

Theory of operation. A request goes through three calls, each with the time at which it happens, because the judge
wants to know what overlaps, and because faults strike between them:

1. `Authority.arrive` names it (a poll, a refresh…), sees whether its credential is in flight already and whether the
   device code is polled too fast. This holds even for a request that a fault keeps from being processed.
2. `Authority.act` does what the protocol says. A fault may leave this out.
3. `Authority.complete` ends it, and writes the log.

Nothing here reads a clock or draws from a global random number generator: the same calls give the same codes.
All of it costs a few dict look-ups, however many codes and tokens there are.

What it decides where the RFCs leave a choice: the pace of polling matters only while the code is undecided (RFC 8628
§3.5 calls ``slow_down`` a variant of ``authorization_pending``); the first poll may come at any time; an interval
grows once the client was told so, that is when the ``slow_down`` was delivered; a refresh token has no grace: its
second use revokes all tokens that descend from the same approval (RFC 9700 §4.14.2); so does the revocation of a
refresh token, rotated or not, while that of an access token ends just this one (RFC 7009 §2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from kimiflow.sandbox.codes import format_user_code
from kimiflow.sandbox.device_codes import DeviceCodes
from kimiflow.sandbox.log import Log, LogEntry
from kimiflow.sandbox.records import Exchange, Reply
from kimiflow.sandbox.tokens import Tokens

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from typing import Literal

    from kimiflow.sandbox.log import Kind
    from kimiflow.sandbox.records import AccessToken, ApiCall, DeviceCode, Family, PendingCode
    from kimiflow.sandbox.settings import Policy, Settings

__all__ = ["DEVICE_CODE_GRANT", "SLOW_DOWN_STEP", "Authority"]

DEVICE_CODE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

SLOW_DOWN_STEP: Final = 5.0
"""Seconds that each ``slow_down`` adds to the interval (RFC 8628 §3.5)."""

# Clocks are slewed and timers fire a little early; nobody is accused over less than this, in seconds.
_LEEWAY: Final = 0.001


class Authority:
    """A Kimi-compatible authorization server as a value that only changes when it is called.

    ``now`` is always Unix time in seconds. User codes are taken as people type them.

    :ivar base_url: what verification URIs begin with.
    :ivar log: see `kimiflow.sandbox.log`.
    """

    def __init__(self, settings: Settings, random: random.Random, base_url: str = "http://sandbox.invalid") -> None:
        self.settings = settings
        self.base_url = base_url
        self.log = Log(settings.log_limit)
        self._random = random
        self._arrivals = 0
        self._in_flight: dict[str, int] = {}
        self._codes = DeviceCodes(settings, random)
        self._tokens = Tokens(settings)

    # Requests

    def device_authorization(self, form: Mapping[str, str] | None, device_id: str, now: float) -> Reply:
        """RFC 8628 §3.1 and §3.2, begun and delivered in one moment."""
        return self._at_once(self.arrive("device_authorization", form, device_id, now), now)

    def token(self, form: Mapping[str, str] | None, device_id: str, now: float) -> Reply:
        """RFC 8628 §3.4 and RFC 6749 §6, begun and delivered in one moment."""
        return self._at_once(self.arrive("token", form, device_id, now), now)

    def revocation(self, form: Mapping[str, str] | None, device_id: str, now: float) -> Reply:
        """RFC 7009 §2, begun and delivered in one moment."""
        return self._at_once(self.arrive("revocation", form, device_id, now), now)

    def _at_once(self, exchange: Exchange, now: float) -> Reply:
        reply = self.act(exchange, now)
        self.complete(exchange, now, reply.status)
        return reply

    def arrive(
        self,
        endpoint: Literal["device_authorization", "token", "revocation", "redirected"],
        form: Mapping[str, str] | None,
        device_id: str,
        now: float,
    ) -> Exchange:
        """A request has arrived. ``form`` is ``None`` where the body was no form (RFC 6749 §3.2)."""
        self._arrivals += 1
        kind: Kind = endpoint
        if endpoint == "token" and form is not None:
            grant_type = form.get("grant_type")
            if grant_type == DEVICE_CODE_GRANT:
                kind = "poll"
            elif grant_type == "refresh_token":
                kind = "refresh"
        exchange = Exchange(now, self._arrivals, kind, form, device_id)
        if form is None:
            return exchange
        exchange.client_id = form.get("client_id", "")
        if kind == "poll":
            exchange.device_code = form.get("device_code")
            self._note_poll(exchange, now)
        elif kind == "refresh":
            exchange.refresh_token = form.get("refresh_token")
        elif kind == "revocation":
            if form.get("token_type_hint") == "access_token":
                exchange.access_token = form.get("token")
            else:
                exchange.refresh_token = form.get("token")
        elif kind == "redirected":
            # What should not have come along is what the judge looks for.
            exchange.device_code = form.get("device_code")
            exchange.refresh_token = form.get("refresh_token") or form.get("token")
        presented = exchange.presented
        if presented is not None:
            others = self._in_flight.get(presented, 0)
            exchange.concurrent = others > 0
            self._in_flight[presented] = others + 1
        return exchange

    def arrive_api(self, call: ApiCall, device_id: str, now: float) -> Exchange:
        """A request to the API has arrived. Without a device id it counts as one of the token's own device."""
        self._arrivals += 1
        token = None if call.access_token is None else self.introspect(call.access_token, now)
        exchange = Exchange(now, self._arrivals, "api", None, device_id)
        exchange.call = call
        if token is not None:
            exchange.bearer = token.device_id
            exchange.device_id = device_id or token.device_id
        return exchange

    def _note_poll(self, exchange: Exchange, now: float) -> None:
        code = self._codes.find(exchange.device_code or "")
        if code is None:
            return
        exchange.code = code
        exchange.user_code = format_user_code(code.user_code)
        exchange.interval = code.interval
        exchange.gap = now - code.last_poll
        exchange.too_fast = code.polled and exchange.gap < code.interval - _LEEWAY
        code.last_poll = now
        code.polled = True

    def act(self, exchange: Exchange, now: float, *, refresh_token: bool = True) -> Reply:
        """Process the request.

        :param refresh_token: whether a successful token reply has one. Without, a refresh rotates nothing.
        """
        reply = self._check(exchange)
        if reply is None:
            match exchange.kind:
                case "device_authorization":
                    reply = self._issue_device_code(exchange, now)
                case "poll":
                    reply = self._poll(exchange, now, refresh_token)
                case "refresh":
                    reply = self._refresh(exchange, now, refresh_token)
                case "revocation":
                    reply = self._revoke(exchange)
                case _:
                    reply = _error("unsupported_grant_type")
        exchange.outcome = reply.outcome
        return reply

    def complete(self, exchange: Exchange, now: float, status: int, *, delivered: bool = True) -> LogEntry:
        """The exchange is over; ``status`` is the one sent, 0 for none.

        :param delivered: whether the whole reply was handed to a connection that was still open.
        """
        presented = exchange.presented
        if presented is not None:
            others = self._in_flight.pop(presented) - 1
            if others:
                self._in_flight[presented] = others
        code = exchange.code
        if delivered and code is not None:
            if exchange.slower is not None:
                code.interval = max(code.interval, exchange.slower)
            if exchange.outcome == "issued":
                code.granted = True
        entry = LogEntry(
            at=exchange.at,
            completed=now,
            arrival=exchange.arrival,
            kind=exchange.kind,
            device_id=exchange.device_id,
            outcome=exchange.outcome,
            status=status,
            delivered=delivered,
            fault=exchange.struck_by,
            user_code=exchange.user_code,
            device_code=exchange.device_code,
            refresh_token=exchange.refresh_token,
            access_token=exchange.access_token if exchange.call is None else exchange.call.access_token,
            bearer=exchange.bearer,
            path=None if exchange.call is None else exchange.call.path,
            issued_access_token=exchange.issued_access_token,
            issued_refresh_token=exchange.issued_refresh_token,
            too_fast=exchange.too_fast,
            interval=exchange.interval,
            gap=exchange.gap,
            reuse=exchange.reuse,
            concurrent=exchange.concurrent,
            retry_after=exchange.retry_after,
        )
        self.log.append(entry)
        return entry

    def _check(self, exchange: Exchange) -> Reply | None:
        form = exchange.form
        if form is None:
            return _error("invalid_request", "the body has to be a form, each parameter in it once")
        if not exchange.client_id:
            return _error("invalid_request", "client_id is missing")
        if exchange.client_id not in self.settings.client_ids:
            return _error("invalid_client", "this client_id is not known", 401)
        if exchange.kind == "token" and "grant_type" not in form:
            return _error("invalid_request", "grant_type is missing")
        return None

    def _issue_device_code(self, exchange: Exchange, now: float) -> Reply:
        settings = self.settings
        code = self._codes.issue(self._credential("dc"), exchange.client_id, exchange.device_id, now)
        exchange.device_code = code.device_code
        exchange.user_code = shown = format_user_code(code.user_code)
        verification_uri = f"{self.base_url}/device"
        return Reply(
            200,
            {
                "device_code": code.device_code,
                "user_code": shown,
                "verification_uri": verification_uri,
                "verification_uri_complete": f"{verification_uri}?user_code={quote(shown)}",
                "expires_in": json_seconds(settings.code_lifetime),
                "interval": json_seconds(settings.interval),
            },
            "issued",
        )

    def _poll(self, exchange: Exchange, now: float, with_refresh_token: bool) -> Reply:  # noqa: FBT001
        if exchange.device_code is None:
            return _error("invalid_request", "device_code is missing")
        code = exchange.code
        if code is None or code.client_id != exchange.client_id:
            return _error("invalid_grant", "this device code is not known")
        if code.spent:
            exchange.reuse = True
            return _error("invalid_grant", "this device code was exchanged for tokens already")
        if code.denied:
            return _error("access_denied", "the person said no")
        if now >= code.expires_at:
            return _error("expired_token", "this device code has expired")
        if not code.approved(now):
            if exchange.too_fast:
                exchange.slower = code.interval + SLOW_DOWN_STEP
                return _error("slow_down", "polled faster than the interval", self.settings.pending_status)
            return _error("authorization_pending", status=self.settings.pending_status)
        self._codes.spend(code)
        family = self._tokens.new_family(code.client_id, code.device_id)
        return self._issue_tokens(
            exchange, family, self._new_refresh_token(family) if with_refresh_token else None, now
        )

    def _refresh(self, exchange: Exchange, now: float, rotate: bool) -> Reply:  # noqa: FBT001
        presented = exchange.refresh_token
        if presented is None:
            return _error("invalid_request", "refresh_token is missing")
        token = self._tokens.find_refresh(presented)
        if token is None or token.family.client_id != exchange.client_id:
            return _error("invalid_grant", "this refresh token is not known")
        if token.used:
            exchange.reuse = True
            token.family.revoked = True
            return _error("invalid_grant", "this refresh token was used before; the grant is revoked")
        if token.family.revoked:
            return _error("invalid_grant", "the grant is revoked")
        if not rotate:
            return self._issue_tokens(exchange, token.family, None, now)
        if not self.settings.rotate:
            return self._issue_tokens(exchange, token.family, presented, now)
        self._tokens.use_refresh(presented, now)
        return self._issue_tokens(exchange, token.family, self._new_refresh_token(token.family), now)

    def _revoke(self, exchange: Exchange) -> Reply:
        # The hint helps a server to search (RFC 7009 §2.1), and this one has not far to look.
        token = exchange.refresh_token or exchange.access_token
        if token is None:
            return _error("invalid_request", "token is missing")
        known = self._tokens.revoke_token(token, exchange.client_id)
        if known is None:
            return _error("invalid_grant", "this token is another client's")
        # §2.2: what does not work any more, or never did, is revoked as far as the client is concerned.
        return Reply(200, {}, "revoked" if known else "unknown")

    def _issue_tokens(self, exchange: Exchange, family: Family, refresh_token: str | None, now: float) -> Reply:
        access_token = self._credential("at")
        self._tokens.add_access(access_token, family, now)
        exchange.issued_access_token = access_token
        exchange.issued_refresh_token = refresh_token
        body = {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": json_seconds(self.settings.token_lifetime),
            "scope": family.scope,
        }
        if refresh_token is None:
            del body["refresh_token"]
        return Reply(200, body, "issued")

    def _new_refresh_token(self, family: Family) -> str:
        token = self._credential("rt")
        self._tokens.add_refresh(token, family)
        return token

    def _credential(self, prefix: str) -> str:
        return f"{prefix}_{self._random.getrandbits(256):064x}"

    # People and tests

    def set_policy(self, device_id: str, policy: Policy) -> None:
        """Decide about the device codes that ``device_id`` will be issued; those it has are left alone."""
        self._codes.set_policy(device_id, policy)

    def approve(self, user_code: str, now: float) -> PendingCode:
        """Let the device in. :raises UserCodeError: where there is nothing to decide."""
        return self._decided(self._codes.approve(user_code, now), "approve", "approved", now)

    def deny(self, user_code: str, now: float) -> PendingCode:
        """Keep the device out. :raises UserCodeError: where there is nothing to decide."""
        return self._decided(self._codes.deny(user_code, now), "deny", "denied", now)

    def approve_device(self, device_id: str, now: float) -> PendingCode:
        """`approve` the newest device code of a device."""
        return self.approve(self._codes.newest(device_id), now)

    def deny_device(self, device_id: str, now: float) -> PendingCode:
        """`deny` the newest device code of a device."""
        return self.deny(self._codes.newest(device_id), now)

    def look_up(self, user_code: str, now: float) -> PendingCode:
        """What waits under this user code. :raises UserCodeError: where there is nothing to decide."""
        return self._codes.decidable(user_code, now).public()

    def pending(self, now: float, limit: int = 100) -> list[PendingCode]:
        """The oldest ``limit`` codes that wait for a person."""
        return self._codes.pending(now, limit)

    def ungranted(self, now: float) -> list[PendingCode]:
        """Codes approved by ``now`` and in time, whose tokens never were in a delivered reply.

        For the end of a test: looks through all codes that are remembered.
        """
        return self._codes.ungranted(now)

    def introspect(self, access_token: str, now: float) -> AccessToken | None:
        """What is known of the token, or ``None`` where it is unknown, expired or revoked (RFC 7662)."""
        return self._tokens.introspect(access_token, now)

    def revoke(self, device_id: str, now: float) -> None:
        """End the newest grant of a device: access tokens are invalid, the refresh token is ``invalid_grant``.

        :raises LookupError: where no tokens were issued to the device.
        """
        self._tokens.revoke(device_id)
        self._append("revoke", "revoked", device_id, None, now)

    def expire(self, device_id: str, now: float) -> None:
        """End the access tokens of a device before their time; the refresh token stays good.

        :raises LookupError: where no tokens were issued to the device.
        """
        self._tokens.expire(device_id, now)
        self._append("revoke", "expired", device_id, None, now)

    def _decided(self, code: DeviceCode, kind: Kind, outcome: str, now: float) -> PendingCode:
        self._append(kind, outcome, code.device_id, code, now)
        return code.public()

    def _append(self, kind: Kind, outcome: str, device_id: str, code: DeviceCode | None, now: float) -> None:
        self.log.append(
            LogEntry(
                at=now,
                completed=now,
                arrival=self._arrivals,
                kind=kind,
                device_id=device_id,
                outcome=outcome,
                status=0,
                user_code=None if code is None else format_user_code(code.user_code),
                device_code=None if code is None else code.device_code,
            )
        )


def json_seconds(seconds: float) -> float | int:
    """Seconds as servers write them: 5, not 5.0."""
    return int(seconds) if float(seconds).is_integer() else seconds


def _error(code: str, description: str | None = None, status: int = 400) -> Reply:
    """RFC 6749 §5.2."""
    body = {"error": code} if description is None else {"error": code, "error_description": description}
    return Reply(status, body, code)
