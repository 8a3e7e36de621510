"""The error tree: drawn on its module's first page, and the drawing is the tree."""

from __future__ import annotations

import inspect
import re

import pytest

from kimiflow import errors
from kimiflow.errors import KimiFlowError, StillPending, UsageError

TREE = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]


def drawn() -> dict[str, str | None]:
    """Each error's parent, read off the drawing in the docstring."""
    parents: dict[str, str | None] = {}
    above: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        match = re.match(r"(?P<indent> {4}(?:[│├└─ ]{4})*)(?P<name>[A-Z]\w+)", line)
        if match is None:
            continue
        depth = (len(match["indent"]) - 4) // 4
        del above[depth:]
        parents[match["name"]] = above[-1] if above else None
        above.append(match["name"])
    return parents


def test_the_drawing_is_the_tree() -> None:
    real = {each.__name__: each.__bases__[0].__name__ if each is not KimiFlowError else None for each in TREE}
    assert drawn() == real


def test_all_of_them_are_public_and_nothing_else_is() -> None:
    assert sorted(errors.__all__) == errors.__all__ == sorted(each.__name__ for each in TREE)


@pytest.mark.parametrize("error", TREE, ids=lambda each: each.__name__)
def test_each_has_a_message_a_hint_an_account_and_a_docstring(error: type[KimiFlowError]) -> None:
    assert error.__doc__
    bare = error("it happened")
    assert (str(bare), bare.hint, bare.account) == ("it happened", "", None)
    full = error("it happened", hint="type this", account="work")
    assert str(full) == "it happened\ntype this"
    assert (full.message, full.hint, full.account) == ("it happened", "type this", "work")
    with pytest.raises(KimiFlowError):
        raise full


def test_callers_may_catch_what_they_know_from_the_standard_library() -> None:
    assert issubclass(StillPending, TimeoutError)
    assert issubclass(UsageError, ValueError)
