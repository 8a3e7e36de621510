"""The device codes that are out: found by code, by user code, by device; decided; forgotten when old."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from kimiflow.sandbox.codes import new_user_code, normalise_user_code
from kimiflow.sandbox.records import DeviceCode, PendingCode, UserCodeError
from kimiflow.sandbox.settings import Policy, Settings, check_policy

if TYPE_CHECKING:
    import random

__all__ = ["DeviceCodes"]


class DeviceCodes:
    """Every look-up and every decision is a few dict look-ups, however many codes are out.

    ``forget_after`` in seconds after expiry, or ``None`` for never.
    """

    def __init__(self, settings: Settings, random: random.Random) -> None:
        self._settings = settings
        self._random = random
        self._policies: dict[str, Policy] = {}
        self._codes: dict[str, DeviceCode] = {}
        self._by_user_code: dict[str, DeviceCode] = {}
        self._by_device: dict[str, DeviceCode] = {}
        self._undecided: dict[str, DeviceCode] = {}
        # In the order of expiry, since all live equally long.
        self._live: deque[DeviceCode] = deque()
        self._expired: deque[DeviceCode] = deque()

    def issue(self, device_code: str, client_id: str, device_id: str, now: float) -> DeviceCode:
        self._forget(now)
        settings = self._settings
        user_code = new_user_code(self._random)
        while user_code in self._by_user_code:
            user_code = new_user_code(self._random)
        policy = self._policies.get(device_id, settings.approve)
        code = DeviceCode(
            device_code=device_code,
            user_code=user_code,
            client_id=client_id,
            device_id=device_id,
            issued_at=now,
            expires_at=now + settings.code_lifetime,
            interval=settings.interval,
            last_poll=now,
            approve_at=now if policy == "auto" else None if isinstance(policy, str) else now + policy,
            denied=policy == "deny",
        )
        self._codes[device_code] = self._by_user_code[user_code] = self._by_device[device_id] = code
        self._live.append(code)
        if policy not in {"auto", "deny"}:
            self._undecided[user_code] = code
        return code

    def find(self, device_code: str) -> DeviceCode | None:
        return self._codes.get(device_code)

    def spend(self, code: DeviceCode) -> None:
        """The code was exchanged for tokens."""
        code.spent = True
        self._undecided.pop(code.user_code, None)

    def set_policy(self, device_id: str, policy: Policy) -> None:
        self._policies[device_id] = check_policy(policy)

    def approve(self, user_code: str, now: float) -> DeviceCode:
        code = self.decidable(user_code, now)
        code.approve_at = now
        del self._undecided[code.user_code]
        return code

    def deny(self, user_code: str, now: float) -> DeviceCode:
        code = self.decidable(user_code, now)
        code.denied = True
        del self._undecided[code.user_code]
        return code

    def decidable(self, user_code: str, now: float) -> DeviceCode:
        """The code that a person may decide about. :raises UserCodeError: in words for that person."""
        code = self._by_user_code.get(normalise_user_code(user_code))
        if code is None:
            raise UserCodeError("This code is not known. Codes look like CDFG-2345.")
        if code.denied:
            raise UserCodeError("This code was denied already.")
        if code.spent or code.approved(now):
            raise UserCodeError("This code was approved already.")
        if now >= code.expires_at:
            raise UserCodeError("This code has expired. Start the sign-in again to get a new one.")
        return code

    def newest(self, device_id: str) -> str:
        """The user code of the newest device code of a device. :raises UserCodeError: where it has none."""
        code = self._by_device.get(device_id)
        if code is None:
            raise UserCodeError(f"No device code was issued to the device {device_id!r}.")
        return code.user_code

    def pending(self, now: float, limit: int) -> list[PendingCode]:
        waiting = (code for code in self._undecided.values() if now < code.expires_at and not code.approved(now))
        return [code.public() for code in islice(waiting, limit)]

    def ungranted(self, now: float) -> list[PendingCode]:
        return [
            code.public()
            for code in self._codes.values()
            if code.approved(min(now, code.expires_at)) and not (code.denied or code.granted)
        ]

    def _forget(self, now: float) -> None:
        live, expired, forget_after = self._live, self._expired, self._settings.forget_after
        while live and live[0].expires_at <= now:
            code = live.popleft()
            self._undecided.pop(code.user_code, None)
            if forget_after is not None:
                expired.append(code)
        while expired and forget_after is not None and expired[0].expires_at + forget_after <= now:
            code = expired.popleft()
            del self._codes[code.device_code], self._by_user_code[code.user_code]
            if self._by_device[code.device_id] is code:
                del self._by_device[code.device_id]
