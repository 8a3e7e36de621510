"""``kimiflow sandbox``: an authorization server to play with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kimiflow.cli.talk import result, say
from kimiflow.errors import KimiFlowError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["list_faults", "serve"]


def list_faults() -> int:
    """Prints what ``--fault`` takes; returns the exit code."""
    from kimiflow.sandbox import describe_faults

    result(
        "KIND[/VALUE][:ENDPOINT][=PROBABILITY or =xCOUNT]; ENDPOINT: device, poll, refresh, token, api or any. KIND:"
    )
    result(describe_faults())
    return 0


def serve(
    *,
    port: int,
    approve: str,
    faults: Sequence[str],
    interval: float,
    code_lifetime: float,
    token_lifetime: float,
) -> int:
    """Runs the command until Ctrl-C or SIGTERM; returns the exit code."""
    from kimiflow.sandbox import API_BASE
    from kimiflow.sandbox.server import Sandbox
    from kimiflow.sandbox.server import serve as run
    from kimiflow.sandbox.settings import parse_policy

    try:
        server = Sandbox(
            port=port,
            approve=parse_policy(approve),
            faults=faults,
            interval=interval,
            code_lifetime=code_lifetime,
            token_lifetime=token_lifetime,
        )
    except ValueError as error:
        raise UsageError(str(error), hint="How it is used: kimiflow sandbox --help") from None
    listening = False

    def tell(url: str) -> None:
        nonlocal listening
        listening = True
        result(url)
        # With a home of its own: of a real refresh token this server says that it is worthless, and that ends a grant.
        servers = f"KIMIFLOW_OAUTH_HOST={url} KIMIFLOW_API_BASE={url}{API_BASE}"
        result(f'export {servers} KIMIFLOW_HOME="$(mktemp -d)"')
        say("Type that line in another terminal, then for example: kimiflow login work")
        say(f"Approve or deny in a browser, at {url}. Ctrl-C stops the server.")

    try:
        asyncio.run(run(server, tell))
    except OSError as error:
        if listening:
            raise
        raise KimiFlowError(
            f"port {port} cannot be listened on: {error.strerror}", hint="Choose another: kimiflow sandbox --port 0"
        ) from None
    return 0
