"""``kimiflow logout``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.cli.names import expanded
from kimiflow.cli.running import run
from kimiflow.cli.talk import result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.flow import KimiFlow
    from kimiflow.signout import Departure

__all__ = ["logout"]


def logout(patterns: Sequence[str], *, forget: bool, revoke: bool) -> int:
    """Runs the command; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        names = await expanded(flow, patterns)
        for departure in await flow.sign_out(names, forget=forget, revoke=revoke):
            done = "forgotten" if forget else "signed out"
            result(f"{departure.account}: {done}{_and_there(departure)}")
        return 0

    return run(body)


def _and_there(departure: Departure) -> str:
    """What became of it at the server, where there was anything to tell."""
    if departure.issuer is None:
        return ""
    if departure.reason is None:
        return "; the server was told"
    reason, where = departure.reason, departure.issuer
    return f" here; {where} could not be told ({reason}): its tokens stay valid there until they end"
