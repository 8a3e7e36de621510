"""The state machine: which step leads where, and that nothing else is possible.

The grid below was written from the design, not from the code: a row for each event, a column for each state, a dot
where the event cannot happen.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import get_args

import pytest
from transitions import Machine

from kimiflow import events, machine
from kimiflow.machine import EVENTS, IllegalTransition, edges, next_state, to_dot, to_mermaid
from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, RESTS, State

GRID = """
                       requested  pending    slow_down  granted     refreshing  denied     expired
device_code_issued     pending    .          .          .           .           .          .
authorization_pending  .          pending    pending    .           .           .          .
slow_down              .          slow_down  slow_down  .           .           .          .
access_token_issued    .          granted    granted    .           granted     .          .
access_denied          denied     denied     denied     .           denied      .          .
expired_token          .          expired    expired    .           .           .          .
refresh_due            .          .          .          refreshing  .           .          .
invalid_grant          .          expired    expired    .           expired     .          .
attempt_failed         requested  pending    slow_down  .           refreshing  .          .
login_requested        .          .          .          .           .           requested  requested
"""


def _read(grid: str) -> dict[tuple[State, str], State | None]:
    head, *rows = (line.split() for line in grid.strip().splitlines())
    return {
        (State(source), event): None if target == "." else State(target)
        for event, *targets in rows
        for source, target in zip(head, targets, strict=True)
    }


EXPECTED = _read(GRID)
LEGAL = {(source, event): target for (source, event), target in EXPECTED.items() if target is not None}
EDGES = {(source, target, event) for (source, event), target in LEGAL.items()}


def test_the_grid_covers_every_pair_of_state_and_event() -> None:
    assert set(EXPECTED) == set(product(State, EVENTS))
    assert [state.value for state in State] == [
        "requested", "pending", "slow_down", "granted", "refreshing", "denied", "expired",
    ]  # fmt: skip


@pytest.mark.parametrize(("state", "event"), EXPECTED, ids=lambda x: x.value if isinstance(x, State) else x)
def test_an_event_leads_where_the_grid_says_or_is_refused(state: State, event: str) -> None:
    target = EXPECTED[state, event]
    if target is not None:
        assert next_state(state, event) is target
    else:
        with pytest.raises(IllegalTransition, match=f"{event} .*{state.value}"):
            next_state(state, event)


@pytest.mark.parametrize("event", ["", "REFRESH_DUE", "to_granted", "trigger", "no_such_event"])
def test_what_is_no_event_is_refused_too(event: str) -> None:
    with pytest.raises(IllegalTransition):
        next_state(State.PENDING, event)


def test_every_event_type_names_a_transition_and_every_transition_has_an_event_type() -> None:
    assert {event.name for event in get_args(events.Event)} == set(EVENTS)
    assert len(get_args(events.Event)) == len(EVENTS)


def test_a_state_is_on_its_way_or_holds_tokens_or_rests() -> None:
    assert set(State) == ON_ITS_WAY | HOLDS_TOKENS | RESTS
    assert len(ON_ITS_WAY) + len(HOLDS_TOKENS) + len(RESTS) == len(State)


def test_only_a_person_leads_out_of_rest() -> None:
    assert {event for (state, event) in LEGAL if state in RESTS} == {"login_requested"}


def test_a_failed_attempt_never_changes_the_state() -> None:
    assert all(target is state for (state, event), target in LEGAL.items() if event == "attempt_failed")


class TestItCanBeDrawn:
    def test_the_edges_are_those_of_the_grid_each_once(self) -> None:
        drawn = list(edges())
        assert set(drawn) == EDGES
        assert len(drawn) == len(EDGES)

    def test_mermaid_shows_every_edge_and_no_other(self) -> None:
        head, direction, start, *lines = to_mermaid().splitlines()
        assert (head, direction.strip(), start.strip()) == (
            "stateDiagram-v2",
            "direction LR",
            "[*] --> requested",
        )
        drawn = set()
        for line in lines:
            ends, _, labels = line.partition(": ")
            source, _, target = ends.strip().partition(" --> ")
            drawn |= {(State(source), State(target), label) for label in labels.split(" / ")}
        assert drawn == EDGES

    def test_dot_shows_every_edge_and_no_other(self) -> None:
        text = to_dot()
        assert text.startswith("digraph authorization {\n")
        assert text.endswith("\n}")
        drawn = set()
        for line in text.splitlines():
            if "[label=" in line:
                ends, _, label = line.strip().removesuffix('"];').partition(' [label="')
                source, _, target = ends.partition(" -> ")
                drawn |= {(State(source), State(target), each) for each in label.split("\\n")}
        assert drawn == EDGES

    def test_from_the_live_machine_not_from_a_copy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        live = Machine(model=None, states=State, initial=None, auto_transitions=False)
        live.add_transition("wake_up", State.DENIED, State.GRANTED)
        monkeypatch.setattr(machine, "_MACHINE", live)
        assert list(edges()) == [(State.DENIED, State.GRANTED, "wake_up")]
        assert "denied --> granted: wake_up" in to_mermaid()
        assert 'denied -> granted [label="wake_up"]' in to_dot()


class TestOneMachineForAll:
    def test_it_has_no_model_and_no_way_round_the_table(self) -> None:
        assert machine._MACHINE.models == []
        assert set(machine._MACHINE.events) == set(EVENTS)

    def test_it_keeps_nothing_of_a_step(self) -> None:
        walk(random.Random(1), steps=200)
        gc.collect()  # not what other tests have left
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            walk(random.Random(2), steps=2_000)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 4_000, "two bytes a step would be too much"
        assert not [each for each in gc.get_objects() if type(each) is machine._Cursor]

    def test_it_may_be_used_from_any_thread(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            walks = [pool.submit(walk, random.Random(seed), steps=500) for seed in range(8)]
            assert sum(each.result() for each in walks) == 8 * 500


def walk(dice: random.Random, *, steps: int) -> int:
    """Steps taken, each as the grid says."""
    state = State.REQUESTED
    for count in range(steps):
        event = dice.choice([event for source, event in LEGAL if source is state])
        reached = next_state(state, event)
        assert reached is LEGAL[state, event], f"step {count}"
        state = reached
    return steps
