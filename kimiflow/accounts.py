"""What a person says about accounts, beside signing them in.

Names, labels, which are not to be handed out, and that the server of some has moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.errors import RequestFailed, StillPending, UsageError
from kimiflow.model import State, Transition, account_names, valid_account_name
from kimiflow.parameters import shown
from kimiflow.provider import checked_url, issuer_of, origin_of
from kimiflow.stores.base import Amendment
from kimiflow.wire import MISCONFIGURED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimiflow.engine import Engine
    from kimiflow.model import Authorization, Sealed
    from kimiflow.stores.base import Snapshot

__all__ = ["ORIGIN_CHANGED", "Accounts", "valid_label"]

ORIGIN_CHANGED = "origin_changed"
"""The history's word for a server that has moved, as a person said."""

_LONGEST = 200


def valid_label(text: str) -> str | None:
    """``text`` without blanks around it; ``None`` where nothing is left.

    :raises UsageError: where a terminal could not show it on one line.
    """
    if not isinstance(text, str):  # not all callers are checked
        raise UsageError(f"a label is a text, not {shown(text)}")
    text = text.strip()
    if len(text) > _LONGEST or not text.isprintable():
        raise UsageError(f"a label is one line of up to {_LONGEST} printable characters")
    return text or None


class Accounts:
    """The accounts of an engine's store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def disable(self, names: Iterable[str]) -> None:
        """Keeps these accounts fresh, but has no pool hand them out.

        :raises UnknownAccount: where one does not exist; then nothing was done.
        """
        await self._engine.store.set_disabled(await self._ids(names), True)  # noqa: FBT003 - it is the value

    async def enable(self, names: Iterable[str]) -> None:
        """Takes :meth:`disable` back.

        :raises UnknownAccount: where one does not exist; then nothing was done.
        """
        await self._engine.store.set_disabled(await self._ids(names), False)  # noqa: FBT003 - it is the value

    async def label(self, names: Iterable[str], text: str | None) -> None:
        """Notes something about these accounts, in place of what was noted before; ``None`` for nothing.

        :raises UnknownAccount: where one does not exist; then nothing was done.
        :raises UsageError: where the text cannot be a label.
        """
        label = None if text is None else valid_label(text)
        await self._engine.store.set_label(await self._ids(names), label)

    async def rename(self, old: str, new: str) -> None:
        """Gives an account another name; its device id, tokens and history stay.

        :raises UnknownAccount: where there is none of the old name.
        :raises UsageError: where the new name is taken.
        :raises InvalidAccountName: where it is none.
        """
        valid_account_name(new)
        snapshot = await self._engine.snapshot(old)
        if not await self._engine.store.rename(snapshot.account.id, new):
            raise UsageError(
                f"there is an account {new} already",
                hint=f"Choose another name, or forget that one: kimiflow logout --forget {new}",
                account=old,
            )

    async def set_origin(self, names: Iterable[str], url: str) -> None:
        """Says that the server which issued these accounts' secrets is at ``url`` now: from now on they go there alone.

        Refreshes and polls that were refused because it was not known are due at once.

        :raises UnknownAccount: where one does not exist; then nothing was done.
        :raises InvalidSetting: where the URL is none that a secret may be sent to; likewise.
        :raises RequestFailed: where a request of one is under way all the time; the others were done.
        """
        if not isinstance(url, str):  # not all callers are checked
            raise UsageError(f"an origin is a URL, not {shown(url)}")
        origin = origin_of(checked_url("the origin", url))
        engine = self._engine
        left = {name: await engine.snapshot(name) for name in account_names(names)}
        deadline = engine.clock.monotonic() + engine.settings.http_timeout + 5.0
        while True:
            moved, now = engine.moved, engine.clock.now()
            amendments = {
                each.id: self._moved(snapshot, each, origin, now)
                for snapshot in left.values()
                for each in (snapshot.grant, snapshot.on_its_way)
                if each is not None and each.state is not State.REQUESTED and each.origin != origin
            }
            done = await engine.store.amend(list(amendments.values()), now)
            engine.stirred()
            if all(done):
                return
            undone = {each.before.account_id for each, was in zip(amendments.values(), done, strict=True) if not was}
            left = {name: await engine.snapshot(name) for name, was in left.items() if was.account.id in undone}
            try:
                await engine.wait_for(moved, deadline)
            except StillPending:
                raise RequestFailed(
                    f"a request is under way all the time for {', '.join(left)}; their origin is as it was",
                    hint="Try again.",
                    account=next(iter(left)),
                ) from None

    def _moved(self, snapshot: Snapshot, before: Authorization[Sealed], origin: str, now: float) -> Amendment:
        was = before.origin
        provider = self._engine.providers.get(snapshot.account.provider)
        if was is None and provider is not None:
            was = issuer_of(provider, None)
        after = before._replace(origin=origin, updated_at=now)
        if before.error == MISCONFIGURED:
            after = after._replace(next_attempt_at=now, attempts=0, error=None, error_description=None)
        detail = f"from {was} to {origin}" if was else f"to {origin}"
        return Amendment(before, after, Transition(now, before.state, before.state, ORIGIN_CHANGED, detail))

    async def _ids(self, names: Iterable[str]) -> list[str]:
        return [(await self._engine.snapshot(name)).account.id for name in account_names(names)]
