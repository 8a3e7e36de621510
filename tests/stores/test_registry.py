"""Stores by the scheme of their URL, those of other packages included."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kimiflow.errors import InvalidSetting
from kimiflow.stores import registry
from kimiflow.stores.memory import MemoryStore
from kimiflow.stores.registry import known_schemes, open_store
from kimiflow.stores.sql import SqlStore


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a store, installed as pip would."""
    site = tmp_path / "site"
    info = site / "toy_store-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-store\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[kimiflow.stores]\ntoy = toy_store:ToyStore\nbroken = toy_store:NoSuchStore\nabsent = no_such_module:Store\n"
    )
    (site / "toy_store.py").write_text(
        "from kimiflow.stores.memory import MemoryStore\n\n\n"
        "class ToyStore(MemoryStore):\n"
        "    def __init__(self, url):\n"
        "        super().__init__()\n"
        "        self.url = url\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("toy_store", None)


def test_kimiflows_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not even where the metadata is missing.
    monkeypatch.setattr(registry, "entry_points", None)
    assert isinstance(open_store("memory://"), MemoryStore)
    for scheme in ("sqlite", "sqlite+aiosqlite", "SQLite"):
        if scheme != "SQLite":
            assert isinstance(open_store(f"{scheme}:///{tmp_path}/x.db"), SqlStore)


async def test_the_store_of_another_package(toy: Path) -> None:
    for url in ("toy://user:hunter2@host/x", "toy+fast:anything"):
        store = open_store(url)
        assert type(store).__name__ == "ToyStore"
        assert store.url == url
    await store.open()
    assert await store.snapshots() == []
    await store.close()
    assert {"absent", "broken", "memory", "sqlite", "toy"} <= set(known_schemes())


@pytest.mark.parametrize("scheme", ["broken", "absent"])
def test_a_store_that_does_not_load(toy: Path, scheme: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{scheme!r}, but its store .* does not load") as caught:
        open_store(f"{scheme}://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://user:hunter2@host/0", "hunter2", "", "://hunter2"])
def test_an_unknown_scheme(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        open_store(url)
    told = str(caught.value)
    assert "KIMIFLOW_DATABASE_URL" in told
    assert "memory" in told
    assert "sqlite" in told
    assert "hunter2" not in told
    assert ("'redis'" in told) == url.startswith("redis")
