from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from patchbay.canonical import ChatEvent
from patchbay.errors import AUTHENTICATION, INVALID_REQUEST, UPSTREAM, PatchbayError
from patchbay.settings import load
from patchbay.testing.eventually import eventually, stays
from patchbay.testing.scripted_claude import URL, ScriptedClaude
from patchbay_claude_worker.cli import sign_in as sign_in_module
from patchbay_claude_worker.cli.sign_in import CliSignIn
from patchbay_claude_worker.model.provider import ModelProvider
from patchbay_proto.v1.provider_pb2 import ChatRequest, NativeRequest
from patchbay_standin.testing import StandinProcess

BODY = b'{"model":"standin","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}'
Serve = Callable[..., Awaitable[ModelProvider]]


@pytest.fixture
def claude(tmp_path: Path) -> ScriptedClaude:
    return ScriptedClaude(tmp_path)


@pytest.fixture
async def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Serves a backend with `credentials: signed_in`; closing it leaves nothing, and says no code in its log."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    # What would leave the machine goes nowhere.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    providers: list[ModelProvider] = []

    async def begin(**config: object) -> ModelProvider:
        pool = {"min_spare": 0, "max_processes": 1}
        backend = {"kind": "claude-cli", "credentials": "signed_in", "pool": pool}
        backend |= {"config_dir": str(tmp_path / "config dir"), **config}
        settings = load([f"--backends.x={json.dumps(backend)}"], {})
        provider = ModelProvider(settings.enabled_backends()["x"])
        providers.append(provider)
        await provider.start()
        return provider

    with capture_logs() as logged:
        yield begin
        for provider in providers:
            await asyncio.wait_for(provider.aclose(), timeout=20)
    assert list(temporary.iterdir()) == []
    assert "made-up-code" not in str(logged)


def account(provider: ModelProvider) -> CliSignIn:
    assert isinstance(provider.sign_in, CliSignIn)
    return provider.sign_in


async def asked(provider: ModelProvider) -> CliSignIn:
    """Its sign-in, once it is known whether there is one."""
    found = account(provider)
    await eventually(lambda: found.signed_in or found.detail, seconds=15)
    return found


async def chat(provider: ModelProvider) -> list[ChatEvent]:
    request = ChatRequest(backend="x", native=NativeRequest(dialect="anthropic", body=BODY))
    async with aclosing(provider.chat(request)) as answer:
        return [event async for events in answer for event in events]


def commands(claude: ScriptedClaude) -> list[str]:
    """The `claude auth` commands so far."""
    return [
        str(start["arguments"][1])
        for start in claude.starts()
        if isinstance(start["arguments"], list) and start["arguments"][0] == "auth"
    ]


async def test_who_is_not_signed_in_is_told_how_before_any_process_is_used(
    claude: ScriptedClaude, serve: Serve, tmp_path: Path
) -> None:
    provider = await serve(cli_path=claude.path)
    [event] = await chat(provider)
    words = (
        f"not signed in: POST /auth/login, or run `CLAUDE_CONFIG_DIR='{tmp_path}/config dir' claude auth login` "
        "as the worker's user"
    )
    assert (event.error.code, event.error.http_status, event.error.message) == (AUTHENTICATION, 401, words)
    status = provider.status()
    assert (status.signed_in, status.detail, status.credentials) == (False, words, "signed_in")
    assert [start["arguments"] for start in claude.starts()] == [["auth", "status", "--json"]]
    environ = claude.starts()[0]["environ"]
    assert isinstance(environ, dict)
    assert environ["CLAUDE_CONFIG_DIR"] == f"{tmp_path}/config dir"
    assert environ["BROWSER"].endswith("true")


