"""A program that never leaves its ``KimiFlow`` ends all the same, wherever it stops, and as it says."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

_SAFETY_NET: Final = 60.0

_ENTERS: Final = """
import asyncio, sys, threading
from pathlib import Path
from kimiflow import KimiFlow, Settings, sync

flow = KimiFlow.open(Settings(home=Path(sys.argv[1]), database_url=sys.argv[2]))

async def enter():
    await flow.__aenter__()
    await flow._store.changed(0.0)  # by now everything is connected that the engine connects by itself
    print("entered", flush=True)
"""

_AND_ENDS: Final = {
    "by SystemExit inside": """
async def main():
    await enter()
    raise SystemExit(5)

asyncio.run(main())
""",
    "after its loop": """
asyncio.run(enter())
raise SystemExit(5)
""",
    "with a loop that nobody closed": """
loop = asyncio.new_event_loop()
loop.run_until_complete(enter())
raise SystemExit(5)
""",
    "without a loop of its own": """
other = sync.KimiFlow(flow).__enter__()
print("entered", flush=True)
raise SystemExit(5)
""",
}

_AT_THREAD: Final = """
start, number = threading.Thread.start, 0

def counting(thread):
    global number
    start(thread)
    number += 1
    if number == int(sys.argv[3]):
        raise SystemExit(5)

threading.Thread.start = counting
asyncio.run(enter())
print(number, flush=True)
"""


def _run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _ENTERS + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=_SAFETY_NET, check=False)


@pytest.mark.parametrize("how", _AND_ENDS)
def test_it_ends_as_it_says(how: str, database_url: str, tmp_path: Path) -> None:
    ended = _run(_AND_ENDS[how], tmp_path / "home", database_url)
    assert (ended.stdout, ended.returncode) == ("entered\n", 5), ended.stderr


def test_it_ends_whichever_thread_of_the_start_was_the_last(tmp_path: Path) -> None:
    """``SystemExit``, as a signal's handler raises it, in the middle of entering: once after each thread that starts."""

    def at(number: int) -> subprocess.CompletedProcess[str]:
        return _run(_AT_THREAD, tmp_path / f"home-{number}", f"sqlite:///{tmp_path / f'{number}.db'}", str(number))

    threads = int(at(0).stdout.split()[-1])
    assert threads > 3, "readers, the writer, the watch, and what imports Alembic"
    with ThreadPoolExecutor(2) as several:
        for ended in several.map(at, range(1, threads + 1)):
            assert ended.returncode == 5, ended.stderr
