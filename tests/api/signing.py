"""Accounts that are signed in at a sandbox, and clients that use them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from kimiflow import KimiFlow
    from kimiflow.sandbox import LogEntry, Sandbox, ThreadedSandbox

HELLO = {"model": "kimi-for-coding", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class World:
    flow: KimiFlow
    sandbox: Sandbox
    devices: dict[str, str] = field(default_factory=dict)

    async def sign_in(self, name: str) -> None:
        await self.flow.login(name)
        await self.flow.wait(name)
        self.devices[name] = (await self.flow.token(name)).device_id

    def client(self, auth: httpx.Auth, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(auth=auth, base_url=self.flow.api_base("a"), trust_env=False, **options)

    def fault(self, fault: str, *names: str) -> None:
        """A fault of the API, for these accounts only."""
        for name in names:
            self.sandbox.inject(fault, device_id=self.devices[name])

    def limit(self, name: str, seconds: float, **options: Any) -> None:
        self.sandbox.limit(self.devices[name], seconds, **options)

    def served(self) -> list[str]:
        """The accounts that completions were made as, in order."""
        return served(self.sandbox, self.devices)

    def calls(self) -> list[tuple[str, int]]:
        """Accounts and statuses of all requests for completions."""
        names = {device: name for name, device in self.devices.items()}
        return [(names[e.device_id], e.status) for e in self.sandbox.log("api") if e.path == "/v1/chat/completions"]


def served(sandbox: Sandbox | ThreadedSandbox, devices: dict[str, str]) -> list[str]:
    names = {device: name for name, device in devices.items()}
    return [names[bearer_of(entry)] for entry in sandbox.log("api") if entry.outcome == "served"]


def bearer_of(entry: LogEntry) -> str:
    """Whose token it was; the device id that was sent has to be the same account's."""
    assert entry.bearer == entry.device_id
    return entry.bearer
