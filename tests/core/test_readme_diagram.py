"""The README draws the machine that runs."""

from __future__ import annotations

import re
from pathlib import Path

from kimiflow.machine import to_mermaid


def test_the_readme_shows_the_live_machine() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```mermaid\n(.*?)\n```$", readme, re.DOTALL | re.MULTILINE)
    assert blocks == [to_mermaid()], "paste the output of: kimiflow machine"
