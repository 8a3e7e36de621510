"""Secrets at rest: sealed to a key, a row and a column."""

from __future__ import annotations

import base64
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiflow import events
from kimiflow.errors import WrongKey
from kimiflow.model import Authorization, Sealed, State
from kimiflow.secret import Secret
from kimiflow.vault import KEY_BYTES, Vault, key_id_of

from .samples import authorization_in, quick, step, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
SECRET = Secret("refresh-1")


def numbered_nonces() -> Callable[[int], bytes]:
    numbers = count()
    return lambda size: next(numbers).to_bytes(size, "big")


@pytest.fixture
def vault() -> Vault:
    return Vault(KEY)


class TestASealedValue:
    def test_opens_where_it_was_sealed(self, vault: Vault) -> None:
        sealed = vault.seal(SECRET, "row-1", "refresh_token")
        assert vault.open(sealed, "row-1", "refresh_token") == SECRET

    @quick
    @given(st.text(st.characters(codec="utf-8")))
    def test_holds_any_text(self, text: str) -> None:
        vault = Vault(KEY)
        assert vault.open(vault.seal(Secret(text), "r", "c"), "r", "c").reveal() == text

    def test_is_printable_names_its_key_and_shows_nothing(self, vault: Vault) -> None:
        sealed = vault.seal(SECRET, "row-1", "refresh_token")
        assert sealed.isascii()
        assert sealed.isprintable()
        assert key_id_of(sealed) == vault.key_id == sealed[:8]
        assert len(vault.key_id) == 8
        raw = base64.urlsafe_b64decode(sealed.partition(".")[2])
        assert b"refresh-1" not in raw
        assert len(raw) == 12 + len("refresh-1") + 16, "nonce, text, tag"

    def test_is_another_one_each_time(self, vault: Vault) -> None:
        assert len({vault.seal(SECRET, "row-1", "refresh_token") for _ in range(100)}) == 100

    def test_takes_a_new_nonce_each_time(self) -> None:
        vault = Vault(KEY, random_bytes=numbered_nonces())
        first, second = (vault.seal(SECRET, "r", "c").partition(".")[2] for _ in range(2))
        assert base64.urlsafe_b64decode(first)[:12] == (0).to_bytes(12, "big")
        assert base64.urlsafe_b64decode(second)[:12] == (1).to_bytes(12, "big")

    @pytest.mark.parametrize(
        ("row", "column"),
        [("row-2", "refresh_token"), ("row-1", "access_token"), ("", ""), ("row-1/refresh_token", "")],
    )
    def test_does_not_open_in_another_row_or_column(self, vault: Vault, row: str, column: str) -> None:
        sealed = vault.seal(SECRET, "row-1", "refresh_token")
        with pytest.raises(WrongKey, match="changed or moved"):
            vault.open(sealed, row, column)

    def test_does_not_open_when_any_byte_was_changed(self, vault: Vault) -> None:
        sealed = vault.seal(SECRET, "row-1", "refresh_token")
        key_id, _, text = sealed.partition(".")
        raw = base64.urlsafe_b64decode(text)
        for position in range(len(raw)):
            changed = bytearray(raw)
            changed[position] ^= 1
            forged = Sealed(f"{key_id}.{base64.urlsafe_b64encode(changed).decode()}")
            with pytest.raises(WrongKey):
                vault.open(forged, "row-1", "refresh_token")

    @pytest.mark.parametrize("rest", ["", "AAAA", "A", "not base64!", "ü", "=" * 40, "A" * 40])
    def test_does_not_open_when_it_was_cut_or_is_none(self, vault: Vault, rest: str) -> None:
        with pytest.raises(WrongKey, match="changed or moved"):
            vault.open(Sealed(f"{vault.key_id}.{rest}"), "row-1", "refresh_token")

    def test_does_not_open_with_another_key_and_both_are_named(self, vault: Vault) -> None:
        other = Vault(OTHER_KEY)
        sealed = vault.seal(SECRET, "row-1", "refresh_token")
        with pytest.raises(WrongKey, match=f"{vault.key_id}.*{other.key_id}") as caught:
            other.open(sealed, "row-1", "refresh_token")
        assert "Nothing was changed" in caught.value.hint

    def test_under_a_forged_key_id_does_not_open_either(self, vault: Vault) -> None:
        other = Vault(OTHER_KEY)
        sealed = vault.seal(SECRET, "row-1", "refresh_token")
        with pytest.raises(WrongKey):
            other.open(Sealed(sealed.replace(vault.key_id, other.key_id)), "row-1", "refresh_token")

    @pytest.mark.parametrize("clear", ["refresh-1-in-clear", "eyJhbGciOi.J9.x", "", "deadbee.x"])
    def test_what_was_never_sealed_is_not_shown_in_the_error(self, vault: Vault, clear: str) -> None:
        with pytest.raises(WrongKey) as caught:
            vault.open(Sealed(clear), "row-1", "refresh_token")
        assert "'unknown'" in str(caught.value)
        assert not clear or clear[:6] not in str(caught.value)


