"""The tokens that are out, by families: rotated, reused, revoked; forgotten when old."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kimiflow.sandbox.records import AccessToken, Family, RefreshToken

if TYPE_CHECKING:
    from kimiflow.sandbox.settings import Settings

__all__ = ["Tokens"]


class Tokens:
    """Every look-up is a dict look-up, however many tokens are out. The strings themselves come from outside."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._families: dict[str, Family] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._access: dict[str, tuple[Family, AccessToken]] = {}
        # In the order of time, since all access tokens live equally long.
        self._used_refresh: deque[tuple[float, str]] = deque()
        self._access_by_age: deque[tuple[float, str]] = deque()

    def new_family(self, client_id: str, device_id: str) -> Family:
        family = Family(client_id, device_id, self._settings.scope)
        self._families[device_id] = family
        return family

    def add_access(self, access_token: str, family: Family, now: float) -> None:
        self._forget(now)
        expires_at = now + self._settings.token_lifetime
        token = AccessToken(family.client_id, family.device_id, family.scope, now, expires_at)
        self._access[access_token] = (family, token)
        self._access_by_age.append((expires_at, access_token))

    def add_refresh(self, refresh_token: str, family: Family) -> None:
        self._refresh[refresh_token] = RefreshToken(family)

    def find_refresh(self, refresh_token: str) -> RefreshToken | None:
        return self._refresh.get(refresh_token)

    def use_refresh(self, refresh_token: str, now: float) -> None:
        """The token has a successor; from now on its use is a reuse."""
        self._refresh[refresh_token].used = True
        self._used_refresh.append((now, refresh_token))

    def introspect(self, access_token: str, now: float) -> AccessToken | None:
        family, token = self._access.get(access_token, (None, None))
        if family is None or token is None or family.revoked or now >= token.expires_at:
            return None
        return token if token.issued_at > family.ended_at else None

    def revoke(self, device_id: str) -> None:
        """:raises LookupError: where no tokens were issued to the device."""
        self._newest(device_id).revoked = True

    def revoke_token(self, token: str, client_id: str) -> bool | None:
        """A refresh token takes its grant along, however old it is; an access token goes alone.

        Whether there was one; ``None``, and nothing was done, where it is another client's.
        """
        refresh = self._refresh.get(token)
        family = self._access[token][0] if token in self._access else refresh.family if refresh else None
        if family is None:
            return False
        if family.client_id != client_id:
            return None
        if refresh is not None:
            family.revoked = True
        else:
            del self._access[token]
        return True

    def expire(self, device_id: str, now: float) -> None:
        """:raises LookupError: where no tokens were issued to the device."""
        self._newest(device_id).ended_at = now

    def _newest(self, device_id: str) -> Family:
        family = self._families.get(device_id)
        if family is None:
            raise LookupError(f"no tokens were issued to the device {device_id!r}")
        return family

    def _forget(self, now: float) -> None:
        by_age = self._access_by_age
        while by_age and by_age[0][0] <= now:
            self._access.pop(by_age.popleft()[1], None)  # it may have been revoked
        used, forget_after = self._used_refresh, self._settings.forget_after
        while used and forget_after is not None and used[0][0] + forget_after <= now:
            del self._refresh[used.popleft()[1]]
