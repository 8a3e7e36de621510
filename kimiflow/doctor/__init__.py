"""What is wrong around kimiflow, and what to do about it. Looks, and changes nothing.

Each module examines one place and returns findings; none raises what it finds. No secret is sent, and none is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.doctor.files import examine_files
from kimiflow.doctor.findings import Finding
from kimiflow.doctor.servers import examine_servers
from kimiflow.doctor.storage import examine_storage

if TYPE_CHECKING:
    from kimiflow.settings import Settings

__all__ = ["Finding", "examine"]


async def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which it is worth mending."""
    findings = examine_files(settings)
    found, accounts = await examine_storage(settings)
    return [*findings, *found, *await examine_servers(settings, accounts)]
