"""The commands of the README's pages on neighbours, in their order."""

from __future__ import annotations

import json
import sys

from tests.formats.house import House, loaded


def test_with_cliproxyapi(house: House) -> None:
    source = house.cliproxyapi("kimi-1712345678901.json", note="work")
    folder = source.parent.rename(house.root / ".cli-proxy-api")
    source = folder / source.name
    assert "would be taken in as work" in house.good("import", folder, "--dry-run").out
    house.good("import", folder, "--take-over")
    assert loaded(source)["refresh_token"] == ""
    house.good("run", "--until-settled", "--sync", f"cliproxyapi:{folder}")
    assert loaded(folder / "kimi-work.json")["access_token"] == house.good("token", "work").out.strip()
    theirs = house.root / "theirs"
    house.good("export", "work", "--format", "cliproxyapi", "--output", f"{theirs}/", "--with-refresh-token")
    assert loaded(theirs / "kimi-work.json")["refresh_token"]
    house.good("run", "--until-settled", "--sync", f"cliproxyapi:{folder}")
    assert not (folder / "kimi-work.json").exists()


def test_with_kimi_cli_and_kimi_code(house: House) -> None:
    house.kimi_code()
    house.good("import")
    house.kimi_cli()
    house.good("import", house.root / ".kimi", "--name", "desk", "--take-over")
    house.good("run", "--until-settled", "--sync", "kimi-cli:~/kimi")
    assert loaded(house.root / "kimi/desk/credentials/kimi-code.json")["refresh_token"] == ""
    assert (house.root / "kimi/desk/device_id").read_text() == house.good("token", "desk", "--json").json["device_id"]


def test_with_litellm(house: House) -> None:
    house.sign_in("work")
    arguments = ("--env", "MOONSHOT_API_KEY=token", "--env", "MOONSHOT_API_BASE=base")
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(house.cli.good("exec", "work", *arguments, "--", sys.executable, "-c", show))
    token = house.good("token", "work").out.strip()
    assert (seen["MOONSHOT_API_KEY"], seen["MOONSHOT_API_BASE"]) == (token, "https://api.kimi.com/coding/v1")
    house.good("run", "--until-settled", "--sync", "json:~/tokens", "--sync", "env:~/tokens-env")
    assert loaded(house.root / "tokens/work.json")["access_token"] == token
    assert (house.root / "tokens-env/work.env").read_text() == house.good("export", "work", "--format", "env").out
