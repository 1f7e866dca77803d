"""A `codex` backend over HTTP: what an account cannot do, another one does, and the client sees one answer.

The small upstream here is asked in the Chat Completions dialect, since what is tested does not depend on one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from issuers import Issuer
from redis.asyncio import Redis

from patchbay.canonical import ROLE_USER, Block, Chat, ChatEvent, Message, Text
from patchbay.codex.login import Login
from patchbay.dialects.openai_chat import DIALECT, OpenAIChatQuirks
from patchbay.errors import AUTHENTICATION, INVALID_REQUEST, QUOTA_EXCEEDED, UNAVAILABLE
from patchbay.settings import SettingsError, Timeouts, load
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.connection import connect
from patchbay.state.sealing import make_sealer
from patchbay.testing.eventually import eventually
from patchbay.testing.upstream import Upstream, Visit, upstream
from patchbay.testing.valkey import ValkeyProcess
from patchbay.upstream.http import HttpUpstream
from patchbay.upstream.transport import read_all
from patchbay.worker.runtime import Shared
from patchbay_codex_worker.accounts import make_pool
from patchbay_codex_worker.profiles import CODEX
from patchbay_codex_worker.provider import CodexProvider
from patchbay_codex_worker.transport import AccountUpstream
from patchbay_proto.v1.provider_pb2 import Caller, ChatRequest

KEY = "00" * 32
SEALER = make_sealer([KEY])
assert SEALER is not None


def chunk(**more: object) -> bytes:
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


ANSWER = [
    chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None}]),
    chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    b"data: [DONE]\n\n",
]
USED_UP = {"error": {"type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "plus"}}


@dataclass
class Backend:
    """The ChatGPT backend: what it says to each account, by its id; `hello` to all others.

    Attributes:
        checks: What `accounts/check` says of an account.
        refused: Tokens that are refused.
        says: Status and body for an account.
        unreadable: What a body with this in it is refused for.
        within: What an account answers instead of `frames`.
        seen: Each request: account, token and body.
    """

    says: dict[str, tuple[str, object]] = field(default_factory=dict)
    checks: dict[str, dict[str, object]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unreadable: bytes = b"\0"
    headers: tuple[str, ...] = ()
    frames: list[bytes] = field(default_factory=lambda: list(ANSWER))
    within: dict[str, list[bytes]] = field(default_factory=dict)
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def __call__(self, visit: Visit) -> None:
        account, token = visit.header("chatgpt-account-id") or "", visit.header("authorization") or ""
        if visit.head.startswith(b"GET /wham/accounts/check ") and account in self.checks:
            entry = {"id": account, "plan_type": "team", **self.checks[account]}
            await visit.answer(json.dumps({"accounts": [{"id": "other"}, entry]}).encode(), "connection: close")
            return
        if not visit.head.startswith(b"POST"):
            await visit.answer(b"{}", "connection: close", status="404 Not Found")
            return
        self.seen.append((account, token, visit.body))
        if token in self.refused:
            await visit.answer(b'{"detail": "Unauthorized"}', "connection: close", status="401 Unauthorized")
        elif self.unreadable in visit.body:
            body = b'{"error": {"code": "invalid_encrypted_content", "message": "cannot be verified"}}'
            await visit.answer(body, "connection: close", status="400 Bad Request")
        elif account in self.says:
            status, body = self.says[account]
            await visit.answer(json.dumps(body).encode(), "connection: close", status=status)
        else:
            # As the real one, without a content type.
            await visit.say_head("transfer-encoding: chunked", "connection: close", *self.headers)
            for frame in self.within.get(account, self.frames):
                await visit.say_chunk(frame)
            await visit.say(b"0\r\n\r\n")

    def accounts(self) -> list[str]:
        return [account for account, _, _ in self.seen]


@dataclass
class Running:
    provider: CodexProvider[OpenAIChatQuirks]
    upstream: AccountUpstream
    backend: Backend
    served: Upstream
    logins: Mapping[str, Login]

    async def chat(self, session: str = "", **more: object) -> list[ChatEvent]:
        message = Message(role=ROLE_USER, blocks=[Block(text=Text(text="hi"))])
        request = ChatRequest(
            backend="codex", model="m", chat=Chat(messages=[message]), session_id=session, caller=Caller(key_id="k")
        )
        request.headers.update(more)  # type: ignore[arg-type]
        async with aclosing(self.provider.chat(request)) as answer:
            return [event async for events in answer for event in events]


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(valkey: ValkeyProcess, redis: Redis, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def make(*accounts: str, checks: Mapping[str, object] | None = None, **config: object) -> Running:
            logins = {account: issuer.login(account) for account in accounts}
            for account, login in logins.items():
                await CodexAccounts(redis, SEALER).save(account.removeprefix("acc-"), login)
            backend = Backend(checks={account: dict(checks) for account in accounts} if checks else {})
            served = await stack.enter_async_context(upstream(backend))
            written = {"kind": "codex", "credentials": "signed_in", "oauth_issuer": issuer.url, "base_url": served.url}
            flags = [f"--backends.codex={json.dumps(written | config)}", f"--security.secrets_key={KEY}"]
            settings = load(flags, {"HOME": str(tmp_path)})
            client = connect(valkey.url)
            stack.push_async_callback(client.aclose)
            # What accounts do is the same in any dialect; this one says the least.
            profile = replace(CODEX, dialect=DIALECT, quirks=DIALECT.quirks)
            shared = Shared(redis=client, worker_id="w")
            provider = CodexProvider(settings.enabled_backends()["codex"], profile, settings, shared)
            stack.push_async_callback(provider.aclose)
            await provider.start()
            http = HttpUpstream(served.url, Timeouts())
            pool, _ = make_pool(settings.enabled_backends()["codex"], settings, shared, upstream=http)
            carries = AccountUpstream(pool, http)
            stack.push_async_callback(carries.aclose)
            return Running(provider, carries, backend, served, logins)

        yield make


def text_of(events: list[ChatEvent]) -> str:
    return "".join(event.text_delta.text for event in events)


async def test_asks_as_a_codex_cli_does(start: Start) -> None:
    running = await start("acc-1")
    assert text_of(await running.chat("s")) == "hello"
    visit = next(visit for visit in running.served.visits if visit.head.startswith(b"POST"))
    assert visit.head.startswith(b"POST /codex/responses HTTP/1.1\r\n")
    assert visit.header("authorization") == f"Bearer {running.logins['acc-1'].access_token}"
    assert visit.header("chatgpt-account-id") == "acc-1"
    assert visit.header("accept") == "text/event-stream"
    assert visit.header("originator") == "codex_cli_rs"
    assert (visit.header("user-agent") or "").startswith("codex_cli_rs/")
    session = visit.header("session-id")
    assert session
    # The session's own name goes no further; a CLI's does, and what else it says of itself.
    assert session != "s"
    await running.chat("s", **{"session-id": "0199", "originator": "codex_exec", "cookie": "c", "x-other": "o"})
    visit = running.served.visits[-1]
    assert (visit.header("session-id"), visit.header("originator")) == ("0199", "codex_exec")
    assert (visit.header("cookie"), visit.header("x-other")) == (None, None)


async def test_no_client_sees_that_one_of_three_accounts_is_at_its_limit(start: Start) -> None:
    running = await start("acc-1", "acc-2", "acc-3")
    reset = round(time.time()) + 500
    running.backend.says["acc-2"] = ("429 Too Many Requests", {"error": {**USED_UP["error"], "resets_at": reset}})
    for _ in range(9):
        assert text_of(await running.chat()) == "hello"
    assert running.backend.accounts().count("acc-2") == 1
    status = next(one for one in running.provider.status().accounts if one.name == "2")
    assert abs(status.cooling_until - reset) <= 1


async def test_all_at_their_limit_is_429_with_the_earliest_reset(start: Start) -> None:
    running = await start("acc-1", "acc-2", "acc-3")
    for account, seconds in (("acc-1", 900), ("acc-2", 60), ("acc-3", 300)):
        body = {"error": {**USED_UP["error"], "resets_in_seconds": seconds}}
        running.backend.says[account] = ("429 Too Many Requests", body)
    for asked in (3, 3):
        [event] = await running.chat()
        assert (event.error.code, event.error.http_status) == (QUOTA_EXCEEDED, 429)
        assert 55 < event.error.retry_after <= 60
        assert sorted(running.backend.accounts()) == ["acc-1", "acc-2", "acc-3"]
        assert len(running.backend.seen) == asked


async def test_a_limit_of_another_kind_is_the_clients_to_know(start: Start) -> None:
    running = await start("acc-1", "acc-2")
    for account in ("acc-1", "acc-2"):
        body = {"error": {"type": "rate_limit_exceeded", "message": "slow down"}}
        running.backend.says[account] = ("429 Too Many Requests", body)
    events = await running.chat()
    assert (events[-1].error.http_status, events[-1].error.message) == (429, "slow down")
    assert len(running.backend.seen) == 1
    assert not any(status.cooling_until for status in running.provider.status().accounts)


LIMIT_WITHIN = b'data: {"error": {"code": "usage_limit_reached", "message": "The usage limit has been reached"}}\n\n'


async def test_a_limit_that_comes_within_an_answer_counts_for_the_next_request(start: Start) -> None:
    running = await start("acc-1", "acc-2")
    running.backend.frames = [ANSWER[0], LIMIT_WITHIN]
    events = await running.chat()
    assert text_of(events)
    assert events[-1].HasField("error")
    running.backend.frames = list(ANSWER)
    for _ in range(4):
        assert text_of(await running.chat()) == "hello"
    first, *others = running.backend.accounts()
    assert first not in others


async def test_a_limit_in_place_of_an_answers_content_is_seen_by_no_client(start: Start) -> None:
    running = await start("acc-1", "acc-2", "acc-3")
    running.backend.within = {"acc-1": [chunk(), LIMIT_WITHIN], "acc-3": [LIMIT_WITHIN]}
    for _ in range(6):
        assert text_of(await running.chat()) == "hello"
    asked = Counter(running.backend.accounts())
    assert (asked["acc-1"] <= 1, asked["acc-2"], asked["acc-3"] <= 1) == (True, 6, True)
    running.backend.within["acc-2"] = [LIMIT_WITHIN]
    [*_, last] = await running.chat()
    assert (last.error.code, last.error.upstream_code) == (QUOTA_EXCEEDED, "usage_limit_reached")
    assert len(running.backend.accounts()) <= 9


async def test_a_refused_token_is_renewed_and_the_client_sees_nothing(start: Start, issuer: Issuer) -> None:
    running = await start("acc-1")
    running.backend.refused = {f"Bearer {running.logins['acc-1'].access_token}"}
    assert text_of(await running.chat()) == "hello"
    tokens = [token for _, token, _ in running.backend.seen]
    assert len(tokens) == len(set(tokens)) == 2
    assert [one.reason for one in issuer.spent] == ["unauthorized_recovery"]


async def test_where_a_sign_in_has_ended_another_account_answers(start: Start, issuer: Issuer) -> None:
    running = await start("acc-1", "acc-2")
    login = running.logins["acc-1"]
    issuer.end(login)
    running.backend.refused = {f"Bearer {login.access_token}"}
    for _ in range(4):
        assert text_of(await running.chat()) == "hello"
    assert running.backend.accounts().count("acc-1") == 1
    status = running.provider.status()
    assert (status.signed_in, status.detail) == (
        True,
        "1 of 2 accounts cannot be used: sign in with `patchbay auth login codex`",
    )
    # And where it was the only one, that is said.
    issuer.end(running.logins["acc-2"])
    running.backend.refused.add(f"Bearer {running.logins['acc-2'].access_token}")
    for _ in range(2):
        [event] = await running.chat()
        assert (event.error.code, event.error.http_status) == (AUTHENTICATION, 401)
        assert "patchbay auth login codex" in event.error.message
    assert not running.provider.status().signed_in


async def test_a_token_that_is_refused_all_the_time_is_the_clients_to_know(start: Start, issuer: Issuer) -> None:
    running = await start("acc-1")
    running.backend.says["acc-1"] = ("401 Unauthorized", {"detail": "Unauthorized"})
    events = await running.chat()
    assert events[-1].error.http_status == 401
    assert len(running.backend.seen) == 2
    assert issuer.granted == 1
    for _ in range(6):
        await running.chat()
    assert issuer.granted == 4


async def test_what_one_accounts_tokens_are_refused_for_another_one_does(start: Start) -> None:
    """As of a workspace that was closed, whose tokens are renewed all the same."""
    running = await start("acc-1", "acc-2")
    running.backend.says["acc-1"] = ("401 Unauthorized", {"detail": "Unauthorized"})
    for number in range(6):
        assert text_of(await running.chat(f"s{number}")) == "hello"
    # A conversation stays where it was answered.
    before = running.backend.accounts().count("acc-1")
    for number in range(6):
        await running.chat(f"s{number}")
    assert running.backend.accounts().count("acc-1") == before
    # With the other one at its limit, that is what to wait for.
    running.backend.says["acc-2"] = ("429 Too Many Requests", USED_UP)
    events = await running.chat()
    assert events[-1].error.http_status == 429


async def test_an_issuer_in_trouble_is_no_end_of_a_sign_in(start: Start, issuer: Issuer) -> None:
    running = await start("acc-1", "acc-2")
    running.backend.says["acc-1"] = ("401 Unauthorized", {"detail": "Unauthorized"})
    issuer.answers = [(500, "down")] * 9
    for _ in range(4):
        assert text_of(await running.chat()) == "hello"
    running.backend.says["acc-2"] = running.backend.says["acc-1"]
    events = await running.chat()
    assert (events[-1].error.code, events[-1].error.http_status) == (UNAVAILABLE, 503)
    assert all(status.signed_in for status in running.provider.status().accounts)


@pytest.mark.parametrize(
    "said",
    [
        {"resets_at": 1e300},
        {"resets_at": "soon", "resets_in_seconds": None},
        {"resets_in_seconds": -1e300},
        {"code": 7, "message": {"x": 1}},
        {"resets_in_seconds": 10**400},
    ],
)
async def test_a_limit_is_one_whatever_it_says_of_its_end(said: dict[str, object], start: Start) -> None:
    running = await start("acc-1", "acc-2")
    running.backend.says["acc-1"] = ("429 Too Many Requests", {"error": {"type": "usage_limit_reached", **said}})
    for _ in range(4):
        assert text_of(await running.chat()) == "hello"
    status = next(one for one in running.provider.status().accounts if one.name == "1")
    assert time.time() < status.cooling_until < time.time() + 310


async def test_how_long_a_limit_lasts_does_not_depend_on_this_clock(start: Start) -> None:
    running = await start("acc-1", "acc-2")
    error = {**USED_UP["error"], "resets_at": time.time() - 3_600, "resets_in_seconds": 500}
    running.backend.says["acc-1"] = ("429 Too Many Requests", {"error": error})
    for _ in range(4):
        assert text_of(await running.chat()) == "hello"
    status = next(one for one in running.provider.status().accounts if one.name == "1")
    assert abs(status.cooling_until - time.time() - 500) <= 2


# -- where an account's requests go ------------------------------------------------------------------------------------


def override_of(visit: Visit) -> str | None:
    return visit.header("x-openai-account-routing-override")


async def asked_with(running: Running, override: str | None) -> Visit:
    """A request, once its account's routing is known."""

    async def is_so() -> bool:
        await running.chat(**{"x-openai-account-routing-override": "mine"})
        return override_of(running.served.visits[-1]) == override

    await eventually(is_so, what=f"requests with {override}")
    return running.served.visits[-1]


