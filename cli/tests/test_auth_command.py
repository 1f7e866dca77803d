"""`patchbay auth` as its own process, with a small issuer, a real Redis and a real edge."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from issuers import Issuer
from typer.testing import CliRunner

from patchbay.codex.login import Login
from patchbay.codex.oauth import Issuer as IssuerClient
from patchbay.codex.oauth import SignInRefused
from patchbay.settings import Codex
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.codex_limits import CodexLimits, Cooling, Quota, Window
from patchbay.state.connection import connect
from patchbay.state.sealing import make_sealer
from patchbay.testing.cluster import ServiceProcess
from patchbay.testing.eventually import eventually, wait_until
from patchbay.testing.ports import free_port
from patchbay.testing.valkey import ValkeyProcess
from patchbay_cli.auth import app
from patchbay_cli.codex_login import with_browser
from patchbay_cli.problems import CommandFailed

KEY = "00" * 32
SEALER = make_sealer([KEY])
assert SEALER is not None


@pytest.fixture(scope="module")
def shared_valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as served:
        yield served


@dataclass
class Place:
    """A machine to run the command on, with an empty environment."""

    home: Path
    redis_url: str
    issuer: Issuer

    @property
    def auth_file(self) -> Path:
        return self.home / ".codex" / "auth.json"

    def configure(self, *, secrets_key: str | None = KEY, redis_url: str = "", **backends: object) -> None:
        codex = {"kind": "codex", "credentials": "signed_in", "oauth_issuer": self.issuer.url}
        config: dict[str, object] = {
            "backends": {"codex": codex, **backends},
            "redis": {"url": redis_url or self.redis_url},
        }
        if secrets_key is not None:
            config["security"] = {"secrets_key": secrets_key}
        (self.home / "patchbay.yaml").write_text(json.dumps(config))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "patchbay_cli", "auth", *arguments],
            cwd=self.home,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.home), "COLUMNS": "400"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Runs a command in this process, which takes a tenth of the time."""
        result = CliRunner().invoke(app, list(arguments))
        if isinstance(result.exception, CommandFailed):
            return 1, f"{result.stdout}patchbay: {result.exception}\n"
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout

    def stored(self) -> dict[str, Login]:
        async def read() -> dict[str, Login]:
            redis = connect(self.redis_url, timeout=5)
            try:
                return dict(await CodexAccounts(redis, SEALER, timeout=5).all())
            finally:
                await redis.aclose()

        return asyncio.run(read())

    def store(self, name: str, login: Login) -> None:
        async def write() -> None:
            redis = connect(self.redis_url, timeout=5)
            await CodexAccounts(redis, SEALER, timeout=5).save(name, login)
            windows = (Window("primary", 42, 300), Window("secondary", 7, 10_080))
            await CodexLimits(redis, timeout=5).note_quotas({login.account: Quota(windows, 1.0, "pro")})
            await CodexLimits(redis, timeout=5).cool(login.account, Cooling(4_000_000_000.0))
            await redis.aclose()

        asyncio.run(write())


@pytest.fixture
def place(tmp_path: Path, shared_valkey: ValkeyProcess, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Place:
    shared_valkey.command("FLUSHALL")
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("CODEX_", "PATCHBAY_")) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Place(tmp_path, shared_valkey.url, issuer)
    made.configure()
    return made