async def test_a_login_and_a_logout(claude: ScriptedClaude, serve: Serve) -> None:
    claude.plan(code="made-up-code#state")
    provider = await serve(cli_path=claude.path)
    found = await asked(provider)
    begun = await found.begin()
    assert (begun.url, begun.signed_in, len(begun.login_id) > 16) == (URL, False, True)
    assert "login_id" in begun.detail
    ended = await found.finish(begun.login_id, " made-up-code#state\n")
    assert (ended.login_id, ended.url, ended.signed_in, ended.detail) == ("", "", True, "signed in")
    assert (provider.status().signed_in, provider.status().detail) == (True, "")
    events = await chat(provider)
    assert b"message_stop" in b"".join(event.native.data for event in events)
    out = await found.forget()
    assert (out.signed_in, out.detail) == (False, "signed out")
    assert not provider.status().signed_in
    assert commands(claude) == ["status", "login", "status", "logout", "status"]


async def test_what_only_other_providers_have_is_refused(claude: ScriptedClaude, serve: Serve) -> None:
    found = await asked(await serve(cli_path=claude.path))
    for refused, field in (
        (found.begin(device=True), "device"),
        (found.begin(account="team-b"), "account"),
        (found.take(b"{}"), "sign_in"),
        (found.forget("team-b"), "account"),
    ):
        with pytest.raises(PatchbayError) as raised:
            await refused
        assert (raised.value.error.code, raised.value.error.parameter) == (INVALID_REQUEST, field)
    assert commands(claude) == ["status"]


@pytest.mark.parametrize("code", ["made-up-code-of-another", "made-up-code#half"])
async def test_a_wrong_code_ends_the_login_and_is_not_repeated(claude: ScriptedClaude, serve: Serve, code: str) -> None:
    claude.plan(code="right")
    found = await asked(await serve(cli_path=claude.path))
    begun = await found.begin()
    with pytest.raises(PatchbayError) as raised:
        await found.finish(begun.login_id, code)
    assert (raised.value.error.code, raised.value.error.retryable) == (UPSTREAM, False)
    assert raised.value.error.message == "Couldn't log in: <code> is not valid"
    with pytest.raises(PatchbayError, match="no such login waits here"):
        await found.finish(begun.login_id, "right")


async def test_codes_that_cannot_be_one_leave_the_login_as_it_is(claude: ScriptedClaude, serve: Serve) -> None:
    claude.plan(code="right")
    found = await asked(await serve(cli_path=claude.path))
    begun = await found.begin()
    for login_id, code, parameter in [
        ("another", "right", "login_id"),
        (begun.login_id, "", "code"),
        (begun.login_id, "two\nlines", "code"),
        (begun.login_id, "x" * 5000, "code"),
    ]:
        with pytest.raises(PatchbayError) as raised:
            await found.finish(login_id, code)
        assert (raised.value.error.code, raised.value.error.parameter) == (INVALID_REQUEST, parameter)
    assert (await found.finish(begun.login_id, "right")).signed_in


async def test_a_new_login_ends_the_old_one(claude: ScriptedClaude, serve: Serve) -> None:
    claude.plan(code="right")
    found = await asked(await serve(cli_path=claude.path))
    first, second = await found.begin(), await found.begin()
    # Two at once, too.
    third, fourth = await asyncio.gather(found.begin(), found.begin())
    assert len({first.login_id, second.login_id, third.login_id, fourth.login_id}) == 4
    await eventually(lambda: len(claude.running()) == 1)
    for old in (first, second, third):
        with pytest.raises(PatchbayError, match="no such login"):
            await found.finish(old.login_id, "right")
    assert (await found.finish(fourth.login_id, "right")).signed_in


async def test_a_login_ends_by_itself(claude: ScriptedClaude, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_module, "_LOGIN_SECONDS", 0.3)
    found = await asked(await serve(cli_path=claude.path))
    begun = await found.begin()
    await eventually(lambda: not claude.running())
    with pytest.raises(PatchbayError, match="took longer than 10 minutes"):
        await found.finish(begun.login_id, "right")


async def test_a_login_ends_with_the_worker(claude: ScriptedClaude, serve: Serve) -> None:
    provider = await serve(cli_path=claude.path)
    await (await asked(provider)).begin()
    assert claude.running()
    await provider.aclose()
    assert not claude.running()


