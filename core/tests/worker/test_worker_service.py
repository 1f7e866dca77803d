from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from patchbay.canonical import ChatEvent, ChatEvents, Error, Finished, Native, TextDelta
from patchbay.errors import AUTHENTICATION, INTERNAL, INVALID_REQUEST, PatchbayError, make_error
from patchbay.testing.eventually import eventually, settled, stays
from patchbay.worker.service import Provider, ProviderService, SignIn
from patchbay_proto.v1 import provider_pb2_grpc
from patchbay_proto.v1.provider_pb2 import (
    BackendStatus,
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    Credential,
    ListModelsRequest,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    Model,
    StatusRequest,
)

SECRET = "sk-never-in-a-log"


def text(words: str) -> ChatEvent:
    return ChatEvent(text_delta=TextDelta(text=words))


FINISHED = ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN))


@dataclass
class Scripted:
    """A backend that answers as the model of the request says."""

    name: str = "a"
    max_concurrency: int | None = None
    sign_in: SignIn | None = None
    requests: list[ChatRequest] = field(default_factory=list)
    running: int = 0
    sent: int = 0
    # Lets the answers of the model `gated` end.
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        return None

    def status(self) -> BackendStatus:
        return BackendStatus(name=self.name, kind="openai", dialect="openai_chat", signed_in=True)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[list[ChatEvent], None]:
        self.requests.append(request)
        self.running += 1
        try:
            yield [text("hello")]
            match request.model:
                case "gated":
                    await self.gate.wait()
                case "forever":
                    await asyncio.Event().wait()
                case "crash":
                    raise ValueError("a defect")
                case "endless":
                    while True:
                        self.sent += 65536
                        yield [ChatEvent(native=Native(data=b"x" * 65536))]
                        await asyncio.sleep(0)
            yield [FINISHED]
        finally:
            self.running -= 1

    async def count_tokens(self, request: CountTokensRequest) -> CountTokensResponse:
        if request.model == "crash":
            raise ValueError("a defect")
        return CountTokensResponse(input_tokens=7)

    async def list_models(self, caller: Credential | None) -> list[Model]:
        if caller is not None and caller.secret == "bad":
            raise PatchbayError(make_error(AUTHENTICATION, "no such key"))
        if caller is not None and caller.secret == "crash":
            raise ValueError("a defect")
        return [Model(id=f"model-of-{self.name}", backend=self.name)]

    async def aclose(self) -> None:
        return


@dataclass
class Account:
    """A sign-in that takes one code."""

    signed_in: bool = False

    async def begin(self, *, device: bool = False, account: str = "") -> LoginResponse:
        page = f"https://provider.test/page{account}"
        return LoginResponse(login_id="l1", url=page, signed_in=self.signed_in, user_code="ABCD" if device else "")

    async def finish(self, login_id: str, code: str) -> LoginResponse:
        if (login_id, code) != ("l1", "right"):
            raise PatchbayError(make_error(AUTHENTICATION, "the code is wrong"))
        self.signed_in = True
        return LoginResponse(signed_in=True, detail="welcome")

    async def take(self, sign_in: bytes, *, account: str = "") -> LoginResponse:
        self.signed_in = True
        return LoginResponse(signed_in=True, detail=f"took {len(sign_in)} bytes for {account}")

    async def forget(self, account: str = "") -> LogoutResponse:
        if not self.signed_in:
            raise PatchbayError(make_error(INVALID_REQUEST, "nobody is signed in"))
        self.signed_in = False
        return LogoutResponse(detail="good-bye")


@dataclass
class Running:
    service: ProviderService
    stub: provider_pb2_grpc.ProviderAsyncStub


@asynccontextmanager
async def serving(*providers: Provider, capacity: int = 10) -> AsyncIterator[Running]:
    service = ProviderService(
        worker_id="w1", version="1.2.3", providers=providers, capacity=capacity, window_seconds=0.005
    )
    server = grpc.aio.server()
    provider_pb2_grpc.add_ProviderServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Running(service, provider_pb2_grpc.ProviderStub(channel))
    await server.stop(None)


