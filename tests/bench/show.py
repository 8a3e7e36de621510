"""The table, and the plot."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["plot", "rows", "show"]


def ratios(result: dict[str, Any]) -> list[tuple[str, float | None, str]]:
    """What is to be reached: (figure, found, at least)."""

    def over(a: str, b: str) -> float | None:
        # Round by round, so that a machine whose speed drifts does not decide.
        pairs = list(zip(result["rates"].get(a, []), result["rates"].get(b, []), strict=False))
        return statistics.median(x / y for x, y in pairs) if pairs else None

    steady = result.get("steady", {}).get("SQLite")
    memory = result.get("memory_mib", {})
    processes = result.get("processes_ms")
    first = processes and [
        a / b for a, b in zip(processes["import sqlalchemy, httpx"], processes["kimiflow token NAME"], strict=True)
    ]
    return [
        ("polls/s, SQLite : bare aiohttp", over("kimiflow, SQLite", "bare aiohttp"), "1.0"),
        ("polls/s, PostgreSQL : bare aiohttp", over("kimiflow, PostgreSQL", "bare aiohttp"), "1.0"),
        (
            "polls/s over TLS, SQLite : a session per poll",
            over("kimiflow, SQLite, TLS", "a session per poll, TLS"),
            "8",
        ),
        ("polls/s, SQLite : naive", over("kimiflow, SQLite", "naive"), "20"),
        (
            "refreshes/s, SQLite : bare aiohttp",
            over("kimiflow, SQLite, refreshes", "bare aiohttp, refreshes"),
            "0.6",
        ),
        ("due polls achieved", steady["achieved"] if steady else None, "0.99"),
        ("p99 lateness, ms", steady["p99_ms"] if steady else None, "under 250"),
        ("memory at 100,000 accounts : at 1,000", memory[100_000] / memory[1_000] if memory else None, "under 1.1"),
        ("`import sqlalchemy, httpx` : `kimiflow token NAME`", statistics.median(first) if first else None, "1.0"),
        ("flow.token() in process, µs", statistics.median(result.get("token_us", [0.0])) or None, "under 20"),
    ]


def rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Everything that was measured: (what, median, spread)."""
    found: list[tuple[str, str, str]] = []

    def add(what: str, values: Sequence[float], form: str = "{:,.0f}") -> None:
        spread = f"{form.format(min(values))} to {form.format(max(values))}" if len(values) > 1 else ""
        found.append((what, form.format(statistics.median(values)), spread))

    for name, rates in result["rates"].items():
        add(f"{name}, per second", rates)
    for name, figures in result.get("steady", {}).items():
        load = f"10,000 flows at 5 s, {name}" if result["flows"] == 10_000 else f"{result['flows']:,} flows, {name}"
        add(f"{load}: due polls achieved", [figures["achieved"]], "{:.1%}")
        found.append((f"{load}: lateness p50 and p99, ms", f"{figures['p50_ms']:.0f} and {figures['p99_ms']:.0f}", ""))
        add(f"{load}: CPU µs a poll", [figures["cpu_us"]])
        if figures["statements"]:
            add(f"{load}: database statements a poll", [figures["statements"]], "{:.2f}")
            add(f"{load}: bytes written ahead a poll", [figures["wal_bytes"]])
    for name, figures in result.get("restart", {}).items():
        after = f"after kill -9, {name}: seconds to the"
        add(f"{after} first overdue poll", [figures["first_s"]], "{:.1f}")
        add(f"{after} last that nobody held", [figures["last_that_was_free_s"]], "{:.1f}")
        add(f"{after} last of the {figures['held_by_the_dead']:,} that the dead held", [figures["last_s"]], "{:.1f}")
    for accounts, mebibytes in result.get("memory_mib", {}).items():
        add(f"resident memory at {int(accounts):,} accounts, MiB", [mebibytes], "{:.1f}")
    if "token_us" in result:
        add("flow.token() in process, fresh, µs", result["token_us"], "{:.1f}")
    for name, times in result.get("processes_ms", {}).items():
        add(f"whole process, {name}, ms", times)
    for name, count in result.get("imports", {}).items():
        add(f"modules imported, {name}", [count])
    for count, rates in result.get("workers", {}).items():
        add(f"{count} worker processes on one core and one PostgreSQL, polls per second", rates)
    return found


def show(result: dict[str, Any]) -> None:
    """Everything, to stdout."""
    console = Console()
    console.print(f"{result['at']}, {result['machine']}; {result['rounds']} rounds")
    table = Table("what", "median", "spread")
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    table = Table("figure", "found", "to reach")
    for figure, found, least in ratios(result):
        table.add_row(figure, "-" if found is None else f"{found:,.2f}", least)
    console.print(table)


def plot(result: dict[str, Any], path: Path) -> None:
    """Rate by concurrency, the distribution of lateness, and memory by the number of accounts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (rates, lateness, memory) = pyplot.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    for name, points in result.get("concurrency", {}).items():
        rates.plot([int(k) for k in points], list(points.values()), marker="o", label=name)
    rates.set(xscale="log", xlabel="requests in flight", ylabel="polls per second", title="Rate by concurrency")
    if "concurrency" in result:
        rates.legend()
    for name, figures in result.get("steady", {}).items():
        values = sorted(figures["lateness_ms"])
        shares = [i / len(values) for i in range(len(values))]
        lateness.plot(values, shares, label=name)
    lateness.set(xlabel="ms after the poll was due", ylabel="share of polls", title="Lateness, 10,000 flows at 5 s")
    lateness.set_xlim(0, 300)
    if "steady" in result:
        lateness.legend()
    sizes = result.get("memory_mib", {})
    memory.plot([int(k) for k in sizes], list(sizes.values()), marker="o")
    memory.set(xscale="log", xlabel="accounts", ylabel="resident MiB", title="Memory of a worker")
    memory.set_ylim(0, 1.3 * max(sizes.values(), default=1))
    figure.savefig(path, dpi=110)
