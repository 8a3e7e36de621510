"""Settings: where they come from, which one wins, and what a bad one says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kimiflow.errors import InvalidSetting, UnknownProvider, UsageError
from kimiflow.provider import BUILT_IN, checked_url, find_provider, is_loopback, origin_of
from kimiflow.settings import Settings, default_home, load_settings

SECRET = "hunter2hunter2"
OAUTH_HOSTS = ["KIMIFLOW_OAUTH_HOST", "KIMI_CODE_OAUTH_HOST", "KIMI_OAUTH_HOST"]
CORP = """
[providers.corp]
device_authorization_endpoint = "https://sso.example/device/auth"
token_endpoint = "https://sso.example/token"
client_id = "abc"
"""


class Place:
    """A home with a ``config.toml``, and an environment that says where it is."""

    def __init__(self, home: Path, environment: pytest.MonkeyPatch) -> None:
        self.home = home
        self.file = home / "config.toml"
        self._environment = environment

    def load(self, config: str = "", /, **environment: str) -> Settings:
        self.file.write_text(config, encoding="utf-8")
        for name, value in environment.items():
            self._environment.setenv(name, value)
        return load_settings()

    def refused(self, config: str = "", /, **environment: str) -> str:
        with pytest.raises(InvalidSetting) as caught:
            self.load(config, **environment)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in list(os.environ):
        if name.upper().startswith("KIMI") or name.upper() == "OAUTH_HOST":
            monkeypatch.delenv(name)
    monkeypatch.setenv("KIMIFLOW_HOME", str(tmp_path))
    return Place(tmp_path, monkeypatch)


class TestDefaults:
    def test_are_what_the_readme_says(self, place: Place) -> None:
        settings = load_settings()
        assert settings.home == place.home
        assert settings.store_url == f"sqlite:///{place.home / 'kimiflow.db'}"
        assert settings.key_path == place.home / "key"
        assert settings.key is None
        assert settings.proxy is None
        assert settings.provider == "kimi"
        assert settings.oauth_host is None
        assert settings.poll_interval_floor == settings.pacing.poll_interval_floor == 5.0
        assert settings.authorization_timeout == settings.pacing.authorization_timeout == 900.0
        assert settings.refresh_lead == settings.pacing.refresh_lead == 300.0
        assert settings.http_timeout == 30.0
        assert settings.concurrency == 256
        assert (settings.log_level, settings.log_format) == ("info", "console")
        assert settings.all_providers() == BUILT_IN

    def test_without_a_home_it_is_the_platforms_data_folder(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("KIMIFLOW_HOME")
        monkeypatch.setenv("XDG_DATA_HOME", str(place.home / "data"))
        assert load_settings().home == default_home()

    def test_a_home_may_be_relative_or_begin_with_a_tilde(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(place.home))
        assert place.load(KIMIFLOW_HOME="~/here").home == place.home / "here"
        monkeypatch.chdir(place.home)
        assert place.load(KIMIFLOW_HOME="there").home == Path.cwd() / "there"

    def test_loading_makes_nothing(self, place: Place) -> None:
        load_settings()
        assert list(place.home.iterdir()) == []


EACH = [
    # setting, in the file, in the environment, as an argument
    ("provider", "kimi-global", "kimi", "kimi-global"),
    ("oauth_host", "https://a.example", "https://b.example", "https://c.example"),
    ("api_base", "https://a.example/x", "https://b.example", "https://c.example"),
    ("poll_interval_floor", 1.5, "2.5", 3.5),
    ("authorization_timeout", 60, "70", 80),
    ("refresh_lead", 0, "10", 20),
    ("http_timeout", 1, "2", 3),
    ("concurrency", 1, "2", 3),
    ("log_level", "debug", "warning", "error"),
    ("log_format", "json", "console", "json"),
    ("key_file", "/a/key", "/b/key", "/c/key"),
]
SECRETS = [
    ("key", "a", "b", "c"),
    ("proxy", "http://a:1", "http://b:1", "http://c:1"),
    ("database_url", "sqlite:///a", "sqlite:///b", "sqlite:///c"),
]


class TestPrecedence:
    """An argument, then the environment, then ``config.toml``, then the default."""

    @pytest.mark.parametrize(("name", "in_file", "in_environment", "given"), [*EACH, *SECRETS])
    def test_of_each_setting(
        self,
        place: Place,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        in_file: object,
        in_environment: str,
        given: object,
    ) -> None:
        def value(settings: Settings) -> str:
            found = getattr(settings, name)
            return str(found.get_secret_value() if hasattr(found, "get_secret_value") else found)

        def same(left: str, right: object) -> bool:
            return left == str(right) or (isinstance(right, (int, float)) and float(left) == right)

        line = f'{name} = "{in_file}"' if isinstance(in_file, str) else f"{name} = {in_file}"
        assert same(value(place.load(line)), in_file)
        loaded = place.load(line, **{f"KIMIFLOW_{name.upper()}": in_environment})
        assert value(loaded) in {in_environment, f"{in_environment}.0"}
        assert same(value(load_settings(**{name: given})), given)
        monkeypatch.setenv(f"KIMIFLOW_{name.upper()}", "")
        assert same(value(load_settings()), in_file), "an empty variable is none"

    def test_every_setting_is_covered_here(self) -> None:
        covered = {name for name, *_ in [*EACH, *SECRETS]}
        assert covered == set(Settings.model_fields) - {"home", "providers"}


class TestWords:
    @pytest.mark.parametrize(("name", "value"), [("log_level", "Warning"), ("log_format", "JSON")])
    def test_may_be_upper_or_lower_case(self, place: Place, name: str, value: str) -> None:
        assert getattr(place.load(**{f"KIMIFLOW_{name.upper()}": value}), name) == value.lower()


class TestTheHostOfKimi:
    @pytest.mark.parametrize("variable", OAUTH_HOSTS)
    def test_is_replaced_in_the_built_in_providers(self, place: Place, variable: str) -> None:
        settings = place.load(CORP, **{variable: "http://127.0.0.1:8080/"})
        found = settings.all_providers()
        for name in ("kimi", "kimi-global"):
            assert found[name].device_authorization_endpoint == ("http://127.0.0.1:8080/api/oauth/device_authorization")
            assert found[name].token_endpoint == "http://127.0.0.1:8080/api/oauth/token"
            assert found[name].api_base == BUILT_IN[name].api_base
        assert found["corp"].token_endpoint == "https://sso.example/token"

    def test_the_api_is_replaced_by_a_setting_of_its_own(self, place: Place) -> None:
        found = place.load(CORP, KIMIFLOW_API_BASE="http://127.0.0.1:8080/coding/").all_providers()
        for name in ("kimi", "kimi-global"):
            assert found[name].api_base == "http://127.0.0.1:8080/coding"
            assert found[name].token_endpoint == BUILT_IN[name].token_endpoint
        assert found["corp"].api_base != found["kimi"].api_base
        with pytest.raises(InvalidSetting, match="KIMIFLOW_API_BASE"):
            place.load(KIMIFLOW_API_BASE="http://api.example/coding")

    def test_our_own_variable_comes_first_then_kimi_codes(self, place: Place) -> None:
        names = iter(["c", "b", "a"])
        for variable in reversed(OAUTH_HOSTS):
            host = f"https://{next(names)}.example"
            assert place.load('oauth_host = "https://file.example"', **{variable: host}).oauth_host == host

    def test_an_argument_comes_before_all(self, place: Place) -> None:
        place.load(**dict.fromkeys(OAUTH_HOSTS, "https://a.example"))
        assert load_settings(oauth_host="https://b.example").oauth_host == "https://b.example"

    def test_a_variable_of_somebody_else_is_left_alone(self, place: Place) -> None:
        assert place.load(OAUTH_HOST="https://elsewhere.example").oauth_host is None

    @pytest.mark.parametrize("variable", OAUTH_HOSTS)
    def test_a_bad_one_is_named_as_it_was_written(self, place: Place, variable: str) -> None:
        assert place.refused(**{variable: "auth.example"}).startswith(f"{variable} is 'auth.example'; allowed is")


class TestProvidersFromTheFile:
    def test_join_the_built_in_ones(self, place: Place) -> None:
        settings = place.load(
            'provider = "corp"\n' + CORP + 'scope = "openid offline_access"\napi_base = "https://api.example/"\n'
            'revocation_endpoint = "https://sso.example/revoke"'
        )
        corp = settings.all_providers()["corp"]
        assert settings.provider == corp.name == "corp"
        assert corp.device_authorization_endpoint == "https://sso.example/device/auth"
        assert corp.token_endpoint == "https://sso.example/token"
        assert corp.client_id == "abc"
        assert corp.scope == "openid offline_access"
        assert corp.api_base == "https://api.example"
        assert corp.revocation_endpoint == "https://sso.example/revoke"

    def test_need_no_scope_and_no_api(self, place: Place) -> None:
        corp = place.load(CORP).all_providers()["corp"]
        assert (corp.scope, corp.api_base, corp.revocation_endpoint) == (None, None, None)

    @pytest.mark.parametrize("missing", ["device_authorization_endpoint", "token_endpoint", "client_id"])
    def test_need_the_rest(self, place: Place, missing: str) -> None:
        config = "\n".join(line for line in CORP.splitlines() if not line.startswith(missing))
        assert place.refused(config) == (
            f"providers.corp.{missing} in {place.file} is missing\nAdd it to {place.file}."
        )

    @pytest.mark.parametrize(
        "field", ["device_authorization_endpoint", "token_endpoint", "revocation_endpoint", "api_base"]
    )
    def test_are_not_spoken_to_in_clear(self, place: Place, field: str) -> None:
        config = "\n".join(line for line in CORP.splitlines() if not line.startswith(field))
        told = place.refused(f'{config}\n{field} = "http://sso.example/x"')
        assert told.startswith(
            f"providers.corp.{field} in {place.file} is 'http://sso.example/x'; plain http is refused"
        )

    def test_with_a_key_that_there_is_not(self, place: Place) -> None:
        told = place.refused(f'{CORP}\nclient_secret = "{SECRET}"')
        assert told.startswith(f"providers.corp.client_secret in {place.file} is not a setting")
        assert (
            "There are: api_base, client_id, device_authorization_endpoint, revocation_endpoint, scope, token_endpoint"
            in told
        )
        assert SECRET not in told

    @pytest.mark.parametrize("config", ['providers = "corp"', '[providers]\ncorp = "x"'])
    def test_are_tables(self, place: Place, config: str) -> None:
        assert "allowed is tables like [providers.NAME]" in place.refused(config)

    def test_that_are_unknown_are_listed(self, place: Place) -> None:
        with pytest.raises(UnknownProvider, match="'x' of account work is not known; there are: kimi, kimi-global"):
            find_provider(place.load().all_providers(), "x", account="work")


BAD = [
    ("provider", "nope", "one of: kimi, kimi-global"),
    ("poll_interval_floor", "abc", "a number of seconds from 0.05 to 3600"),
    ("poll_interval_floor", "0", "a number of seconds from 0.05 to 3600"),
    ("poll_interval_floor", "nan", "a number of seconds from 0.05 to 3600"),
    ("authorization_timeout", "0.5", "a number of seconds from 1 to 86400"),
    ("authorization_timeout", "inf", "a number of seconds from 1 to 86400"),
    ("refresh_lead", "-1", "a number of seconds from 0 to 86400"),
    ("http_timeout", "0", "a number of seconds from 0.1 to 600"),
    ("http_timeout", "601", "a number of seconds from 0.1 to 600"),
    ("concurrency", "0", "a whole number from 1 to 4096"),
    ("concurrency", "1.5", "a whole number from 1 to 4096"),
    ("concurrency", "many", "a whole number from 1 to 4096"),
    ("log_level", "loud", "debug, info, warning or error"),
    ("log_format", "xml", "console or json"),
    ("oauth_host", "auth.example", "an absolute https:// URL"),
    ("oauth_host", "ftp://auth.example", "an absolute https:// URL"),
    ("oauth_host", "https://", "an absolute https:// URL"),
    ("oauth_host", "https://auth.example:99999", "an absolute https:// URL"),
    ("proxy", "corp-proxy", "http://HOST:PORT, https://HOST:PORT, socks5://HOST:PORT, socks5h://HOST:PORT or env:NAME"),
]


class TestABadValue:
    """One line: the key and where it stands, the value, what is allowed."""

    @pytest.mark.parametrize(("name", "value", "allowed"), BAD)
    def test_in_the_environment(self, place: Place, name: str, value: str, allowed: str) -> None:
        told = place.refused(**{f"KIMIFLOW_{name.upper()}": value})
        assert told.splitlines()[0] == f"KIMIFLOW_{name.upper()} is {value!r}; allowed is {allowed}"

    @pytest.mark.parametrize(("name", "value", "allowed"), BAD)
    def test_in_the_file(self, place: Place, name: str, value: str, allowed: str) -> None:
        told = place.refused(f'{name} = "{value}"')
        assert told.splitlines()[0] == f"{name} in {place.file} is {value!r}; allowed is {allowed}"

    @pytest.mark.parametrize(
        ("line", "allowed"),
        [
            ("oauth_host = 5", "an absolute https:// URL"),
            ("provider = 5", "the name of a provider"),
            ("log_level = 5", "debug, info, warning or error"),
            ("key_file = 5", "a file"),
        ],
    )
    def test_of_another_type(self, place: Place, line: str, allowed: str) -> None:
        name = line.partition(" ")[0]
        assert place.refused(line) == f"{name} in {place.file} is 5; allowed is {allowed}"

    @pytest.mark.parametrize(
        ("field", "value", "allowed"),
        [
            ("client_id", '""', "a text that is not empty"),
            ("client_id", "5", "a text that is not empty"),
            ("token_endpoint", "5", "an absolute https:// URL"),
            ("revocation_endpoint", '"/revoke"', "an absolute https:// URL"),
            ("scope", '["a", "b"]', "a text"),
        ],
    )
    def test_of_a_provider(self, place: Place, field: str, value: str, allowed: str) -> None:
        config = "\n".join(line for line in CORP.splitlines() if not line.startswith(field))
        told = place.refused(f"{config}\n{field} = {value}")
        shown = repr("") if value == '""' else value.replace('"', "'")
        assert told == f"providers.corp.{field} in {place.file} is {shown}; allowed is {allowed}"

    def test_a_home_that_is_told_where_only_the_home_could_tell(self, place: Place) -> None:
        assert place.refused('home = "/elsewhere"') == (
            f"home in {place.file} comes too late: that file was found by it\nSet KIMIFLOW_HOME instead."
        )

    def test_as_an_argument(self, place: Place) -> None:
        with pytest.raises(InvalidSetting, match="KIMIFLOW_CONCURRENCY is 0; allowed is a whole number"):
            load_settings(concurrency=0)
        assert place.load().concurrency == 256

    def test_behind_an_empty_variable_it_is_the_files(self, place: Place) -> None:
        told = place.refused("concurrency = 0", KIMIFLOW_CONCURRENCY="")
        assert told.startswith(f"concurrency in {place.file} is 0;")

    def test_a_key_that_there_is_not_is_named_with_those_there_are(self, place: Place) -> None:
        told = place.refused("concurency = 3")
        assert told.startswith(
            f"concurency in {place.file} is not a setting\nThere are: api_base, authorization_timeout, "
        )

    def test_a_file_that_is_no_toml(self, place: Place) -> None:
        assert place.refused("concurrency =").startswith(f"{place.file} is not TOML: ")
        place.file.write_bytes(b"\xff\xfe")
        with pytest.raises(InvalidSetting, match="is not TOML"):
            load_settings()

    def test_a_file_that_is_a_folder(self, place: Place) -> None:
        place.file.mkdir()
        with pytest.raises(InvalidSetting, match="cannot be read"):
            load_settings()

    def test_providers_in_the_environment_that_are_no_json(self, place: Place) -> None:
        assert place.refused(KIMIFLOW_PROVIDERS="{nope").startswith("KIMIFLOW_PROVIDERS is not JSON\n")


class TestSecretsStaySecret:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("proxy", f"http://me:{SECRET}@host:99999"),
            ("proxy", f"me:{SECRET}@host:3128"),
            ("proxy", f"gopher://me:{SECRET}@host"),
            ("oauth_host", f"https://me:{SECRET}@auth.example"),
            ("oauth_host", f"https://me:{SECRET}@auth.example:99999"),
            ("oauth_host", f"ftp://me:{SECRET}@auth.example"),
            ("oauth_host", f"me:{SECRET}@auth.example"),
        ],
    )
    def test_in_messages(self, place: Place, name: str, value: str) -> None:
        for told in (place.refused(f'{name} = "{value}"'), place.refused(**{f"KIMIFLOW_{name.upper()}": value})):
            assert name in told.lower()
            assert SECRET not in told

    @pytest.mark.parametrize("name", ["key", "proxy", "database_url"])
    def test_in_messages_about_a_type(self, place: Place, name: str) -> None:
        told = place.refused(f'{name} = ["{SECRET}"]')
        assert told.startswith(f"{name} in {place.file} is not usable;")
        assert SECRET not in told

    def test_in_repr(self, place: Place) -> None:
        settings = place.load(
            KIMIFLOW_KEY=SECRET,
            KIMIFLOW_PROXY=f"http://me:{SECRET}@proxy.example:3128",
            KIMIFLOW_DATABASE_URL=f"postgresql://me:{SECRET}@db.example/kimiflow",
        )
        for text in (
            repr(settings),
            str(settings),
            f"{settings}",
            repr(settings.model_dump()),
            settings.model_dump_json(),
        ):
            assert SECRET not in text
        assert SECRET in settings.store_url, "for the store alone"

    def test_a_proxy_may_hold_one_here_because_neither_history_nor_process_list_shows_it(self, place: Place) -> None:
        settings = place.load(KIMIFLOW_PROXY=f"socks5://me:{SECRET}@proxy.example:1080")
        assert settings.proxy is not None


class TestURLs:
    @pytest.mark.parametrize(
        "url",
        [
            "https://auth.kimi.com",
            "https://auth.kimi.com:8443/base",
            "http://localhost:8080",
            "http://LOCALHOST",
            "http://sandbox.localhost",
            "http://127.0.0.1:1",
            "http://127.8.9.1",
            "http://[::1]:80",
        ],
    )
    def test_https_anywhere_and_plain_http_on_loopback(self, url: str) -> None:
        assert checked_url("KEY", url) == url

    @pytest.mark.parametrize(
        "url",
        ["http://auth.kimi.com", "http://10.0.0.1", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
         "http://0.0.0.0", "http://[::]", "http://2130706433"],
    )  # fmt: skip
    def test_plain_http_anywhere_else_is_refused(self, url: str) -> None:
        with pytest.raises(InvalidSetting, match=r"KEY is .* plain http is refused except on loopback"):
            checked_url("KEY", url)

    def test_loopback_is_told_by_the_host(self) -> None:
        assert not is_loopback(None)
        assert not is_loopback("")
        assert not is_loopback("localhost.example")


class TestOrigins:
    @pytest.mark.parametrize(
        ("url", "origin"),
        [
            ("https://api.example", "https://api.example"),
            ("https://api.example/coding/v1?a=b#c", "https://api.example"),
            ("HTTPS://API.Example/", "https://api.example"),
            ("https://api.example:443/", "https://api.example"),
            ("https://api.example:", "https://api.example"),
            ("http://localhost:80/", "http://localhost"),
            ("https://api.example:80/", "https://api.example:80"),
            ("http://api.example:443/", "http://api.example:443"),
            ("https://api.example:8443/", "https://api.example:8443"),
            ("https://api.example.", "https://api.example"),
            ("https://api.example.:443/", "https://api.example"),
            ("https://me:hunter2@api.example/", "https://api.example"),
            ("https://api.example@evil.example/", "https://evil.example"),
            ("https://127.0.0.1:8080/", "https://127.0.0.1:8080"),
            ("https://[::1]:8080/", "https://[::1]:8080"),
            ("https://[2001:DB8:0:0::0001]:443", "https://[2001:db8::1]"),
            ("https://münchen.example/", "https://xn--mnchen-3ya.example"),
            ("https://MÜNCHEN.example/", "https://xn--mnchen-3ya.example"),
            ("https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"),
            ("https://straße.example", "https://xn--strae-oqa.example"),
            ("https://münchen。example", "https://xn--mnchen-3ya.example"),
            ("wss://api.example:443/live", "wss://api.example"),
        ],
    )
    def test_equal_ones_are_equal_strings(self, url: str, origin: str) -> None:
        assert origin_of(url) == origin
        assert origin_of(origin) == origin

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("https://api.example", "http://api.example"),
            ("https://api.example", "https://api.example:8443"),
            ("https://api.example", "https://www.api.example"),
            ("https://api.example", "https://api.example.evil.example"),
            ("https://straße.example", "https://strasse.example"),
            ("https://127.0.0.1", "https://localhost"),
        ],
    )
    def test_others_are_others(self, one: str, other: str) -> None:
        assert origin_of(one) != origin_of(other)

    @pytest.mark.parametrize(
        "url",
        ["", "/coding", "api.example", "//api.example", "https:///coding", "https://.", "https://:443",
         "https://api.example:99999", "https://api.example:no", "https://[::1", "https://\u2764\ufe0f\u200d.example"],
    )  # fmt: skip
    def test_what_has_none_is_refused(self, url: str) -> None:
        with pytest.raises(UsageError, match="has no origin"):
            origin_of(url)

    def test_no_password_is_told(self) -> None:
        with pytest.raises(UsageError) as caught:
            origin_of(f"https://me:{SECRET}@api.example:99999")
        assert SECRET not in str(caught.value)

    def test_a_providers_is_that_of_its_token_endpoint(self) -> None:
        assert BUILT_IN["kimi"].origin == "https://auth.kimi.com"
