"""``kimiflow logout``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.cli.names import expanded
from kimiflow.cli.running import run
from kimiflow.cli.talk import result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.flow import KimiFlow

__all__ = ["logout"]


def logout(patterns: Sequence[str], *, forget: bool) -> int:
    """Runs the command; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        names = await expanded(flow, patterns)
        await flow.logout(names, forget=forget)
        for name in names:
            result(f"{name}: {'forgotten' if forget else 'signed out'}")
        return 0

    return run(body)
