"""Settings: environment variables with the prefix ``KIMIFLOW_``, then ``config.toml`` in the home, then defaults."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from kimiflow.errors import InvalidSetting, UsageError
from kimiflow.files import read_regular
from kimiflow.http.proxies import checked_proxy
from kimiflow.pacing import Pacing
from kimiflow.provider import BUILT_IN, Provider, checked_url, on_host, origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ProviderSettings", "Settings", "load_settings", "without_settings"]

_PREFIX = "KIMIFLOW_"
_ALSO_OAUTH_HOST = ("KIMI_CODE_OAUTH_HOST", "KIMI_OAUTH_HOST")
_PLACING = ("oauth_host", "providers")
"""Keys that say where an authorization server is."""
_SECRET_KEYS = frozenset({"key", "proxy", "database_url"})
_ALLOWED = {
    "poll_interval_floor": "a number of seconds from 0.05 to 3600",
    "authorization_timeout": "a number of seconds from 1 to 86400",
    "refresh_lead": "a number of seconds from 0 to 86400",
    "http_timeout": "a number of seconds from 0.1 to 600",
    "concurrency": "a whole number from 1 to 4096",
    "log_level": "debug, info, warning or error",
    "log_format": "console or json",
    "home": "a folder",
    "key_file": "a file",
    "key": "32 bytes as base64",
    "oauth_host": "an absolute https:// URL",
    "provider": "the name of a provider",
    "proxy": "the URL of a proxy, or env:NAME",
    "database_url": "a URL such as sqlite:///kimiflow.db",
    "providers": "tables like [providers.NAME]",
}
_IN_A_PROVIDER = 3
"""Parts of the place of a value in a table ``[providers.NAME]``."""
_ALLOWED_OF_PROVIDERS = {
    "device_authorization_endpoint": "an absolute https:// URL",
    "token_endpoint": "an absolute https:// URL",
    "api_base": "an absolute https:// URL",
    "revocation_endpoint": "an absolute https:// URL",
    "client_id": "a text that is not empty",
    "scope": "a text",
}


def _url(value: str) -> str:
    return checked_url("the URL", value)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Url = Annotated[str, AfterValidator(_url)]


class ProviderSettings(BaseModel):
    """One ``[providers.NAME]`` table of ``config.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device_authorization_endpoint: Url
    token_endpoint: Url
    client_id: str = Field(min_length=1)
    scope: str | None = None
    api_base: Url | None = None
    revocation_endpoint: Url | None = None


class _TomlSource(PydanticBaseSettingsSource):
    """``config.toml`` in the home, under the variables of other tools.

    An explicit source, because where the home is is itself a setting.
    """

    def __init__(self, settings_cls: type[BaseSettings], table: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._table = table

    def get_field_value(self, field: object, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return self._table.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._table)


class Settings(BaseSettings):
    """Everything that can be set. Durations are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    home: Path
    database_url: SecretStr = SecretStr("")
    """Empty: ``kimiflow.db`` in the home."""
    provider: str = "kimi"
    oauth_host: Url | None = None
    api_base: Url | None = None
    poll_interval_floor: float = Field(default=5.0, ge=0.05, le=3_600, allow_inf_nan=False)
    authorization_timeout: float = Field(default=900.0, ge=1, le=86_400, allow_inf_nan=False)
    refresh_lead: float = Field(default=300.0, ge=0, le=86_400, allow_inf_nan=False)
    http_timeout: float = Field(default=30.0, ge=0.1, le=600, allow_inf_nan=False)
    concurrency: int = Field(default=256, ge=1, le=4_096)
    proxy: SecretStr | None = None
    key: SecretStr | None = None
    key_file: Path | None = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    log_format: Annotated[Literal["console", "json"], BeforeValidator(_lower)] = "console"
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    _usual_origins: dict[str, str] = PrivateAttr(default_factory=lambda: {p.name: p.origin for p in BUILT_IN.values()})
    """Of the token endpoints, by provider, as built in or in the file, whatever the environment says."""
    _not_from_the_file: dict[str, str] = PrivateAttr(default_factory=lambda: {key: key for key in _PLACING})
    """Those of the keys ``oauth_host`` and ``providers`` that were set elsewhere, and where."""

    @property
    def pacing(self) -> Pacing:
        """The settings that decide when."""
        return Pacing(
            poll_interval_floor=self.poll_interval_floor,
            authorization_timeout=self.authorization_timeout,
            refresh_lead=self.refresh_lead,
        )

    @property
    def store_url(self) -> str:
        """Where the store is; may hold a password."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.home / 'kimiflow.db'}"

    @property
    def key_path(self) -> Path:
        """Where the key is, unless the environment holds it."""
        return (self.key_file or self.home / "key").expanduser()

    def all_providers(self) -> dict[str, Provider]:
        """The built-in providers, moved to ``oauth_host`` and ``api_base`` where those are set, and the configured ones."""
        found = dict(BUILT_IN)
        if self.oauth_host is not None:
            by = self._not_from_the_file.get("oauth_host") or f"oauth_host in {self.home / 'config.toml'}"
            found = {
                name: replace(on_host(provider, self.oauth_host), placed_by=by) for name, provider in found.items()
            }
        if self.api_base is not None:
            found = {name: replace(each, api_base=self.api_base.rstrip("/")) for name, each in found.items()}
        for name, p in self.providers.items():
            base = None if p.api_base is None else p.api_base.rstrip("/")
            by = self._not_from_the_file.get("providers") or f"[providers.{name}] in {self.home / 'config.toml'}"
            found[name] = Provider(name=name, **p.model_dump() | {"api_base": base, "placed_by": by})
        usual = self._usual_origins
        return {
            name: each if usual.get(name, each.origin) == each.origin else replace(each, usual_origin=usual[name])
            for name, each in found.items()
        }


def default_home() -> Path:
    """Where kimiflow keeps its files unless ``KIMIFLOW_HOME`` says otherwise."""
    return platformdirs.user_data_path("kimiflow", appauthor=False)


def _usual_origins(file: Path, table: Mapping[str, Any]) -> dict[str, str]:
    """Where the token endpoints are as built in or configured in the file.

    :raises InvalidSetting: where that has a value that cannot be used, though another hides it now.
    """
    host, configured = table.get("oauth_host"), table.get("providers", {})
    try:
        origins = {name: each.origin if host is None else origin_of(host) for name, each in BUILT_IN.items()}
        return origins | {name: origin_of(each["token_endpoint"]) for name, each in configured.items()}
    except (UsageError, AttributeError, KeyError, TypeError):
        raise InvalidSetting(
            f"oauth_host, or the token_endpoint of a provider, cannot be used in {file}",
            hint="Such as https://auth.example, and https://auth.example/token. Correct the file.",
        ) from None


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for other programs: kimiflow's own settings, some of them secrets, are not theirs."""
    return {name: value for name, value in environment.items() if not name.upper().startswith(_PREFIX)}


def load_settings(**overrides: object) -> Settings:
    """The settings, from ``overrides``, the environment, ``config.toml`` and the defaults, in this order.

    :raises InvalidSetting: naming the key, the value and what is allowed.
    """
    home = Path(str(overrides.pop("home", None) or os.environ.get(f"{_PREFIX}HOME") or default_home()))
    home = home.expanduser().absolute()
    file = home / "config.toml"
    table = _read_toml(file)
    if "home" in table:
        raise InvalidSetting(
            f"home in {file} comes too late: that file was found by it", hint=f"Set {_PREFIX}HOME instead."
        )
    # What other tools of Kimi's read counts as environment, so it comes before the file.
    host = next((os.environ[v] for v in _ALSO_OAUTH_HOST if os.environ.get(v)), None)
    borrowed = {} if host is None else {"oauth_host": host}

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, _TomlSource(settings_cls, {**table, **borrowed})

    try:
        loaded = Loaded(home=home, **overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _explained(error, file, table) from None
    except SettingsError:
        raise InvalidSetting(f"{_PREFIX}PROVIDERS is not JSON", hint=f"Providers are set up in {file}.") from None
    _check(loaded, file, table)
    elsewhere = {key: key if key in overrides else _variable(key) for key in _PLACING}
    loaded._not_from_the_file = {key: where for key, where in elsewhere.items() if where}  # noqa: SLF001 - its own
    loaded._usual_origins = _usual_origins(file, table)  # noqa: SLF001 - its own
    return loaded


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path).decode())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSetting(f"{path} is not TOML: {error}", hint="Correct the file, or move it away.") from None
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}") from None


