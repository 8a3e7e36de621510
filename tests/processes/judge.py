"""The promises, held against the server's log and what is in the store at the end.

What no worker can help is excused, and only that: tokens whose reply never arrived, or arrived at a process that was
killed before it could commit.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from kimiflow.model import HOLDS_TOKENS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from kimiflow.sandbox import Authority, LogEntry
    from kimiflow.stores.base import Snapshot
    from kimiflow.vault import Vault

COMMIT_WITHIN = 1.5
"""Seconds after a reply in which a killed worker may be excused for not having committed it."""

BACKLOG = 2.0
"""Seconds for which a request may have waited for the server, which then replies to a worker that is dead already
without having noticed."""


def killed_around(issue: LogEntry, killed_at: Iterable[float], commit_within: float = COMMIT_WITHIN) -> list[float]:
    """Seconds from a reply to each kill that may have kept it from being committed."""
    return [at - issue.completed for at in killed_at if issue.at - BACKLOG < at < issue.completed + commit_within]


def misdeeds(log: Iterable[LogEntry], *, stopped: Collection[str] = ()) -> list[str]:
    """What the log shows that must not happen.

    :param stopped: devices whose worker was stopped past its lease in the middle of a request, which may therefore
        overlap with the next worker's.
    """
    entries = sorted(log, key=lambda entry: entry.arrival)
    predecessor: dict[str, str] = {}
    retired: set[str] = set()
    found = []
    for entry in entries:
        if entry.kind == "refresh" and entry.refresh_token is not None:
            if entry.refresh_token in retired:
                found.append(f"sent after its successor was used: {entry}")
            if entry.concurrent and entry.device_id not in stopped:
                found.append(f"in flight twice: {entry}")
            if entry.refresh_token in predecessor:
                retired.add(predecessor[entry.refresh_token])
            if entry.issued_refresh_token is not None:
                predecessor[entry.issued_refresh_token] = entry.refresh_token
        if entry.too_fast:
            found.append(f"polled too fast: {entry}")
        if entry.kind == "redirected" and entry.credential is not None:
            found.append(f"a secret followed a redirect: {entry}")
    return found


class Verdict:
    """What became of each account: ``kept``, ``excused`` or, which must not be, ``lost``."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.excused: list[str] = []
        self.lost: list[str] = []


def outcome(
    snapshots: Sequence[Snapshot], authority: Authority, vault: Vault, *, killed_at: Sequence[float] = ()
) -> Verdict:
    """Whether each account holds what the server issued last. For when no worker runs any more.

    :param killed_at: when workers were killed, by the server's clock.
    """
    verdict = Verdict()
    issued: defaultdict[str, list[LogEntry]] = defaultdict(list)
    for entry in sorted(authority.log, key=lambda entry: entry.arrival):
        if entry.issued_refresh_token is not None:
            issued[entry.device_id].append(entry)
    for snapshot in snapshots:
        account, grant = snapshot.account, snapshot.grant
        if grant is not None and grant.state in HOLDS_TOKENS and grant.refresh_token is not None:
            token = vault.open(grant.refresh_token, grant.id, "refresh_token").reveal()
            known = authority._tokens.find_refresh(token)
            if known is not None and not known.used and not known.family.revoked:
                verdict.kept.append(account.name)
                continue
        excused = any(
            not entry.delivered or killed_around(entry, killed_at) for entry in issued[account.device_id][-1:]
        )
        if excused:
            verdict.excused.append(account.name)
        else:
            shown = snapshot.shown
            told = "nothing" if shown is None else f"{shown.state.value} ({shown.error}: {shown.error_description})"
            verdict.lost.append(f"{account.name}: {told}; issued: {issued[account.device_id][-2:]}")
    return verdict
