"""The Responses API in WebSocket mode."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from patchbay_standin import Account, ErrorReply, Script, Text, Thinking, ToolCall, write_script
from patchbay_standin.testing import StandinProcess

KEY = {"authorization": "Bearer made-up"}
CREATE: Any = {"type": "response.create", "model": "m"}


@contextlib.contextmanager
def connected(
    standin: StandinProcess, headers: dict[str, str] | None = None, path: str = "/v1/responses"
) -> Iterator[ClientConnection]:
    url = f"ws{standin.url.removeprefix('http')}{path}"
    with connect(url, additional_headers=KEY if headers is None else headers, close_timeout=1) as connection:
        yield connection


def ask(connection: ClientConnection, **fields: Any) -> list[Any]:
    """The frames that answer one: up to the last of a response, or an error."""
    connection.send(json.dumps({**CREATE, **fields}))
    frames: list[Any] = []
    while not frames or frames[-1]["type"] not in (
        "response.completed",
        "response.failed",
        "response.incomplete",
        "error",
    ):
        frames.append(json.loads(connection.recv(timeout=5)))
    return frames


def text_of(frames: list[Any]) -> str:
    return "".join(frame["delta"] for frame in frames if frame["type"] == "response.output_text.delta")


def test_the_frames_are_the_events_of_the_stream(standin: StandinProcess, call: Any) -> None:
    model = standin.script("scripted", Script(blocks=[Thinking(text="Hm."), Text(text="a b"), ToolCall(name="f")]))
    body = {"model": model, "input": "x", "reasoning": {"summary": "auto"}}
    events = [event for _, event in call("POST", "/v1/responses", {**body, "stream": True}, KEY).events]
    with connected(standin) as connection:
        frames = ask(connection, **body)
    assert [frame["type"] for frame in frames] == [event["type"] for event in events]
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert frames[-1]["response"]["output"][1]["content"] == events[-1]["response"]["output"][1]["content"]


def test_the_sdk_goes_on_over_one_connection(openai_client: openai.OpenAI) -> None:
    with openai_client.responses.connect() as connection:
        connection.response.create(model="gpt-x", input="one", store=False)
        first = next(event.response for event in connection if event.type == "response.completed")
        assert first.output_text.endswith("Your last message was: one")
        connection.response.create(model="gpt-x", input="two", previous_response_id=first.id)
        second = next(event.response for event in connection if event.type == "response.completed")
        assert second.output_text.endswith("Your last message was: two")


def test_only_the_last_unstored_response_is_remembered(standin: StandinProcess) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    with connected(standin) as connection:
        first = ask(connection, input='use tool f {"a": 1}', tools=[tool], store=False)[-1]["response"]
        output = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "done"}
        second = ask(connection, input=[output], previous_response_id=first["id"], store=False)
        assert text_of(second) == "The tool answered: done"
        error = ask(connection, input="x", previous_response_id=first["id"])[-1]
        assert (error["type"], error["status"], error["error"]["code"]) == ("error", 400, "previous_response_not_found")
        # The connection goes on, and so does the conversation.
        identity = second[-1]["response"]["id"]
        assert ask(connection, input="x", previous_response_id=identity)[-1]["type"] == "response.completed"
    with connected(standin) as connection:
        assert ask(connection, input="x", previous_response_id=identity)[-1]["type"] == "error"


def test_a_stored_response_is_known_to_other_connections(standin: StandinProcess, call: Any) -> None:
    with connected(standin) as connection:
        identity = ask(connection, input="x")[-1]["response"]["id"]
    assert call("GET", f"/v1/responses/{identity}", None, KEY).status == 200
    with connected(standin) as connection:
        assert ask(connection, input="x", previous_response_id=identity)[-1]["type"] == "response.completed"


def test_a_warm_up_says_nothing_and_is_gone_on_from(standin: StandinProcess) -> None:
    model = standin.script("scripted", Script(attempts=[Script(text="first"), Script(text="second")]))
    with connected(standin) as connection:
        warm = ask(connection, model=model, input=[{"role": "developer", "content": "d"}], generate=False, store=False)
        assert [frame["type"] for frame in warm] == ["response.created", "response.in_progress", "response.completed"]
        identity = warm[-1]["response"]["id"]
        # The turn, not the warm-up, gets the first attempt.
        assert text_of(ask(connection, model=model, input="x", previous_response_id=identity)) == "first"
        assert ask(connection, input=[], generate=False)[-1]["type"] == "response.completed"


def test_one_response_at_a_time(standin: StandinProcess) -> None:
    with connected(standin) as connection:
        connection.send(json.dumps({**CREATE, "model": "standin-silence", "input": "x"}))
        standin.wait_for(lambda standin: [request for request in standin.requests() if request.deltas == 3])
        connection.send(json.dumps({**CREATE, "input": "y"}))
        frames = [json.loads(connection.recv(timeout=5)) for _ in range(8)]
    assert frames[-1]["error"]["message"] == "A response is already in progress on this connection."
    # Closing the connection ended the silent one.
    standin.wait_for(lambda standin: standin.stats().active == 0)
    assert [request.outcome for request in standin.requests()] == ["completed", "aborted"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("{", "The frame is no JSON object"),
        ("[]", "The frame is no JSON object"),
        ('{"type": "response.cancel"}', "Unknown frame type: 'response.cancel'"),
        (b"\0", "Binary frames are not supported."),
        ('{"type": "response.create"}', "Missing required parameter: 'model'."),
        ('{"type": "response.create", "model": "standin-error-503", "input": "x"}', "The service is unavailable"),
    ],
)
def test_errors_are_frames_with_a_status(frame: str | bytes, message: str, standin: StandinProcess) -> None:
    with connected(standin) as connection:
        connection.send(frame)
        error = json.loads(connection.recv(timeout=5))
        assert (error["type"], error["error"]["message"][: len(message)]) == ("error", message)
        assert error["status"] == (503 if "503" in str(frame) else 400)
        if error["status"] == 503:
            assert error["headers"]["retry-after"] == "1"
        assert ask(connection, input="x")[-1]["type"] == "response.completed"


def test_a_page_in_place_of_an_error(standin: StandinProcess) -> None:
    reply = ErrorReply(status=502, raw_body="<html>", headers={"content-type": "text/html"})
    with connected(standin) as connection:
        (error,) = ask(connection, model=standin.script("scripted", Script(error=reply)), input="x")
    assert (error["status"], error["error"]["message"]) == (502, "<html>")


def test_a_cut_and_a_failure(standin: StandinProcess) -> None:
    with connected(standin) as connection:
        assert ask(connection, model="standin-error-in-stream", input="x")[-1]["type"] == "response.failed"
        connection.send(json.dumps({**CREATE, "model": "standin-cut", "input": "x"}))
        # Two that open the response, two that open the item, and the deltas; half a frame is none.
        frames = [json.loads(connection.recv(timeout=5)) for _ in range(9)]
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=5)
    assert [frame["type"] for frame in frames].count("response.output_text.delta") == 5
    assert standin.wait_for(lambda standin: standin.requests()[-1].outcome) == "cut"


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/v1/responses", 401),
        ({}, "/backend-api/codex/responses", 401),
        (KEY, "/v1/nothing", 404),
        (
            {**KEY, "x-standin-script": write_script(Script(upgrade=ErrorReply(status=426))).decode()},
            "/v1/responses",
            426,
        ),
        ({**KEY, "x-standin-script": "{"}, "/v1/responses", 400),
    ],
)
def test_an_upgrade_that_is_refused(headers: dict[str, str], path: str, status: int, standin: StandinProcess) -> None:
    with pytest.raises(InvalidStatus) as raised, connected(standin, headers, path):
        raise AssertionError("connected")
    assert raised.value.response.status_code == status
    (request,) = standin.requests()
    assert (request.method, request.status, request.outcome) == ("GET", status, "error")


def test_what_the_records_show(standin: StandinProcess) -> None:
    with connected(standin, {**KEY, "x-mark": "7"}) as connection:
        ask(connection, input="x", client_metadata={"a": "b"})
    upgrade, frame = standin.requests()
    assert (upgrade.method, upgrade.status, upgrade.protocol) == ("GET", 101, "openai-responses")
    assert (frame.method, frame.status, frame.model, frame.headers["x-mark"]) == ("WEBSOCKET", 200, "m", "7")
    assert frame.body == {**CREATE, "input": "x", "client_metadata": {"a": "b"}}


def test_the_chatgpt_backend(standin: StandinProcess) -> None:
    account = standin.account("socket", Account(percent_per_request=60))
    tokens = standin.sign_in("socket")
    headers = {"authorization": f"Bearer {tokens.access_token}", "chatgpt-account-id": account.account_id}
    body: Any = {"model": "gpt-5.5", "instructions": "", "store": False}
    user = [{"role": "user", "content": "x"}]
    with connected(standin, headers, "/backend-api/codex/responses") as connection:
        assert connection.response is not None
        assert connection.response.headers["x-codex-turn-state"]
        warm = ask(connection, **body, input=[], generate=False)
        assert warm[0]["type"] == "codex.rate_limits"
        assert warm[0]["rate_limits"]["primary"]["used_percent"] == 0
        identity = warm[-1]["response"]["id"]
        assert ask(connection, **body, input=user, previous_response_id=identity)[-1]["response"]["output"] == []
        assert ask(connection, **body, input=user)[0]["rate_limits"]["primary"]["used_percent"] == 120
        (limited,) = ask(connection, **body, input=user)
        assert (limited["status"], limited["error"]["type"]) == (429, "usage_limit_reached")
        assert limited["headers"]["x-codex-primary-used-percent"] == "120"
        (refused,) = ask(connection, **{**body, "store": True}, input=user)
        assert (refused["status"], refused["error"]["message"]) == (400, "Store must be set to false")
    standin.forget_accounts()
