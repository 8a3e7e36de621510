"""What the device headers say of this program and this machine."""

from __future__ import annotations

import platform
import socket
from functools import cache

from kimiflow._version import __version__
from kimiflow.wire import Identity

__all__ = ["local"]

_SYSTEMS = {"Darwin": "macOS"}
_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "ARM64": "arm64", "i686": "386"}


@cache
def local() -> Identity:
    """Host name, and system with architecture as in ``Linux amd64``."""
    try:
        name = socket.gethostname()
    except OSError:
        name = ""
    system, machine = platform.system(), platform.machine()
    return Identity(
        platform="kimiflow",
        version=__version__,
        device_name=name,
        device_model=f"{_SYSTEMS.get(system, system)} {_ARCHITECTURES.get(machine, machine)}".strip(),
    )
