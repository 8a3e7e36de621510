"""``kimiflow doctor``: everything around kimiflow that may be wrong, and what to do."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from kimiflow.cli.failures import FAILURE
from kimiflow.cli.running import settled_settings
from kimiflow.cli.talk import paint, result, result_json
from kimiflow.doctor import Finding, examine
from kimiflow.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["doctor"]


def doctor(*, as_json: bool) -> int:
    """Runs the command; returns the exit code."""
    try:
        settings = settled_settings(log_level="error")
    except InvalidSetting as error:
        findings = [Finding.of("settings", error, "Correct it, or take it away.")]
    else:
        findings = asyncio.run(examine(settings))
    if as_json:
        result_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    return 0 if all(finding.ok for finding in findings) else FAILURE


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = paint("ok ", "green", sys.stdout) if finding.ok else paint("BAD", "red", sys.stdout)
        result(f"{mark}  {finding.check.ljust(width)}  {finding.what}")
        if finding.todo:
            result(f"     {' ' * width}  -> {finding.todo}")
