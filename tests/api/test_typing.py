"""Applications that are type-checked find kimiflow typed, all the way."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path


def test_what_applications_do_type_checks_strictly(tmp_path: Path) -> None:
    file = Path(__file__).with_name("public_api.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    cache = file.parents[2] / ".mypy_cache" / "public_api"
    done = subprocess.run(
        [*command, "--warn-unused-ignores", f"--cache-dir={cache}", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (files("kimiflow") / "py.typed").is_file()