def put(path: Path, login: Login) -> None:
    tokens = {name: getattr(login, name) for name in ("id_token", "access_token", "refresh_token", "account_id")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auth_mode": "chatgpt", "tokens": tokens, "last_refresh": "2026-01-01T00:00:00Z"}))


def url_in(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = ""
    while not (found := re.search(r"^  (http\S+)$", said, re.MULTILINE)):
        line = process.stdout.readline()
        assert line, said
        said += line
    return found[1]


def browser(issuer: Issuer) -> Callable[[str], httpx.Response]:
    """Signs in at a page, and goes where that sends it."""
    return lambda url: httpx.get(issuer.authorize(url, "acc-7"))


def test_signs_in_with_a_browser_into_redis(place: Place) -> None:
    port = free_port()
    process = place.start("login", "codex", f"--port={port}", "--account=team")
    url = url_in(process)
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert url.startswith(f"{place.issuer.url}/oauth/authorize?")
    assert query["client_id"] == "app_EMoamEEZ73f0CkXaXp7hrann"
    assert query["redirect_uri"] == f"http://127.0.0.1:{port}/auth/callback"
    assert {"offline_access", "openid"} <= set(query["scope"].split())
    # Somebody else's page sends a code of its own, and a browser asks for an icon.
    base = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{base}/auth/callback?code=stolen&state=guessed").status_code == 400
    assert httpx.get(f"{base}/favicon.ico").status_code == 404
    answer = browser(place.issuer)(url)
    assert (answer.status_code, answer.text) == (200, "You are signed in. You may close this page.")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "Signed in as acc-7@x.test (plus)." in said
    assert "Kept in Redis, as the account team." in said
    assert place.issuer.is_good(place.stored()["team"].refresh_token)
    assert not place.auth_file.exists()


def test_signs_in_with_a_code_into_the_clis_file_where_nothing_can_be_sealed(place: Place) -> None:
    place.configure(secrets_key=None)
    process = place.start("login", "codex", "--device")
    assert process.stdout is not None
    assert process.stdout.readline() == f"Visit {place.issuer.url}/codex/device and type the code ABCD-1234\n"
    place.issuer.typed = True
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert f"Kept in {place.auth_file}." in said
    content = json.loads(place.auth_file.read_text())
    assert (content["auth_mode"], content["tokens"]["account_id"]) == ("chatgpt", "acc-1")
    assert place.issuer.is_good(content["tokens"]["refresh_token"])
    assert place.auth_file.stat().st_mode & 0o777 == 0o600
    assert place.stored() == {}


@pytest.mark.parametrize(
    ("query", "page", "error", "said"),
    [
        (
            {"error": "access_denied", "error_description": "not \x1b[2J you"},
            "The sign-in was refused.",
            CommandFailed,
            "the sign-in was refused (access_denied: not \\x1b[2J you)",
        ),
        ({}, "The sign-in was refused.", CommandFailed, "the sign-in was refused (no code)"),
        ({"code": "x"}, "You are signed in.", SignInRefused, "the issuer answers 400 invalid_grant: the code is wrong"),
    ],
)
async def test_a_sign_in_that_is_refused_is_said(
    issuer: Issuer, query: dict[str, str], page: str, error: type[Exception], said: str
) -> None:
    pages: list[str] = []
    client = IssuerClient(Codex(Path("/nowhere"), issuer.url, "", ""))
    waits = asyncio.ensure_future(with_browser(client, lambda _: None, pages.append, ports=(free_port(),)))
    await eventually(lambda: pages)
    asked = {name: values[0] for name, values in parse_qs(urlsplit(pages[0]).query).items()}
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(asked["redirect_uri"], params={**query, "state": asked["state"]})
    assert page in answer.text
    with pytest.raises(error, match=re.escape(said)):
        await waits


def test_takes_a_sign_in_of_the_cli(place: Place) -> None:
    login = place.issuer.login("acc-5")
    put(place.home / "other.json", login)
    code, said = place.run("import", "other.json")
    assert (code, "Kept in Redis, as the account acc-5@x.test." in said) == (0, True)
    assert "will have to sign in anew" in said
    assert place.stored()["acc-5@x.test"].refresh_token == login.refresh_token
    put(place.auth_file, login)
    code, said = place.run("import", str(place.auth_file), "--account", "mine")
    assert (code, said) == (0, "Kept in Redis, as the account mine.\n")
    place.configure(secrets_key=None)
    code, said = place.run("import", "other.json")
    assert code == 1
    assert said.startswith("patchbay: a sign-in is kept in Redis only when it can be sealed: set security.secrets_key")


def test_signs_out_and_gives_the_tokens_back(place: Place) -> None:
    a, b = place.issuer.login("acc-a"), place.issuer.login("acc-b")
    place.store("a", a)
    place.store("b", b)
    code, said = place.run("logout", "codex")
    assert (code, said) == (1, "patchbay: say which with --account: a, b\n")
    assert place.run("logout", "codex", "--account=a") == (0, "Signed out: a\n")
    assert place.issuer.revoked == [a.refresh_token]
    assert list(place.stored()) == ["b"]
    assert place.run("logout", "codex") == (0, "Signed out: b\n")
    code, said = place.run("logout", "codex")
    assert (code, said) == (1, f"patchbay: nobody is signed in: {place.auth_file} is not there\n")
    put(place.auth_file, place.issuer.login())
    assert place.run("logout", "codex", f"--account={place.auth_file}")[0] == 0
    assert not place.auth_file.exists()


def test_the_table_without_a_system(place: Place) -> None:
    place.configure(
        openai={"api_key": "sk-made-up"},
        gemini={},
        anthropic={"credentials": "pass_through"},
        coder={"kind": "claude-cli", "credentials": "signed_in", "config_dir": "/c"},
    )
    place.store("team", place.issuer.login("acc-a"))
    put(place.auth_file, place.issuer.login("acc-b"))
    code, said = place.run("status")
    rows = [re.split(r" {2,}", line.strip()) for line in said.splitlines()]
    assert rows[0] == ["backend", "kind", "account", "signed in", "plan", "used", "detail"]
    assert ["openai", "openai", "yes"] in rows
    assert ["gemini", "gemini", "no", "no credential: set GEMINI_API_KEY or backends.gemini.api_key"] in rows
    assert ["anthropic", "anthropic", "yes", "each caller brings a key"] in rows
    assert ["coder", "claude-cli", "no", "only its worker can tell, which does not run"] in rows
    [team] = [row for row in rows if "team" in row]
    assert team[:5] == ["codex", "codex", "team", "yes", "pro"]
    assert team[5].startswith("42 % of 5 h, 7 % of 7 d, rests until 2096-")
    assert ["codex", "codex", str(place.auth_file), "yes", "plus"] in rows
    assert code == 1
    assert "made-up" not in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "auth.json is not there: sign in with `patchbay auth login codex`"),
        ({"redis_url": "redis://127.0.0.1:1"}, "sign-ins are kept in Redis, which does not answer"),
    ],
)
def test_what_is_missing_is_in_the_table(place: Place, config: dict[str, str], said: str) -> None:
    place.configure(**config)
    code, table = place.run("status")
    assert (code, said in table) == (1, True)


