"""One stand-in process for the whole run, as it was new for every test."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import anthropic
import openai
import pytest

from patchbay_standin.testing import StandinProcess


class Raw(NamedTuple):
    """An answer as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The server-sent events: name (empty for none) and data, parsed where it is JSON."""
        found = []
        for frame in self.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in frame.splitlines() if line and not line.startswith(":"))
            if fields:
                data = fields.get("data", "")
                found.append((fields.get("event", ""), json.loads(data) if data.startswith("{") else data))
        return found


Call: TypeAlias = Callable[..., Raw]

HEADERS = {
    "anthropic": {"x-api-key": "made-up", "anthropic-version": "2023-06-01"},
    "openai": {"authorization": "Bearer made-up"},
    "responses": {"authorization": "Bearer made-up"},
    "codebuddy": {"authorization": "Bearer ck_id.secret", "x-api-key": "ck_id.secret"},
}
PATHS = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "codebuddy": "/v2/chat/completions",
}


@pytest.fixture(scope="session")
def standin_process() -> Iterator[StandinProcess]:
    with StandinProcess() as standin:
        yield standin


@pytest.fixture
def standin(standin_process: StandinProcess) -> StandinProcess:
    standin_process.wait_for(lambda standin: standin.stats().active == 0)
    standin_process.reset()
    return standin_process


@pytest.fixture
def call(standin: StandinProcess) -> Call:
    """Makes a request by hand: `call("POST", path, body, headers)`."""

    def make(method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Raw:
        connection = http.client.HTTPConnection(standin.url.removeprefix("http://"), timeout=20)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers or {}))
            answer = connection.getresponse()
            return Raw(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    return make


@pytest.fixture
def ask(call: Call) -> Call:
    """Asks a model by hand: `ask(protocol, model, **fields)`."""

    def make(protocol: str, model: str, *, headers: Mapping[str, str] | None = None, **fields: object) -> Raw:
        messages: list[dict[str, str]] = [{"role": "user", "content": "hello"}]
        body: dict[str, object] = {
            "model": model,
            "input" if protocol == "responses" else "messages": messages,
            **fields,
        }
        if protocol == "anthropic":
            body.setdefault("max_tokens", 1000)
        if protocol == "codebuddy":
            body.setdefault("stream", True)
            messages.insert(0, {"role": "system", "content": "Be kind."})
        return call("POST", PATHS[protocol], body, {**HEADERS[protocol], **(headers or {})})

    return make


@pytest.fixture
def anthropic_client(standin: StandinProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=standin.url, api_key="made-up", max_retries=0) as client:
        yield client


@pytest.fixture
def openai_client(standin: StandinProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{standin.url}/v1", api_key="made-up", max_retries=0) as client:
        yield client
