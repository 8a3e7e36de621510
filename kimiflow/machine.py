"""The state machine of an authorization.

Theory of operation
-------------------

An authorization is one sign-in of one account, from the first request to the last refresh. It begins as
``requested``: a row exists, and nobody has asked the server for anything yet. The device authorization
request (RFC 8628 §3.1) turns it ``pending``: there is a user code to show, and the token endpoint is polled. A
server that finds the polling too fast makes it ``slow_down``, which is ``pending`` with a longer
interval; the next plain ``authorization_pending`` brings it back, but never shortens the interval again.

``granted`` holds tokens; a sign-in that another tool made is taken over in this state, and is refreshed first.
Shortly before the access token ends the authorization becomes ``refreshing``, and that is committed *before* the
refresh request leaves. A process that dies in between leaves a row that says so: its request may have reached the
server, so the refresh token is in doubt, and the next worker knows it. Both states hold an access token that works
until it expires.

``denied`` and ``expired`` rest. Nothing but a person leads out of them: a program that starts a new sign-in
because the last one ran out opens browser windows for ever.

``attempt_failed`` leads nowhere, on purpose. A reset, a time-out, a 5xx, a firewall's HTML page prove nothing about
the sign-in, so it stays where it is and tries again later. Only words of the protocol, and our own
deadline, end a sign-in; and only those about the grant itself end a grant: what a server says about this program, or
about nothing that is known, is an attempt that failed. ``wire.about`` is the table of that.

The table below is all there is. It is given to one ``transitions.Machine`` that has no model of its own: a step puts the
present state on a one-slot cursor, fires the event at the cursor, and reads the new state off it. So there is one
machine per process, it keeps nothing, and it may be used from any thread. What a step does besides changing the state
is in ``advance``.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Final

from transitions import Machine, MachineError

from kimiflow.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EVENTS", "TABLE", "IllegalTransition", "edges", "next_state", "to_dot", "to_mermaid"]

_REQUESTED, _PENDING, _SLOW_DOWN, _GRANTED, _REFRESHING, _DENIED, _EXPIRED = State

_SAME: Final = None

TABLE: Final[tuple[tuple[str, tuple[State, ...], State | None], ...]] = (
    # event, from, to (None: the same)
    ("device_code_issued", (_REQUESTED,), _PENDING),
    ("authorization_pending", (_PENDING, _SLOW_DOWN), _PENDING),
    ("slow_down", (_PENDING, _SLOW_DOWN), _SLOW_DOWN),
    ("access_token_issued", (_PENDING, _SLOW_DOWN, _REFRESHING), _GRANTED),
    ("access_denied", (_REQUESTED, _PENDING, _SLOW_DOWN, _REFRESHING), _DENIED),
    ("expired_token", (_PENDING, _SLOW_DOWN), _EXPIRED),
    ("refresh_due", (_GRANTED,), _REFRESHING),
    ("invalid_grant", (_PENDING, _SLOW_DOWN, _REFRESHING), _EXPIRED),
    ("attempt_failed", (_REQUESTED, _PENDING, _SLOW_DOWN, _REFRESHING), _SAME),
    ("login_requested", (_DENIED, _EXPIRED), _REQUESTED),
)

EVENTS: Final = tuple(event for event, _, _ in TABLE)


class IllegalTransition(ValueError):
    """The event cannot happen in this state; asking for it is a defect of the caller."""


class _Cursor:
    """The one slot that the machine writes to."""

    __slots__ = ("state",)

    def __init__(self, state: State) -> None:
        self.state = state


def _build() -> Machine:
    return Machine(
        model=None,
        states=State,
        initial=None,
        auto_transitions=False,
        send_event=False,
        transitions=[
            {"trigger": event, "source": list(sources), "dest": "=" if target is _SAME else target}
            for event, sources, target in TABLE
        ],
    )


_MACHINE: Final = _build()


@cache
def next_state(state: State, event: str) -> State:
    """Where ``event`` leads from ``state``. The machine is asked once for each pair, because its answer never changes.

    :raises IllegalTransition: where the table has no such row.
    """
    cursor = _Cursor(state)
    try:
        _MACHINE.events[event].trigger(cursor)
    except (MachineError, KeyError):
        msg = f"{event} cannot happen to an authorization that is {state.value}"
        raise IllegalTransition(msg) from None
    return cursor.state


def edges() -> Iterator[tuple[State, State, str]]:
    """Every (from, to, event) of the live machine, in the order of the table."""
    for name, event in _MACHINE.events.items():
        for rows in event.transitions.values():
            for row in rows:
                yield State[row.source], State[row.dest or row.source], name


def _labelled() -> dict[tuple[State, State], list[str]]:
    labels: dict[tuple[State, State], list[str]] = defaultdict(list)
    for source, target, event in edges():
        labels[source, target].append(event)
    return labels


def to_mermaid() -> str:
    """The machine as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    direction LR", "    [*] --> requested"]
    lines += [
        f"    {source.value} --> {target.value}: {' / '.join(events)}"
        for (source, target), events in _labelled().items()
    ]
    return "\n".join(lines)


def to_dot() -> str:
    """The machine as a Graphviz digraph."""
    lines = ["digraph authorization {", "    rankdir=LR;", "    node [shape=box, style=rounded];"]
    lines += ["    start [shape=point];", "    start -> requested;"]
    for (source, target), events in _labelled().items():
        label = "\\n".join(events)
        lines.append(f'    {source.value} -> {target.value} [label="{label}"];')
    return "\n".join([*lines, "}"])
