"""What tests run in processes of their own: ``python -m tests.stores.children ACT URL``."""

from __future__ import annotations

import asyncio
import sys

from kimiflow.stores.base import Outcome
from kimiflow.stores.registry import open_store

from .contract.making import NOW, beginning, pending, poll

ROWS = 200


async def commit_for_ever(url: str) -> None:
    """Tells of each commit after it returned: its number is the ``updated_at`` of every row."""
    store = open_store(url)
    await store.open()
    number = 0
    while True:
        number += 1
        claims = await store.claim_due("child", NOW + 10 * number, 5.0, ROWS)
        outcomes = await store.commit([poll(claim, NOW + 10 * number) for claim in claims])
        if outcomes != [Outcome.COMMITTED] * ROWS:
            raise SystemExit(f"lost at {number}")
        print(number, flush=True)


async def open_and_begin(url: str) -> None:
    """Waits for the word, then opens a database that others open too."""
    print("ready", flush=True)
    sys.stdin.readline()
    store = open_store(url)
    await store.open()
    begun = await store.begin([beginning(pending())])
    await store.close()
    print(begun, flush=True)


async def open_and_tell_of_alembic(url: str) -> None:
    """Says whether opening needed Alembic."""
    store = open_store(url)
    await store.open()
    await store.close()
    print("alembic" in sys.modules, flush=True)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](sys.argv[2]))
