"""What happened, request by request, so that a judge can say afterwards whether a client behaved.

What each promise of a client looks like in the log:

- *No code is polled faster than its interval*: no ``poll`` entry is ``too_fast``. ``interval`` is the one in force,
  which is to say the last one that a reply told the client and that was delivered; ``gap`` is the time since the
  poll before.
- *No refresh token is in flight twice*: no ``refresh`` entry is ``concurrent``. From ``at`` to ``completed`` a
  request was in the server's hands.
- *None is sent again after its successor was used*: once an entry has presented the ``issued_refresh_token`` of
  another, no later one presents that other's ``refresh_token``. (``reuse`` alone is no proof of a mistake: where the
  reply was never ``delivered``, the client cannot know that the token is spent.)
- *What was approved is granted*: each ``approve`` has a ``poll`` with the same ``device_code`` that is ``issued``;
  `Authority.ungranted` lists those that have none.
- *A secret follows no redirect*: no ``redirected`` entry has a `LogEntry.credential`.
- *A server that asks for patience gets it*: no entry of the same credential arrives within ``retry_after`` of
  ``completed``.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from kimiflow.sandbox.codes import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NOT_PROCESSED", "Kind", "Log", "LogEntry"]

Kind: TypeAlias = Literal[
    "device_authorization", "poll", "refresh", "token", "revocation", "redirected", "api", "approve", "deny", "revoke"
]
"""What an entry is about. ``token`` is a token request with another grant type or none; ``revocation`` is a client's
word that it needs a token no more (RFC 7009); ``redirected`` is a request that followed a redirect; ``api`` one with an
access token; the last three are what a person or a test did."""

NOT_PROCESSED: Final = "not_processed"
"""The outcome where a fault came before the server looked at the request."""

_SECRETS: Final = frozenset(
    {"device_code", "refresh_token", "access_token", "issued_access_token", "issued_refresh_token"}
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LogEntry:
    """One request, or one decision of a person. Times in Unix seconds, durations in seconds.

    Codes and tokens stand here whole, so that entries can be matched to each other and to what a client holds;
    ``repr`` shows their fingerprints only.

    :ivar at: when the request had arrived.
    :ivar completed: when the last byte of the reply was handed over, or the connection was gone.
    :ivar arrival: counts up by one from request to request; entries are appended on completion, so sort by
        this for the order of arrival.
    :ivar device_id: the ``X-Msh-Device-Id`` header; empty where it was not sent.
    :ivar device_code: the one presented by a poll, issued by a device authorization, decided by a person.
    :ivar refresh_token: the one presented by a refresh, or by a revocation unless its hint says otherwise.
    :ivar issued_refresh_token: the successor; the same token where it was not rotated.
    :ivar access_token: the one presented to the API, or by a revocation whose hint says so.
    :ivar bearer: the device id of the account that it was issued to; ``None`` where it is not valid.
    :ivar path: what was asked of the API.
    :ivar outcome: an error code, or ``issued``, ``served``, ``approved``, ``denied``, ``revoked``; ``unknown`` for the
        revocation of a token that nobody has; ``not_processed`` where a fault came first. It is what the server did,
        whether or not anybody learned of it.
    :ivar status: the HTTP status sent, 0 where none was.
    :ivar delivered: whether the whole reply was handed over to a connection that was still open.
    :ivar fault: the faults that had a part in it, as `Fault.spec` writes them.
    :ivar reuse: a device code or refresh token that was already spent.
    :ivar concurrent: the same credential was in another request that was still under way.
    :ivar retry_after: the seconds that the reply asked to wait.
    """

    at: float
    completed: float
    arrival: int
    kind: Kind
    device_id: str
    outcome: str
    status: int
    delivered: bool = True
    fault: str | None = None
    user_code: str | None = None
    device_code: str | None = None
    refresh_token: str | None = None
    access_token: str | None = None
    bearer: str | None = None
    path: str | None = None
    issued_access_token: str | None = None
    issued_refresh_token: str | None = None
    too_fast: bool = False
    interval: float | None = None
    gap: float | None = None
    reuse: bool = False
    concurrent: bool = False
    retry_after: float | None = None

    @property
    def credential(self) -> str | None:
        """The code or token that it is about: presented, or for a device authorization the one issued."""
        for credential in (self.refresh_token, self.device_code, self.access_token):
            if credential is not None:
                return credential
        return None

    @property
    def fingerprint(self) -> str | None:
        """A short stand-in for `credential` that can be shown."""
        return None if self.credential is None else fingerprint(self.credential)

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default and field.name != "delivered":
                continue
            shown.append(f"{field.name}={fingerprint(value) if field.name in _SECRETS else repr(value)}")
        return f"LogEntry({', '.join(shown)})"


class Log:
    """The newest entries, and counters of all that ever were.

    :ivar counts: by ``kind.outcome`` (``poll.authorization_pending``) and by what was remarkable
        (``poll.too_fast``, ``refresh.reuse``, ``refresh.concurrent``, ``poll.undelivered``).
    """

    __slots__ = ("_entries", "counts")

    def __init__(self, limit: int | None = None) -> None:
        self._entries: deque[LogEntry] = deque(maxlen=limit)
        self.counts: Counter[str] = Counter()

    def append(self, entry: LogEntry) -> None:
        self._entries.append(entry)
        counts, kind = self.counts, entry.kind
        counts[f"{kind}.{entry.outcome}"] += 1
        if entry.too_fast:
            counts[f"{kind}.too_fast"] += 1
        if entry.reuse:
            counts[f"{kind}.reuse"] += 1
        if entry.concurrent:
            counts[f"{kind}.concurrent"] += 1
        if not entry.delivered:
            counts[f"{kind}.undelivered"] += 1

    def __iter__(self) -> Iterator[LogEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def select(self, kind: Kind | None = None, device_id: str | None = None) -> list[LogEntry]:
        """The entries of one kind, of one device, or both; in the order of completion."""
        return [
            entry
            for entry in self._entries
            if (kind is None or entry.kind == kind) and (device_id is None or entry.device_id == device_id)
        ]
