"""Start the foreign server, know where it is, end it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .person import Person

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ForeignServer", "running_server"]

# Named as this module was, so that it does not matter from which folder the tests were started.
SERVER_MODULE = f"{__package__}.server"
IMPORT_ROOT = Path(__file__).parents[len(SERVER_MODULE.split(".")) - 1]

SECONDS_TO_END = 10


@dataclass(frozen=True)
class ForeignServer:
    """A running authorization server, and what a client and a person need to know of it."""

    url: str  # also the base of its API: GET {url}/v1/me wants an access token
    client_id: str
    device_authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str
    person: Person
    database: Path
    process: subprocess.Popen[str]

    def let_expire(self, device_code: str) -> None:
        """Move the end of a device code's life into the past: the toolkit has no setting for its length."""
        with closing(sqlite3.connect(self.database, timeout=20)) as connection, connection:
            changed = connection.execute(
                "UPDATE oauth2_provider_devicegrant SET expires = '2000-01-01' WHERE device_code = ?",
                (device_code,),
            )
            assert changed.rowcount == 1, "the server never gave that device code out"


@contextmanager
def running_server(directory: Path) -> Iterator[ForeignServer]:
    """Run the server on a free port of loopback, with its database and its log in ``directory``."""
    log = directory / "server.log"
    command = [sys.executable, "-m", SERVER_MODULE, "--directory", str(directory)]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command,
            cwd=IMPORT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the foreign server did not start:\n{log.read_text()}")
            facts = json.loads(line)
            facts["person"] = Person(**facts["person"])
            facts["database"] = Path(facts["database"])
            yield ForeignServer(**facts, process=process)
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
