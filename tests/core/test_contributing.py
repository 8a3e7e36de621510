"""CONTRIBUTING leads to rooms that are there, and the linter knows of every room."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_every_path_that_it_names_is_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./]+(?:\.py|/))(?::\w+)?`", text)
    assert len(named) > 40
    assert [
        path for path in named if not ((REPOSITORY / path).exists() or (REPOSITORY / "kimiflow" / path).exists())
    ] == []


def test_every_module_has_its_floor() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = {name.split(".")[1] for layer in layers for name in layer.split(" | ")}
    rooms = {path.stem for path in (REPOSITORY / "kimiflow").iterdir() if path.suffix == ".py" or _is_package(path)}
    # The sandbox stands beside the house: another contract sees to it.
    assert rooms - floors == {"__init__", "sandbox"}


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()