async def test_a_program_that_hangs_is_given_up(
    claude: ScriptedClaude, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in_module, "_COMMAND_SECONDS", 0.5)
    claude.plan(auth="hang")
    provider = await serve(cli_path=claude.path)
    found = await asked(provider)
    assert not provider.status().signed_in
    assert "cannot be found out: the claude process did not end within 0.5 s" in provider.status().detail
    with pytest.raises(PatchbayError, match="names no page"):
        await found.begin()
    with pytest.raises(PatchbayError, match="the logout failed"):
        await found.forget()
    # What is not known is not held against a request: the program itself knows.
    assert len(await chat(provider)) > 1


async def test_a_missing_program_says_how_to_get_one(serve: Serve, tmp_path: Path) -> None:
    provider = await serve(cli_path=str(tmp_path / "nothing"))
    found = await asked(provider)
    assert "npm install" in found.detail
    with pytest.raises(PatchbayError, match="npm install"):
        await found.begin()


async def test_a_sign_in_by_hand_is_noticed_and_nobody_is_asked_twice_at_once(
    claude: ScriptedClaude, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in_module, "_ASK_AGAIN_SIGNED_OUT_SECONDS", 0.05)
    provider = await serve(cli_path=claude.path)
    await asked(provider)
    await eventually(lambda: len(claude.starts()) >= 3)
    claude.sign_in()
    await eventually(lambda: provider.status().signed_in)
    number = len(claude.starts())
    await stays(lambda: len(claude.starts()) == number, seconds=0.3)
    assert set(commands(claude)) == {"status"}


# The real program from here on.


def credentials(tmp_path: Path) -> None:
    directory = tmp_path / "config dir"
    directory.mkdir()
    oauth = {
        "accessToken": "sk-ant-oat01-made-up",
        "refreshToken": "sk-ant-ort01-made-up",
        "expiresAt": (int(time.time()) + 8 * 3600) * 1000,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
    (directory / ".credentials.json").write_text(json.dumps({"claudeAiOauth": oauth}))


async def test_the_real_programs_login_has_a_page_and_fails_without_a_network(serve: Serve) -> None:
    found = await asked(await serve())
    assert found.detail == found.missing
    begun = await found.begin()
    assert begun.url.startswith("https://claude.com/")
    assert "code_challenge=" in begun.url
    with pytest.raises(PatchbayError, match="Couldn't log in"):
        await found.finish(begun.login_id, "made-up-code#made-up-state")


async def test_the_real_programs_status_and_logout(serve: Serve, tmp_path: Path) -> None:
    credentials(tmp_path)
    provider = await serve()
    found = await asked(provider)
    assert (found.signed_in, provider.status().detail) == (True, "")
    assert not (await found.forget()).signed_in
    assert provider.status().detail == found.missing
    assert not (tmp_path / "config dir" / ".credentials.json").exists()


async def test_a_sign_in_that_the_upstream_does_not_take_is_a_401_that_says_how(serve: Serve, tmp_path: Path) -> None:
    credentials(tmp_path)
    with StandinProcess() as standin:
        provider = await serve(base_url=standin.url)
        found = await asked(provider)
        assert b"message_stop" in b"".join(event.native.data for event in await chat(provider))
        assert standin.requests()[-1].headers["authorization"] == "Bearer sk-ant-oat01-made-up"
        refused = NativeRequest(dialect="anthropic", body=BODY.replace(b'"standin"', b'"standin-error-401"'))
        async with aclosing(provider.chat(ChatRequest(backend="x", native=refused))) as answer:
            events = [event async for some in answer for event in some]
        error = events[-1].error
        assert (error.code, error.http_status, error.message) == (AUTHENTICATION, 401, found.missing)
        # The file has gone, and nobody has asked since.
        (tmp_path / "config dir" / ".credentials.json").unlink()
        error = (await chat(provider))[-1].error
        assert (error.code, error.http_status, error.message) == (AUTHENTICATION, 401, found.missing)
