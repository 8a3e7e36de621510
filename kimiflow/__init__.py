"""Sign many Kimi accounts in, keep them signed in, and lose none of it to a restart.

    async with KimiFlow.open() as flow:
        authorization = await flow.login("work")
        await flow.wait("work")
        token = await flow.token("work")

Names are loaded when they are first used, so that ``import kimiflow`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kimiflow._version import __version__

if TYPE_CHECKING:
    from kimiflow.api.profile import Profile as Profile
    from kimiflow.api.profile import QuotaWindow as QuotaWindow
    from kimiflow.auth import KimiAuth as KimiAuth
    from kimiflow.errors import AccessDenied as AccessDenied
    from kimiflow.errors import AuthorizationExpired as AuthorizationExpired
    from kimiflow.errors import ForeignOrigin as ForeignOrigin
    from kimiflow.errors import InvalidAccountName as InvalidAccountName
    from kimiflow.errors import InvalidSetting as InvalidSetting
    from kimiflow.errors import KeyMissing as KeyMissing
    from kimiflow.errors import KimiFlowError as KimiFlowError
    from kimiflow.errors import Misconfigured as Misconfigured
    from kimiflow.errors import NotSaved as NotSaved
    from kimiflow.errors import PersonNeeded as PersonNeeded
    from kimiflow.errors import PoolExhausted as PoolExhausted
    from kimiflow.errors import RefreshRefused as RefreshRefused
    from kimiflow.errors import RequestFailed as RequestFailed
    from kimiflow.errors import SchemaMismatch as SchemaMismatch
    from kimiflow.errors import ServerUnreachable as ServerUnreachable
    from kimiflow.errors import SignedOut as SignedOut
    from kimiflow.errors import SignInNeeded as SignInNeeded
    from kimiflow.errors import StillPending as StillPending
    from kimiflow.errors import StoreError as StoreError
    from kimiflow.errors import StoreReplaced as StoreReplaced
    from kimiflow.errors import StoreUnavailable as StoreUnavailable
    from kimiflow.errors import TokenRefused as TokenRefused
    from kimiflow.errors import UnknownAccount as UnknownAccount
    from kimiflow.errors import UnknownProvider as UnknownProvider
    from kimiflow.errors import UsageError as UsageError
    from kimiflow.errors import VaultError as VaultError
    from kimiflow.errors import WrongKey as WrongKey
    from kimiflow.flow import KimiFlow as KimiFlow
    from kimiflow.model import AccountTransition as AccountTransition
    from kimiflow.model import State as State
    from kimiflow.model import Transition as Transition
    from kimiflow.pool import KimiPool as KimiPool
    from kimiflow.settings import Settings as Settings
    from kimiflow.settings import load_settings as load_settings
    from kimiflow.status import Status as Status
    from kimiflow.status import Token as Token

_HOME = {
    "AccountTransition": "model",
    "KimiAuth": "auth",
    "KimiFlow": "flow",
    "KimiPool": "pool",
    "Profile": "api.profile",
    "QuotaWindow": "api.profile",
    "Settings": "settings",
    "State": "model",
    "Status": "status",
    "Token": "status",
    "Transition": "model",
    "load_settings": "settings",
}

__all__ = [
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


def __getattr__(name: str) -> object:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
