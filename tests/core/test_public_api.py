"""What ``import kimiflow`` gives: these names, each loaded when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kimiflow
from kimiflow import errors

PUBLIC = [
    "AccessDenied",
    "AccountTransition",
    "AuthorizationExpired",
    "ForeignOrigin",
    "InvalidAccountName",
    "InvalidSetting",
    "KeyMissing",
    "KimiAuth",
    "KimiFlow",
    "KimiFlowError",
    "KimiPool",
    "Misconfigured",
    "NotSaved",
    "PersonNeeded",
    "PoolExhausted",
    "Profile",
    "QuotaWindow",
    "RefreshRefused",
    "RequestFailed",
    "SchemaMismatch",
    "ServerUnreachable",
    "Settings",
    "SignInNeeded",
    "SignedOut",
    "State",
    "Status",
    "StillPending",
    "StoreError",
    "StoreReplaced",
    "StoreUnavailable",
    "Token",
    "TokenRefused",
    "Transition",
    "UnknownAccount",
    "UnknownProvider",
    "UsageError",
    "VaultError",
    "WrongKey",
    "__version__",
    "load_settings",
]


def test_the_names_are_these() -> None:
    assert sorted(kimiflow.__all__) == PUBLIC


def test_all_errors_are_among_them() -> None:
    assert set(errors.__all__) <= set(kimiflow.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_is_what_its_module_has(name: str) -> None:
    found = getattr(kimiflow, name)
    if name.startswith("__"):
        assert isinstance(found, str)
    else:
        assert found.__name__ == name
        assert getattr(sys.modules[found.__module__], name) is found


def test_what_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kimiflow' has no attribute 'nonsense'"):
        kimiflow.nonsense  # noqa: B018


def test_a_star_import_gives_them_all() -> None:
    names: dict[str, object] = {}
    exec("from kimiflow import *", names)
    assert set(PUBLIC) <= set(names)


def test_importing_it_loads_nothing_heavy() -> None:
    program = "import sys, kimiflow; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "kimiflow" in loaded
    assert not {"httpx", "sqlalchemy", "pydantic", "transitions", "cryptography", "asyncio"} & set(loaded)
