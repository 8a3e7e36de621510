"""Everything that kimiflow raises on purpose.

    KimiFlowError
    ├── UsageError                 what was asked cannot be meant (also a ValueError)
    │   ├── InvalidSetting         a setting, in the environment or config.toml
    │   ├── InvalidAccountName
    │   ├── UnknownProvider
    │   └── ForeignOrigin          a request would have taken an account's token elsewhere than to its API
    ├── PersonNeeded               only a person can help
    │   ├── SignInNeeded           by ``kimiflow login NAME``
    │   │   ├── UnknownAccount
    │   │   ├── SignedOut
    │   │   ├── AccessDenied       RFC 8628 §3.5 ``access_denied``, and before a grant fatal RFC 6749 §5.2 errors
    │   │   └── AuthorizationExpired   the code ran out, or the grant is gone
    │   ├── Misconfigured          by mending the settings; the tokens are kept (also a RequestFailed)
    │   └── RefreshRefused         the server refuses refreshes beyond the token's end; they go on (also a RequestFailed)
    ├── StillPending               nobody has approved yet (also a TimeoutError)
    ├── RequestFailed              the server answered, but not with what was needed
    │   ├── TokenRefused           the API refuses a token that was just refreshed for being refused
    │   └── ServerUnreachable      the server did not answer
    ├── PoolExhausted              no account of a pool is left
    ├── StoreError
    │   ├── StoreUnavailable       the database is locked, away or not readable
    │   │   └── StoreReplaced      the file at the database's path is not the one that is open
    │   ├── NotSaved               what a server said could be saved nowhere
    │   └── SchemaMismatch         the database is newer than the program, or not ours
    └── VaultError
        ├── KeyMissing
        └── WrongKey               sealed with another key, or tampered with

Each says what happened, to which account, and, in ``hint``, what to type next. None holds a secret.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "AuthorizationExpired",
    "ForeignOrigin",
    "InvalidAccountName",
    "InvalidSetting",
    "KeyMissing",
    "KimiFlowError",
    "Misconfigured",
    "NotSaved",
    "PersonNeeded",
    "PoolExhausted",
    "RefreshRefused",
    "RequestFailed",
    "SchemaMismatch",
    "ServerUnreachable",
    "SignInNeeded",
    "SignedOut",
    "StillPending",
    "StoreError",
    "StoreReplaced",
    "StoreUnavailable",
    "TokenRefused",
    "UnknownAccount",
    "UnknownProvider",
    "UsageError",
    "VaultError",
    "WrongKey",
]


class KimiFlowError(Exception):
    """The root. ``message`` says what happened, ``hint`` (may be empty) what to do, ``account`` to whom."""

    def __init__(self, message: str, *, hint: str = "", account: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.account = account

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(KimiFlowError, ValueError):
    """What was asked for cannot be meant."""


class InvalidSetting(UsageError):
    """A setting has a value that is not allowed; the message names key, value and what is allowed."""


class InvalidAccountName(UsageError):
    """An account name breaks the rule: a letter or digit, then up to 63 of letters, digits, ``. _ @ + -``."""


class UnknownProvider(UsageError):
    """No provider of that name is built in or configured."""


class ForeignOrigin(UsageError):
    """A request would have gone to an origin that an account's token and device id are not for; nothing was sent."""


class PersonNeeded(KimiFlowError):
    """Nothing goes on, or not for certain, before a person has done something."""


class SignInNeeded(PersonNeeded):
    """Only a person can help, by signing in."""


class UnknownAccount(SignInNeeded):
    """No account of that name was ever signed in."""


class SignedOut(SignInNeeded):
    """The account is known, but holds neither a grant nor a flow on its way."""


class AccessDenied(SignInNeeded):
    """The person or the server said no (RFC 8628 §3.5, RFC 6749 §5.2)."""


class AuthorizationExpired(SignInNeeded):
    """The device code ran out unapproved, or the refresh token is no longer honoured."""


class StillPending(KimiFlowError, TimeoutError):
    """Time was up before a person approved. The flow goes on; nothing is lost."""


class RequestFailed(KimiFlowError):
    """The server answered, but not with what was needed; it will be tried again."""


class Misconfigured(PersonNeeded, RequestFailed):
    """The server does not know this client (RFC 6749 §5.2), or an account's own settings do not work.

    Its tokens are kept, and a refresh is tried now and then.
    """


class RefreshRefused(PersonNeeded, RequestFailed):
    """The server has refused every refresh beyond the token's end, without a word about the grant.

    It may be the server's trouble, or its gateway's, and pass: the tokens are kept, and refreshes are tried on.
    """


class TokenRefused(RequestFailed):
    """The API refuses a token that was refreshed a moment ago because it refused the one before: another would not help."""


class ServerUnreachable(RequestFailed):
    """The server did not answer: no connection, or no reply in time."""


class PoolExhausted(KimiFlowError):
    """No account of a pool is left: each is set aside, or not signed in.

    ``account`` is the one that returns first, ``returns_at`` when (Unix seconds); ``None`` where none will by itself.
    """

    def __init__(
        self, message: str, *, hint: str = "", account: str | None = None, returns_at: float | None = None
    ) -> None:
        super().__init__(message, hint=hint, account=account)
        self.returns_at = returns_at


class StoreError(KimiFlowError):
    """The store cannot do what was asked."""


class StoreUnavailable(StoreError):
    """The database is locked, away, or not to be read or written just now."""


class StoreReplaced(StoreUnavailable):
    """The file at the database's path is not the one that is open: it was replaced, moved or removed meanwhile."""


class NotSaved(StoreError):
    """Something arrived that could be saved neither in the store nor in a file beside it, and is lost."""


class SchemaMismatch(StoreError):
    """The database's schema is newer than this program, or was not made by it."""


class VaultError(KimiFlowError):
    """Secrets cannot be sealed or opened."""


class KeyMissing(VaultError):
    """There are sealed secrets, but no key to open them with."""


class WrongKey(VaultError):
    """A sealed value was sealed with another key, or was changed or moved since."""
