"""``kimiflow disable``, ``enable``, ``rename``, ``label`` and ``set``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.cli.names import expanded
from kimiflow.cli.running import run
from kimiflow.cli.talk import result
from kimiflow.provider import origin_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.flow import KimiFlow

__all__ = ["label", "rename", "set_disabled", "set_origin"]


def set_disabled(patterns: Sequence[str], *, disabled: bool) -> int:
    """Runs ``kimiflow disable`` and ``kimiflow enable``; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        names = await expanded(flow, patterns)
        await (flow.accounts.disable(names) if disabled else flow.accounts.enable(names))
        for name in names:
            result(f"{name}: {'disabled' if disabled else 'enabled'}")
        return 0

    return run(body)


def rename(old: str, new: str) -> int:
    """Runs ``kimiflow rename``; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        await flow.accounts.rename(old, new)
        result(f"{old}: now {new}")
        return 0

    return run(body)


def set_origin(patterns: Sequence[str], url: str) -> int:
    """Runs ``kimiflow set``; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        names = await expanded(flow, patterns)
        await flow.accounts.set_origin(names, url)
        for name in names:
            result(f"{name}: its secrets go to {origin_of(url)} from now on")
        return 0

    return run(body)


def label(patterns: Sequence[str], text: str | None) -> int:
    """Runs ``kimiflow label``; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        names = await expanded(flow, patterns)
        before = {status.account: status.label for status in await flow.status(names)}
        await flow.accounts.label(names, text)
        for name, status in {each.account: each for each in await flow.status(names)}.items():
            was = f" (was: {before[name]})" if before[name] and before[name] != status.label else ""
            result(f"{name}: {status.label or 'no label'}{was}")
        return 0

    return run(body)
