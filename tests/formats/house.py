"""A home, a sandbox, and folders of other tools."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kimiflow.cli import main
from kimiflow.flow import KimiFlow
from kimiflow.sandbox import KIMI_CLIENT_ID
from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import Cli
from tests.sandbox.client import poll_form

DASHED = "0f3c9d52-7a1e-4c9b-8f0a-2b6d1e5a4c33"
HEX = DASHED.replace("-", "")


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class House:
    """Runs commands in this process, which is quick, or in others, which can be killed."""

    def __init__(self, sandbox: ThreadedSandbox, root: Path, cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
        self.sandbox = sandbox
        self.root = root
        self.cli = cli
        self._capfd = capfd

    def __call__(self, *arguments: str | Path) -> Done:
        self._capfd.readouterr()
        code = main([str(each) for each in arguments])
        out, err = self._capfd.readouterr()
        return Done(code, out, err)

    def good(self, *arguments: str | Path) -> Done:
        done = self(*arguments)
        assert done.code == 0, done
        return done

    def issue(self, device_id: str = DASHED) -> dict[str, Any]:
        """What another tool got when it signed in: the body of a token response."""
        sandbox = self.sandbox

        def sign_in() -> dict[str, Any]:
            now, authority = time.time(), sandbox._sandbox.authority
            started = authority.device_authorization({"client_id": KIMI_CLIENT_ID}, device_id, now).body
            authority.approve(started["user_code"], now)
            return dict(authority.token(poll_form(started["device_code"]), device_id, now).body)

        return sandbox.run(sign_in)

    def sign_in(self, *names: str) -> None:
        """Accounts of our own."""

        async def approved() -> None:
            async with KimiFlow.open() as flow:
                for name in names:
                    await flow.login(name)
                for code in self.sandbox.pending():
                    self.sandbox.approve(code.user_code)
                for name in names:
                    await flow.wait(name)

        asyncio.run(approved())

    def status(self) -> dict[str, dict[str, Any]]:
        return {each["account"]: each for each in self.good("status", "--json").json}

    # Files of other tools

    def cliproxyapi(self, name: str = "kimi-1712345678901.json", **changes: Any) -> Path:
        device_id = changes.get("device_id", DASHED)
        issued = changes.pop("issued", None) or self.issue(device_id)
        content = {
            "access_token": issued["access_token"],
            "device_id": device_id,
            "disabled": False,
            "expired": "2030-01-01T00:00:00Z",
            "refresh_token": issued["refresh_token"],
            "scope": "kimi-code",
            "timestamp": 1712345678901,
            "token_type": "Bearer",
            "type": "kimi",
        }
        return self.write(f"proxy/{name}", json.dumps(content | changes, sort_keys=True))

    def kimi_cli(self, folder: str = ".kimi", *, device_id: str | None = HEX, **changes: Any) -> Path:
        issued = self.issue(device_id or DASHED)
        content = {
            "access_token": issued["access_token"],
            "refresh_token": issued["refresh_token"],
            "expires_at": time.time() + 900.5,
            "scope": "kimi-code",
            "token_type": "Bearer",
            "expires_in": 900.0,
        }
        if device_id is not None:
            self.write(f"{folder}/device_id", device_id)
        return self.write(f"{folder}/credentials/kimi-code.json", json.dumps(content | changes))

    def kimi_code(self, folder: str = ".kimi-code", **changes: Any) -> Path:
        path = self.kimi_cli(folder, device_id=DASHED, **({"expires_at": 1893456000, "expires_in": 900} | changes))
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
        return path

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    # What the server saw

    def refreshes(self) -> int:
        return len(self.sandbox.log("refresh"))

    def secrets(self) -> set[str]:
        """Every refresh token that was ever issued."""
        return {entry.issued_refresh_token for entry in self.sandbox.log() if entry.issued_refresh_token}

    # Processes that are killed

    def killed(self, patch: str, *arguments: str | Path) -> None:
        """A command in a process that ``patch`` has prepared to die; ``die()`` is SIGKILL."""
        code = (
            "import os, signal, sys\n"
            "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
            "async def adie(*_, **__): die()\n"
            f"{patch}\n"
            "from kimiflow.cli import main\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=self.cli.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, (done.returncode, done.stdout, done.stderr)


def loaded(path: Path) -> Any:
    return json.loads(path.read_bytes())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
