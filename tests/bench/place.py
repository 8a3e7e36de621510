"""Where a benchmark runs: the server's process, the certificates, the cores."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Place", "place"]


@dataclass(frozen=True)
class Place:
    """The server's URLs, and the context that trusts it."""

    http: str
    https: str
    tls: ssl.SSLContext
    folder: Path
    core: int | None = None
    """The one that servers have for themselves, where there are two."""

    @contextmanager
    def server_core(self) -> Iterator[None]:
        """What is started in this block runs there: a database server is another machine's work, like the other one."""
        if self.core is None:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def counters(self) -> dict[str, float]:
        """What the server has seen since :meth:`reset`."""
        with urllib.request.urlopen(f"{self.http}/counters") as reply:
            found: dict[str, float] = json.load(reply)
            return found

    def reset(self, *, codes: bool = False) -> None:
        """Starts counting anew; with ``codes`` it also counts how many different codes are polled."""
        path = "/reset/codes" if codes else "/reset"
        urllib.request.urlopen(urllib.request.Request(self.http + path, method="POST")).close()


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Servers on a core of their own, where there are two; this process stays on the other."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    apart = len(cores) > 1
    if apart:
        os.sched_setaffinity(0, {cores[0]})
    certificate = _certificate(folder)
    command = [sys.executable, "-m", "tests.bench.server", str(certificate), str(cores[1]) if apart else ""]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        ports = json.loads(server.stdout.readline())
        context = ssl.create_default_context(cafile=str(certificate))
        yield Place(
            f"http://127.0.0.1:{ports['http']}",
            f"https://localhost:{ports['https']}",
            context,
            folder,
            cores[1] if apart else None,
        )
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(10)
        assert server.stdout is not None
        server.stdout.close()
        if apart:
            os.sched_setaffinity(0, set(cores))
