"""Account names: a letter or digit, then up to 63 of letters, digits and ``. _ @ + -``."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiflow.errors import InvalidAccountName, UsageError
from kimiflow.model import valid_account_name

from .samples import quick


@pytest.mark.parametrize(
    "name",
    ["a", "7", "work", "me@example.com", "first.last+kimi", "team_1-a", "0-0", "A" * 64, "a....", "a@@", "a--"],
)
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert valid_account_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", " a", "a ", "-a", ".a", "_a", "@a", "+a", "a/b", "../a", "a\n", "a\x00", "ä", "aé", "a" * 65,
     "a:b", "--all", "a%", "\u0661", "\uff41"],
)  # fmt: skip
def test_anything_else_is_a_usage_error_that_shows_value_and_rule(name: str) -> None:
    with pytest.raises(InvalidAccountName) as caught:
        valid_account_name(name)
    assert repr(name) in str(caught.value)
    assert "up to 63 letters, digits and . _ @ + -" in caught.value.hint
    assert isinstance(caught.value, UsageError)


def test_a_very_long_one_is_not_shown_whole() -> None:
    with pytest.raises(InvalidAccountName) as caught:
        valid_account_name("x" * 10_000)
    assert len(caught.value.message) < 200


@quick
@given(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9._@+-]{1,66}", fullmatch=True))
def test_the_rule_is_what_it_says(name: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+\-]{0,63}", name):
        assert valid_account_name(name) == name
        return
    with pytest.raises(InvalidAccountName) as caught:
        valid_account_name(name)
    assert caught.value.message.isprintable()
