"""What a person says about accounts, beside signing them in: names, labels, and which are not to be handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.errors import UsageError
from kimiflow.model import valid_account_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimiflow.engine import Engine

__all__ = ["Accounts", "valid_label"]

_LONGEST = 200


def valid_label(text: str) -> str | None:
    """``text`` without blanks around it; ``None`` where nothing is left.

    :raises UsageError: where a terminal could not show it on one line.
    """
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

    async def _ids(self, names: Iterable[str]) -> list[str]:
        return [(await self._engine.snapshot(name)).account.id for name in dict.fromkeys(names)]