@pytest.mark.parametrize("override", ["us", "us_cr"])
@pytest.mark.parametrize("origin", [None, "own"])
async def test_an_account_of_one_region_says_so_with_each_request(
    override: str, origin: str | None, start: Start
) -> None:
    running = await start("acc-1", checks={"account_routing_override": override})
    if origin is not None:
        running.backend.checks["acc-1"]["workspace_backend_origin"] = running.served.url
    visit = await asked_with(running, override)
    assert visit.head.startswith(b"POST /codex/responses ")


@pytest.mark.parametrize(
    "check",
    [
        None,
        {"account_routing_override": "NO_CONSTRAINT", "workspace_backend_origin": "https://chatgpt.example"},
        {"account_routing_override": "mars", "workspace_backend_origin": "https://chatgpt.example"},
        {"account_routing_override": ["us"], "workspace_backend_origin": 7},
    ],
)
async def test_any_other_account_is_asked_as_ever(check: dict[str, object] | None, start: Start) -> None:
    running = await start("acc-1", checks=check)
    await eventually(lambda: any(b"/wham/accounts/check" in visit.head for visit in running.served.visits))
    assert text_of(await running.chat()) == "hello"
    assert override_of(running.served.visits[-1]) is None


async def test_an_accounts_requests_go_to_the_origin_of_its_workspace(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to be https, for which there is no certificate here: what is asked for it stands in for it."""
    origins: list[str] = []
    real = HttpUpstream.at
    async with upstream(Backend()) as elsewhere:

        def at(self: HttpUpstream, origin: str) -> HttpUpstream:
            origins.append(origin)
            return real(self, elsewhere.url)

        monkeypatch.setattr(HttpUpstream, "at", at)
        said = {"account_routing_override": "us", "workspace_backend_origin": "https://US.chatgpt.example/"}
        running = await start("acc-1", checks=said)

        async def it_is_there() -> bool:
            assert text_of(await running.chat()) == "hello"
            return bool(elsewhere.visits)

        await eventually(it_is_there)
        assert text_of(await running.chat()) == "hello"
        [*_, visit] = elsewhere.visits
        assert visit.head.startswith(b"POST /codex/responses ")
        assert (override_of(visit), visit.header("chatgpt-account-id")) == ("us", "acc-1")
        assert origins == ["https://us.chatgpt.example:443"]


async def test_a_token_goes_to_no_other_kind_of_place(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """See also `test_codex_routing.py`. It is said once, not each time that the provider is asked."""
    said = {"account_routing_override": "us", "workspace_backend_origin": "https://name:secret@us.chatgpt.example"}
    monkeypatch.setattr("patchbay_codex_worker.accounts.pool._ASK_SECONDS", 0.0)
    running = await start("acc-1", checks=said)
    await asked_with(running, "us")

    def times_asked() -> int:
        return sum(b"/wham/accounts/check" in visit.head for visit in running.served.visits)

    await eventually(lambda: times_asked() > 1)
    assert text_of(await running.chat()) == "hello"
    logged = capsys.readouterr().out
    assert logged.count("codex_origin_refused") == 1
    assert "secret" not in logged


def native(*items: object) -> bytes:
    return json.dumps({"model": "m", "input": list(items), "stream": True}).encode()


async def test_after_a_change_of_accounts_a_request_is_sent_again_without_its_reasoning(start: Start) -> None:
    running = await start("acc-1", "acc-2")
    running.backend.unreadable = b"gAAAA"
    body = native({"type": "message"}, {"type": "reasoning", "encrypted_content": "gAAAA"}, {"type": "message"})
    async with running.upstream.request("POST", "/codex/responses", headers={}, body=body) as response:
        assert response.status == 200
        assert b"hello" in await read_all(response, 10_000)
    first, second = running.backend.seen
    assert first[0] == second[0]
    assert json.loads(second[2]) == json.loads(native({"type": "message"}, {"type": "message"}))
    # What is in the text is no reasoning, and is not dropped.
    body = native({"type": "message", "content": "gAAAA"}, {"type": "reasoning", "encrypted_content": "gAAAA"})
    async with running.upstream.request("POST", "/codex/responses", headers={}, body=body) as response:
        assert (response.status, b"cannot be verified" in await read_all(response, 10_000)) == (400, True)
    assert len(running.backend.seen) == 4


async def test_a_request_without_reasoning_to_drop_is_not_sent_twice(start: Start) -> None:
    running = await start("acc-1")
    body = {"error": {"code": "invalid_encrypted_content", "message": "cannot be verified"}}
    running.backend.says["acc-1"] = ("400 Bad Request", body)
    events = await running.chat()
    assert (events[-1].error.code, events[-1].error.message) == (INVALID_REQUEST, "cannot be verified")
    assert len(running.backend.seen) == 1


async def test_what_the_answers_headers_say_is_known(start: Start) -> None:
    running = await start("acc-1")
    running.backend.headers = ("x-codex-primary-used-percent: 37.5", "x-codex-primary-window-minutes: 300")
    events = await running.chat()
    # The client's own CLI reads them, too.
    assert events[0].head.headers["x-codex-primary-used-percent"] == "37.5"
    [status] = running.provider.status().accounts
    assert [(window.name, window.used_percent, window.minutes) for window in status.windows] == [("primary", 37.5, 300)]


async def test_instructions_begin_with_the_operators(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "instructions.md"
    put(file, "Answer in verse.\n")
    running = await start("acc-1", inject_instructions=str(file))
    await running.chat()
    assert json.loads(running.backend.seen[0][2])["instructions"] == "Answer in verse."
    with pytest.raises(SettingsError, match=r"backends\.codex\.inject_instructions: .*none\.md cannot be read"):
        await start("acc-1", inject_instructions=str(tmp_path / "none.md"))


def put(path: Path, text: str) -> None:
    path.write_text(text)
