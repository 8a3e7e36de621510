"""Faults on demand, as data. A fault says what goes wrong, at which endpoint, and how often.

    KIND[/VALUE][:ENDPOINT][=PROBABILITY | =xCOUNT]

=====================  ==================================================================================
``reset``              every connection is reset, always
``503:poll=0.2``       a fifth of the polls get a 503
``503/20:refresh=x2``  the next two refreshes get a 503 with ``Retry-After: 20``
``429/date+20``        a 429 whose ``Retry-After`` is the HTTP date 20 seconds from now
``slow_down/30=0.1``   a tenth of the requests get ``slow_down``, with ``"interval": 30`` sent along
``invalid_grant/401``  the OAuth error, with HTTP status 401
``missing/scope``      token replies come without ``scope``
``402:api=x2``         the next two requests to the API find that there is no membership
=====================  ==================================================================================

ENDPOINT is ``device``, ``poll``, ``refresh``, ``token`` (poll and refresh), ``api``, or ``any``, the default: wherever
the kind can happen. PROBABILITY is from 0 to 1; COUNT is the next so many requests that the fault can apply to; without
either it strikes always. `KINDS` lists the kinds and what VALUE means to each; `describe_faults` puts that into words.
None of it needs quotes in a shell.

Each kind has its stage, which says what becomes of the request:

- ``instead``: the server never looks at it, so nothing is lost by it;
- ``hold``: the server looks at it later, unless the client has gone by then;
- ``alter``: the server has acted, and what it issued is sent otherwise or not at all. Such a fault strikes
  (and counts) only where something was issued. Only ``lost`` and ``late`` lose what was committed.

Of the first two stages at most one fault strikes a request, the oldest; those of the third add up.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from kimiflow.sandbox.fault_kinds import (
    ENDPOINTS,
    KINDS,
    Endpoint,
    FaultError,
    Value,
    checked,
    describe_faults,
    kind_of,
    read,
    written,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from kimiflow.sandbox.fault_kinds import Stage

__all__ = ["KINDS", "Endpoint", "Fault", "FaultError", "Faults", "describe_faults", "parse_fault", "scoped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault and its scope.

    :ivar value: as the kind reads it; see `KINDS`.
    :ivar times: how many requests it will strike, ``None`` for all.
    :ivar device_id: the one device whose requests it strikes, ``None`` for all.
    :raises FaultError: where these make no fault.
    """

    kind: str
    value: Value = None
    endpoint: Endpoint = "any"
    probability: float = 1.0
    times: int | None = None
    device_id: str | None = None

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        object.__setattr__(self, "value", checked(self.kind, self.value))
        if self.endpoint not in ENDPOINTS:
            raise FaultError(f"unknown endpoint {self.endpoint!r}; endpoints are {', '.join(ENDPOINTS)}")
        if self.endpoint not in kind.endpoints:
            allowed = ", ".join(sorted(kind.endpoints))
            raise FaultError(f"{self.kind} cannot happen at {self.endpoint!r}; endpoints are {allowed}")
        if not 0 <= self.probability <= 1:
            raise FaultError(f"{self.probability!r} is no probability; allowed is 0 to 1")
        if self.times is not None and self.times < 1:
            raise FaultError(f"{self.times!r} is no number of times; allowed is 1 and more")

    @property
    def spec(self) -> str:
        """As `parse_fault` reads it, without the device."""
        value = "" if self.value is None or self.value == math.inf else f"/{written(self.value)}"
        endpoint = "" if self.endpoint == "any" else f":{self.endpoint}"
        often = f"=x{self.times}" if self.times is not None else ""
        if self.probability < 1:
            often = f"={self.probability:g}"
        return f"{self.kind}{value}{endpoint}{often}"

    @property
    def number(self) -> float:
        """The value of those kinds whose value is a number, 0 where there is none."""
        return self.value if isinstance(self.value, (int, float)) else 0.0

    @property
    def stage(self) -> Stage:
        """When it strikes; see the module."""
        return kind_of(self.kind).stage

    def strikes(self, endpoint: str, random: random.Random) -> bool:
        """Whether it hits a request to ``endpoint`` (``device``, ``poll``, ``refresh``, ``api`` or another word).

        Pure but for the draw, which is made only where the probability leaves something open.
        """
        scope = self.endpoint
        if scope not in ("any", endpoint) and not (scope == "token" and endpoint in ("poll", "refresh")):
            return False
        if endpoint == "api" and "api" not in kind_of(self.kind).endpoints:
            return False
        return self.probability >= 1.0 or random.random() < self.probability