def _variable(name: str) -> str | None:
    """The environment variable that sets ``name``, where one does."""
    candidates = (f"{_PREFIX}{name.upper()}", *(_ALSO_OAUTH_HOST if name == "oauth_host" else ()))
    return next((variable for variable in candidates if os.environ.get(variable)), None)


def _place(where: Sequence[str], file: Path, table: Mapping[str, Any]) -> str:
    """What the person wrote, and where: a variable, or a key in the file."""
    variable = _variable(where[0])
    if variable is None and where[0] in table:
        return f"{'.'.join(where)} in {file}"
    return variable or f"{_PREFIX}{where[0].upper()}"


def _check(settings: Settings, file: Path, table: Mapping[str, Any]) -> None:
    """What one field alone cannot tell."""
    providers = settings.all_providers()
    if settings.provider not in providers:
        raise InvalidSetting(
            f"{_place(['provider'], file, table)} is {settings.provider!r}; "
            f"allowed is one of: {', '.join(sorted(providers))}"
        )
    if settings.proxy is not None:
        checked_proxy(_place(["proxy"], file, table), settings.proxy.get_secret_value(), may_hold_password=True)


def _explained(error: ValidationError, file: Path, table: Mapping[str, Any]) -> InvalidSetting:
    """One clear line for the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    where = [str(part) for part in first["loc"]]
    name = where[0]
    key = _place(where, file, table)
    if first["type"] == "extra_forbidden":
        there_are = Settings if len(where) == 1 else ProviderSettings
        return InvalidSetting(
            f"{key} is not a setting",
            hint=f"There are: {', '.join(sorted(there_are.model_fields.keys() - {'home'}))}",
        )
    if first["type"] == "missing":
        return InvalidSetting(f"{key} is missing", hint=f"Add it to {file}.")
    value = " is not usable;" if name in _SECRET_KEYS else f" is {_given(first, name, where, table)!r};"
    cause = first.get("ctx", {}).get("error")
    allowed = _ALLOWED.get(name) if len(where) < _IN_A_PROVIDER else _ALLOWED_OF_PROVIDERS.get(where[2])
    if isinstance(cause, InvalidSetting):
        return InvalidSetting(cause.message.replace("the URL", key, 1), hint=cause.hint)
    return InvalidSetting(f"{key}{value} allowed is {allowed or first['msg']}")


def _given(first: Mapping[str, Any], name: str, where: list[str], table: Mapping[str, Any]) -> object:
    """The value as it was written: pydantic hides it, so that no secret slips into an error."""
    variable = _variable(name)
    if variable is not None:
        return os.environ[variable]
    value: Any = table
    for part in where:
        value = value.get(part, first.get("input")) if isinstance(value, dict) else value
    return value
