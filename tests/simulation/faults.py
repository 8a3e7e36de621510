"""How unreliable the world is. Every number is a probability, unless it says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

__all__ = ["CALM", "Weather", "draw_weather"]


@dataclass(frozen=True, slots=True)
class Weather:
    """The faults of one run."""

    request_lost: float = 0.0
    reply_lost: float = 0.0
    request_doubled: float = 0.0
    """It reaches the server twice, as by a proxy that tries again; the first reply to come is the one that is heard."""
    reply_doubled: float = 0.0
    """What the server said to the same request before is heard again, and the server does not see this one."""
    connection_refused: float = 0.0
    slow: float = 0.0
    """A reply that takes longer than the client waits."""
    nonsense: float = 0.0
    """A web page, a 5xx, an empty body; the server has not seen the request."""
    patience: float = 0.0
    """429 with ``Retry-After``."""
    slow_down: float = 0.0
    bare_refresh: float = 0.0
    """A refresh reply without a new refresh token, without scope, without a lifetime."""
    compressed: float = 0.0
    """By a proxy on the way, though nobody asked for it."""
    store_fails_before: float = 0.0
    store_fails_after: float = 0.0
    """The store did it, but the answer was lost."""
    store_away: float = 0.0
    """Each time that a person looks in: it is away for some seconds, for everybody."""
    crash: float = 0.0
    """At each await of a worker that touches the world outside."""
    pause: float = 0.0
    """Likewise: the worker stops for longer than its lease."""
    skew: float = 0.0
    """Seconds by which the workers' wall clocks are off, at most."""
    latency: float = 0.1
    """Seconds, at most, each way."""


CALM = Weather()


def draw_weather(rng: Random) -> Weather:
    """Some faults often, some never: a run with all of them at once finds less than runs with a few each."""

    def maybe(most: float) -> float:
        return rng.choice((0.0, 0.0, most * rng.random()))

    return replace(
        CALM,
        request_lost=maybe(0.2),
        reply_lost=maybe(0.2),
        request_doubled=maybe(0.05),
        reply_doubled=maybe(0.1),
        connection_refused=maybe(0.3),
        slow=maybe(0.1),
        nonsense=maybe(0.3),
        patience=maybe(0.2),
        slow_down=maybe(0.3),
        bare_refresh=maybe(0.3),
        compressed=maybe(0.3),
        store_fails_before=maybe(0.1),
        store_fails_after=maybe(0.1),
        store_away=maybe(0.2),
        crash=maybe(0.01),
        pause=maybe(0.01),
        skew=rng.choice((0.0, 0.0, 90.0)),
        latency=rng.choice((0.01, 0.1, 2.0)),
    )