class TestTheKeys:
    @pytest.mark.parametrize("keys", [(), (b"",), (b"x" * 31,), (b"x" * 33,), (KEY, b"short")])
    def test_are_of_32_bytes(self, keys: tuple[bytes, ...]) -> None:
        with pytest.raises(ValueError, match=f"a key has {KEY_BYTES} bytes"):
            Vault(*keys)

    def test_the_first_seals_and_any_opens(self) -> None:
        old, new = Vault(OTHER_KEY), Vault(KEY, OTHER_KEY)
        sealed = old.seal(SECRET, "r", "c")
        assert new.open(sealed, "r", "c") == SECRET
        assert key_id_of(new.seal(SECRET, "r", "c")) == new.key_id == Vault(KEY).key_id
        assert tuple(new.key_ids) == (new.key_id, old.key_id)

    def test_are_not_in_its_repr(self, vault: Vault) -> None:
        assert repr(vault) == f"Vault(key_id={vault.key_id!r})"


class TestAnAuthorization:
    @staticmethod
    def roundtrip(vault: Vault, state: State) -> tuple[Authorization[Sealed], Authorization[Secret]]:
        sealed = vault.seal_authorization(authorization_in(state))
        return sealed, vault.open_authorization(sealed)

    @pytest.mark.parametrize("state", State)
    def test_comes_back_as_it_was(self, vault: Vault, state: State) -> None:
        sealed, opened = self.roundtrip(vault, state)
        assert opened == authorization_in(state)
        held = [each for each in (sealed.device_code, sealed.access_token, sealed.refresh_token) if each]
        assert all(isinstance(each, str) for each in held)
        assert not any(clear in repr(held) for clear in ("the-device-code", "access-1", "refresh-1"))

    def test_does_not_open_in_another_row(self, vault: Vault) -> None:
        sealed, _ = self.roundtrip(vault, State.GRANTED)
        with pytest.raises(WrongKey):
            vault.open_authorization(sealed._replace(id="another"))

    def test_with_two_columns_exchanged_does_not_open(self, vault: Vault) -> None:
        sealed, _ = self.roundtrip(vault, State.GRANTED)
        with pytest.raises(WrongKey):
            vault.open_authorization(
                sealed._replace(access_token=sealed.refresh_token, refresh_token=sealed.access_token)
            )

    def test_a_poll_costs_no_encryption(self, vault: Vault) -> None:
        sealed, opened = self.roundtrip(vault, State.PENDING)
        polled = step(opened, events.AuthorizationPending())
        again = vault.seal_authorization(polled, opened=opened, sealed=sealed)
        assert again.device_code is sealed.device_code

    def test_only_what_was_replaced_is_sealed_anew(self, vault: Vault) -> None:
        sealed, opened = self.roundtrip(vault, State.REFRESHING)
        refreshed = step(opened, tokens(access_token=Secret("access-2"), refresh_token=None))
        again = vault.seal_authorization(refreshed, opened=opened, sealed=sealed)
        assert again.refresh_token is sealed.refresh_token
        assert again.access_token != sealed.access_token
        assert vault.open_authorization(again) == refreshed

    def test_what_was_forgotten_is_gone(self, vault: Vault) -> None:
        sealed, opened = self.roundtrip(vault, State.REFRESHING)
        ended = step(opened, events.InvalidGrant())
        again = vault.seal_authorization(ended, opened=opened, sealed=sealed)
        assert (again.device_code, again.access_token, again.refresh_token) == (None, None, None)