_SPEC: Final = re.compile(
    r"(?P<kind>[^/:=]*) (/(?P<value>[^:=]*))? (:(?P<endpoint>[^:=]*))? (=(?P<often>.*))?", re.VERBOSE
)


def parse_fault(text: str) -> Fault:
    """A fault as it is typed, ``KIND[/VALUE][:ENDPOINT][=PROBABILITY | =xCOUNT]``; spaces do not count.

    :raises FaultError: naming the bad part and what is allowed in its place.
    """
    match = _SPEC.fullmatch("".join(text.split()))
    try:
        if match is None:
            raise FaultError("it has to read KIND[/VALUE][:ENDPOINT][=PROBABILITY or =xCOUNT]")  # noqa: TRY301
        probability, times = _often(match["often"])
        return Fault(
            kind=match["kind"],
            value=read(match["kind"], match["value"]),
            # Checked by the fault itself.
            endpoint=cast("Endpoint", "any" if match["endpoint"] is None else match["endpoint"]),
            probability=probability,
            times=times,
        )
    except FaultError as error:
        raise FaultError(f"fault {text!r}: {error}") from None


def scoped(
    fault: str | Fault,
    *,
    endpoint: Endpoint | None = None,
    times: int | None = None,
    probability: float | None = None,
    device_id: str | None = None,
) -> Fault:
    """``fault`` with what is given here in place of its own. :raises FaultError: where that makes no fault."""
    whole = parse_fault(fault) if isinstance(fault, str) else fault
    return replace(
        whole,
        endpoint=whole.endpoint if endpoint is None else endpoint,
        times=whole.times if times is None else times,
        probability=whole.probability if probability is None else probability,
        device_id=whole.device_id if device_id is None else device_id,
    )


def _often(text: str | None) -> tuple[float, int | None]:
    if text is None:
        return 1.0, None
    if match := re.fullmatch(r"x([1-9][0-9]{0,8})", text):
        return 1.0, int(match[1])
    try:
        probability = float(text)
    except ValueError:
        probability = math.nan
    if not 0 <= probability <= 1:
        raise FaultError(
            f"{text!r} does not say how often; allowed are a probability from 0 to 1, such as 0.2, "
            "or the next so many, such as x2"
        )
    return probability, None


class Faults:
    """The faults that are on, and how often each will still strike. Looks only at those that can apply."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._general: list[_Armed] = []
        self._by_device: dict[str, list[_Armed]] = {}
        for fault in faults:
            self.add(fault)

    def __bool__(self) -> bool:
        return bool(self._general or self._by_device)

    def add(self, fault: Fault) -> None:
        armed = _Armed(fault, math.inf if fault.times is None else fault.times)
        if fault.device_id is None:
            self._general.append(armed)
        else:
            self._by_device.setdefault(fault.device_id, []).append(armed)

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        self._general.clear()
        self._by_device.clear()

    def first(self, endpoint: str, device_id: str, random: random.Random) -> Fault | None:
        """The fault that strikes before the server acts, if any; it counts as struck."""
        for armed in self._candidates(device_id):
            fault = armed.fault
            if armed.before and fault.strikes(endpoint, random):
                self.spend(fault)
                return fault
        return None

    def altering(self, endpoint: str, device_id: str, random: random.Random) -> list[Fault]:
        """The faults that strike what the server may issue; `spend` those that did."""
        return [
            armed.fault
            for armed in self._candidates(device_id)
            if not armed.before and armed.fault.strikes(endpoint, random)
        ]

    def spend(self, fault: Fault) -> None:
        """``fault`` has struck once more."""
        group = self._general if fault.device_id is None else self._by_device.get(fault.device_id, [])
        for armed in group:
            if armed.fault is fault:
                armed.left -= 1
                if armed.left <= 0:
                    group.remove(armed)
                break
        if not group and fault.device_id is not None:
            self._by_device.pop(fault.device_id, None)

    def _candidates(self, device_id: str) -> list[_Armed]:
        own = self._by_device.get(device_id)
        return self._general if own is None else own + self._general


class _Armed:
    __slots__ = ("before", "fault", "left")

    def __init__(self, fault: Fault, left: float) -> None:
        self.fault = fault
        self.left = left
        self.before = fault.stage != "alter"