async def events_of(stream: AsyncIterator[ChatEvents]) -> list[ChatEvent]:
    return [event async for window in stream for event in window.events]


async def refusal(stream: AsyncIterator[ChatEvents]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(stream)
    return caught.value


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_answers_a_chat() -> None:
    before = metric("patchbay_worker_chats_total", backend="a", outcome="finished")
    provider = Scripted()
    async with serving(provider) as running:
        request = ChatRequest(backend="a", model="m", request_id="r1")
        assert await events_of(running.stub.Chat(request)) == [text("hello"), FINISHED]
        assert provider.requests == [request]
        await eventually(lambda: running.service.in_flight == 0)
    assert metric("patchbay_worker_chats_total", backend="a", outcome="finished") == before + 1
    assert metric("patchbay_worker_in_flight") == 0


async def test_an_unknown_backend_is_for_another_replica() -> None:
    async with serving(Scripted()) as running:
        for refused in (
            await refusal(running.stub.Chat(ChatRequest(backend="b"))),
            (await asyncio.gather(running.stub.CountTokens(CountTokensRequest(backend="b")), return_exceptions=True))[
                0
            ],
            (await asyncio.gather(running.stub.ListModels(ListModelsRequest(backend="b")), return_exceptions=True))[0],
        ):
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.details() == "this worker does not serve the backend `b`"


@pytest.mark.parametrize("limited_by", ["capacity", "max_concurrency"])
async def test_no_more_than_its_limit_at_once(limited_by: str) -> None:
    provider = Scripted(max_concurrency=2 if limited_by == "max_concurrency" else None)
    other = Scripted("b")
    async with serving(provider, other, capacity=2 if limited_by == "capacity" else 10) as running:
        held = [running.stub.Chat(ChatRequest(backend="a", model="gated")) for _ in range(2)]
        for call in held:
            await call.read()
        refused = await refusal(running.stub.Chat(ChatRequest(backend="a")))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("retry-after", "1") in tuple(refused.trailing_metadata())
        elsewhere = running.stub.Chat(ChatRequest(backend="b"))
        if limited_by == "capacity":
            assert (await refusal(elsewhere)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        else:
            assert await events_of(elsewhere) == [text("hello"), FINISHED]
        provider.gate.set()
        for call in held:
            while await call.read() is not grpc.aio.EOF:
                continue
        await eventually(lambda: running.service.in_flight == 0)
        assert await events_of(running.stub.Chat(ChatRequest(backend="a"))) == [text("hello"), FINISHED]


@pytest.mark.parametrize("model", ["forever", "endless"])
async def test_a_cancelled_call_closes_the_upstream_at_once(model: str) -> None:
    provider = Scripted()
    async with serving(provider) as running:
        call = running.stub.Chat(ChatRequest(backend="a", model=model))
        await call.read()
        assert provider.running == 1
        before = metric("patchbay_worker_chats_total", backend="a", outcome="cancelled")
        call.cancel()
        await eventually(lambda: provider.running == 0, seconds=1)
        await eventually(lambda: running.service.in_flight == 0)
        assert metric("patchbay_worker_chats_total", backend="a", outcome="cancelled") == before + 1
        with capture_logs() as lines:
            await stays(lambda: not lines, seconds=0.05)


async def test_the_deadline_closes_the_upstream() -> None:
    provider = Scripted()
    async with serving(provider) as running:
        refused = await refusal(running.stub.Chat(ChatRequest(backend="a", model="forever"), timeout=0.1))
        assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: provider.running == 0, seconds=1)
        await eventually(lambda: running.service.in_flight == 0)


async def test_a_defect_is_an_internal_error_and_a_log_without_secrets() -> None:
    request = ChatRequest(
        backend="a", model="crash", request_id="r9", credential=Credential(secret=SECRET), headers={"x": SECRET}
    )
    async with serving(Scripted()) as running:
        with capture_logs() as lines:
            first, error = await events_of(running.stub.Chat(request))
            await eventually(lambda: running.service.in_flight == 0)
    assert first == text("hello")
    assert error.error.code == INTERNAL
    assert not error.error.retryable
    assert "defect" not in error.error.message
    assert [line["event"] for line in lines] == ["chat_crashed"]
    assert lines[0]["request_id"] == "r9"
    assert SECRET not in json.dumps(lines, default=repr)


async def test_a_defect_in_counting_is_an_internal_error() -> None:
    async with serving(Scripted()) as running:
        with capture_logs() as lines:
            response = await running.stub.CountTokens(CountTokensRequest(backend="a", model="crash"))
    assert response.error.code == INTERNAL
    assert [line["event"] for line in lines] == ["count_tokens_crashed"]


async def test_counts_tokens() -> None:
    async with serving(Scripted()) as running:
        response = await running.stub.CountTokens(CountTokensRequest(backend="a"))
    assert response == CountTokensResponse(input_tokens=7)


@pytest.mark.parametrize(
    ("request_", "models", "failures"),
    [
        (ListModelsRequest(), ["model-of-a", "model-of-b"], {}),
        (ListModelsRequest(backend="b"), ["model-of-b"], {}),
        (
            ListModelsRequest(backend="a", credential=Credential(secret="bad")),
            [],
            {"a": "no such key"},
        ),
        (
            ListModelsRequest(backend="a", credential=Credential(secret="crash")),
            [],
            {"a": "the worker failed; its log has the details"},
        ),
    ],
)
async def test_lists_models(request_: ListModelsRequest, models: list[str], failures: dict[str, str]) -> None:
    async with serving(Scripted("a"), Scripted("b")) as running:
        response = await running.stub.ListModels(request_)
    assert [model.id for model in response.models] == models
    assert dict(response.failures) == failures


async def test_says_how_it_is() -> None:
    async with serving(Scripted(), capacity=3) as running:
        call = running.stub.Chat(ChatRequest(backend="a", model="forever"))
        await call.read()
        status = await running.stub.Status(StatusRequest())
        assert (status.worker_id, status.version, status.capacity) == ("w1", "1.2.3", 3)
        assert (status.in_flight, status.draining) == (1, False)
        assert [backend.name for backend in status.backends] == ["a"]


# -- signing in -------------------------------------------------------------------------------------------------------


async def test_signs_in_and_out() -> None:
    account = Account()
    async with serving(Scripted(sign_in=account)) as running:
        begun = await running.stub.Login(LoginRequest(backend="a"))
        assert begun == LoginResponse(login_id="l1", url="https://provider.test/page")
        ended = await running.stub.Login(LoginRequest(backend="a", login_id=begun.login_id, code="right"))
        assert ended == LoginResponse(signed_in=True, detail="welcome")
        assert account.signed_in
        assert await running.stub.Logout(LogoutRequest(backend="a")) == LogoutResponse(detail="good-bye")
        assert not account.signed_in


async def test_signs_in_without_a_browser_here() -> None:
    async with serving(Scripted(sign_in=Account())) as running:
        begun = await running.stub.Login(LoginRequest(backend="a", device=True, account="b"))
        assert (begun.user_code, begun.url) == ("ABCD", "https://provider.test/pageb")
        taken = await running.stub.Login(LoginRequest(backend="a", sign_in=b"{}", account="b"))
        assert (taken.signed_in, taken.detail) == (True, "took 2 bytes for b")


async def test_a_failed_sign_in_is_an_answer_and_its_code_in_no_log() -> None:
    async with serving(Scripted(sign_in=Account())) as running:
        with capture_logs() as lines:
            refused = await running.stub.Login(LoginRequest(backend="a", login_id="l1", code=SECRET))
            assert refused == LoginResponse(error=make_error(AUTHENTICATION, "the code is wrong"))
            out = await running.stub.Logout(LogoutRequest(backend="a"))
            assert out == LogoutResponse(error=make_error(INVALID_REQUEST, "nobody is signed in"))
        assert SECRET not in json.dumps(lines, default=repr)


@pytest.mark.parametrize(
    ("backend", "draining", "code", "details"),
    [
        ("a", False, grpc.StatusCode.UNIMPLEMENTED, "the backend `a` has its credential in the configuration"),
        ("b", False, grpc.StatusCode.UNAVAILABLE, "this worker does not serve the backend `b`"),
        ("a", True, grpc.StatusCode.UNAVAILABLE, "this worker is draining"),
    ],
)
async def test_where_nobody_can_sign_in(backend: str, draining: bool, code: grpc.StatusCode, details: str) -> None:
    async with serving(Scripted()) as running:
        running.service.draining = draining
        for call in (
            running.stub.Login(LoginRequest(backend=backend)),
            running.stub.Login(LoginRequest(backend=backend, login_id="l1", code="c")),
            running.stub.Logout(LogoutRequest(backend=backend)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code
            assert (caught.value.details() or "").startswith(details)


async def test_draining_refuses_new_calls_and_lets_running_ones_end() -> None:
    provider = Scripted()
    async with serving(provider) as running:
        call = running.stub.Chat(ChatRequest(backend="a", model="gated"))
        await call.read()
        draining = asyncio.create_task(running.service.drain(5))
        await eventually(lambda: running.service.draining)
        assert (await refusal(running.stub.Chat(ChatRequest(backend="a")))).code() is grpc.StatusCode.UNAVAILABLE
        assert (await running.stub.Status(StatusRequest())).draining
        assert not draining.done()
        provider.gate.set()
        assert list((await call.read()).events) == [FINISHED]
        assert await draining


async def test_draining_gives_up_after_its_time() -> None:
    async with serving(Scripted()) as running:
        call = running.stub.Chat(ChatRequest(backend="a", model="forever"))
        await call.read()
        assert not await running.service.drain(0.05)


async def test_a_reader_that_stops_stops_the_upstream() -> None:
    provider = Scripted()
    async with serving(provider) as running:
        call = running.stub.Chat(ChatRequest(backend="a", model="endless"))
        await call.read()
        seen = await settled(lambda: provider.sent)
        # Sockets and gRPC's window grow while it is read fast; without them holding it up, it would never settle.
        assert seen < 64 * 1024 * 1024
        # And goes on once somebody reads again.
        for _ in range(20):
            await call.read()
        await eventually(lambda: provider.sent > seen)
        call.cancel()
        await eventually(lambda: provider.running == 0)


async def test_an_error_from_the_upstream_is_an_event() -> None:
    class Failing(Scripted):
        async def chat(self, request: ChatRequest) -> AsyncGenerator[list[ChatEvent], None]:
            yield [ChatEvent(error=Error(message="too much"))]

    before = metric("patchbay_worker_chats_total", backend="a", outcome="error")
    async with serving(Failing()) as running:
        events = await events_of(running.stub.Chat(ChatRequest(backend="a")))
        assert events == [ChatEvent(error=Error(message="too much"))]
        await eventually(lambda: running.service.in_flight == 0)
    assert metric("patchbay_worker_chats_total", backend="a", outcome="error") == before + 1


async def test_hundreds_of_cancelled_calls_leave_nothing() -> None:
    provider = Scripted()
    async with serving(provider, capacity=1000) as running:
        calls = [running.stub.Chat(ChatRequest(backend="a", model="forever")) for _ in range(300)]
        # Some before they have begun, some after.
        for call in calls[::2]:
            await call.read()
        for call in calls:
            call.cancel()
        await eventually(lambda: running.service.in_flight == 0 and provider.running == 0, seconds=10)
        assert metric("patchbay_worker_in_flight") == 0