def test_the_table_of_a_running_system(place: Place, tmp_path: Path) -> None:
    """An edge without workers, so that its words are all that is shown, and this machine's file is not."""
    put(place.auth_file, place.issuer.login())
    place.configure(openai={"api_key": "sk-made-up"})
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    log = tmp_path / "log"
    edge = ServiceProcess("edge", config=tmp_path / "patchbay.yaml", environ=environ, log=log, port=free_port())
    try:
        wait_until(lambda: edge.alive and "Uvicorn running" in edge.output(), what="the edge serves", log=edge.output)
        code, said = place.run("status", "--url", edge.url)
    finally:
        edge.kill()
    rows = [re.split(r" {2,}", line.strip()) for line in said.splitlines()[1:]]
    assert code == 1
    assert rows == [
        ["codex", "codex", "no", "no live worker says whether it is signed in"],
        ["openai", "openai", "yes"],
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("login", "gemini"), "gemini is no provider to sign in to: codex is"),
        (("login", "claude"), "the claude program signs in by itself"),
        (("login", "codex", "--account", "../x"), "'../x' is no name for an account"),
        (("login", "codex", "--backend", "other"), "there is no backend of kind codex called other (there are: codex)"),
        (("import", "none.json"), "none.json is not there"),
        (("logout", "codex", "--account", "nobody"), "the account `nobody` is not signed in here"),
        (("status", "--url", "http://127.0.0.1:1"), "http://127.0.0.1:1 does not answer"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place: Place, arguments: tuple[str, ...], said: str) -> None:
    code, text = place.run(*arguments)
    assert code == 1
    assert text.startswith("patchbay: ")
    assert said in text
    assert text.count("\n") == 1


def test_nobody_signs_in_for_nothing(place: Place) -> None:
    place.configure(redis_url="redis://127.0.0.1:1")
    code, said = place.run("login", "codex", "--device")
    assert (code, said.startswith("patchbay: sign-ins are kept in Redis, which does not answer")) == (1, True)
    place.configure(secrets_key=None)
    code, said = place.run("login", "codex", "--device", "--account=team")
    assert (code, "holds one alone" in said) == (1, True)


def test_the_command_says_what_is_wrong_without_a_stack_trace(place: Place) -> None:
    process = place.start("login", "gemini")
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, "patchbay: gemini is no provider to sign in to: codex is\n")
