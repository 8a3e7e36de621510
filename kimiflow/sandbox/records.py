"""What the authority remembers, and what it says: device codes, tokens and their families, replies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimiflow.sandbox.codes import fingerprint, format_user_code
from kimiflow.sandbox.log import NOT_PROCESSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimiflow.sandbox.faults import Fault
    from kimiflow.sandbox.log import Kind

__all__ = ["AccessToken", "ApiCall", "Exchange", "PendingCode", "Reply", "UserCodeError"]


class UserCodeError(ValueError):
    """A decision about a user code that cannot be taken: it is unknown, expired, or decided already."""


@dataclass(frozen=True, slots=True)
class PendingCode:
    """A device code that waits for a person, without its secret. Times in Unix seconds."""

    user_code: str
    client_id: str
    device_id: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What is known of a valid access token (RFC 7662 §2.2). Times in Unix seconds."""

    client_id: str
    device_id: str
    scope: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What the authority answers: an HTTP status and a JSON object. ``outcome`` is an error code or ``issued``."""

    status: int
    body: dict[str, Any]
    outcome: str

    def __repr__(self) -> str:
        return f"Reply({self.status}, {self.outcome!r})"


@dataclass(frozen=True, slots=True, repr=False)
class ApiCall:
    """A request to the API. ``access_token`` is the bearer token that came with it, where one did."""

    method: str
    path: str
    access_token: str | None
    body: bytes = b""

    def __repr__(self) -> str:
        return f"ApiCall({self.method} {self.path}, {len(self.body)} bytes)"


@dataclass(slots=True, repr=False)
class DeviceCode:
    """A device code from its issue until it is forgotten."""

    device_code: str
    user_code: str
    client_id: str
    device_id: str
    issued_at: float
    expires_at: float
    interval: float
    last_poll: float
    approve_at: float | None
    polled: bool = False
    denied: bool = False
    spent: bool = False
    granted: bool = False

    def __repr__(self) -> str:
        return f"DeviceCode({fingerprint(self.device_code)}, {format_user_code(self.user_code)})"

    def approved(self, now: float) -> bool:
        """Whether the approval is due, which is not to say that it was in time."""
        return self.approve_at is not None and self.approve_at <= now

    def public(self) -> PendingCode:
        """What may be shown of it."""
        return PendingCode(
            format_user_code(self.user_code), self.client_id, self.device_id, self.issued_at, self.expires_at
        )


@dataclass(slots=True)
class Family:
    """All tokens that descend from one approval; they are revoked together."""

    client_id: str
    device_id: str
    scope: str
    revoked: bool = False
    ended_at: float = -math.inf
    """Access tokens issued until then are not valid any more."""


@dataclass(slots=True, repr=False)
class RefreshToken:
    family: Family
    used: bool = False


@dataclass(slots=True, repr=False)
class Exchange:
    """One request while it is under way. Made by `Authority.arrive`, ended by `Authority.complete`.

    :ivar hold: seconds to wait before `Service.act`; infinite where only the client's leaving ends it.
    """

    at: float
    arrival: int
    kind: Kind
    form: Mapping[str, str] | None
    device_id: str
    client_id: str = ""
    device_code: str | None = None
    refresh_token: str | None = None
    access_token: str | None = None
    concurrent: bool = False
    call: ApiCall | None = None
    bearer: str | None = None
    code: DeviceCode | None = None
    too_fast: bool = False
    interval: float | None = None
    gap: float | None = None
    hold: float = 0.0
    fault: Fault | None = None
    struck_by: str | None = None
    outcome: str = NOT_PROCESSED
    reuse: bool = False
    user_code: str | None = None
    issued_access_token: str | None = None
    issued_refresh_token: str | None = None
    slower: float | None = None
    retry_after: float | None = None

    @property
    def presented(self) -> str | None:
        """The code or token that came with the request."""
        return self.refresh_token if self.kind == "refresh" else self.device_code if self.kind == "poll" else None

    def struck(self, fault: Fault) -> None:
        """Note that ``fault`` had a part in this exchange."""
        self.struck_by = fault.spec if self.struck_by is None else f"{self.struck_by} {fault.spec}"

    def __repr__(self) -> str:
        presented = "" if self.presented is None else f", {fingerprint(self.presented)}"
        return f"Exchange({self.kind}{presented}, {self.outcome!r})"
