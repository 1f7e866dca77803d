"""Conversations that are compacted: by the provider that has them, or by a summary where it has no such thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from patchbay.canonical import BlockStart, ChatEvent, Finished, ThinkingDelta, ThinkingStart, ToolChoice, Usage
from patchbay.errors import QUOTA_EXCEEDED, make_error
from patchbay.testing.worker import BLOCK, FINISHED, STARTED, ScriptedWorker, Step, answer, failed, native, text
from patchbay_edge.responses.compaction import since_last
from patchbay_proto.v1.provider_pb2 import ChatRequest

StartEdge = Callable[..., AbstractAsyncContextManager]
Json = dict[str, Any]

PATH = "/v1/responses"
TRIGGER = {"type": "compaction_trigger"}
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}
ASKED = {"type": "message", "role": "user", "content": "Where is the key?"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Under the mat."}]}
LONG: Json = {"model": "m", "input": [{"role": "developer", "content": "Be kind."}, ASKED, SAID], "tools": [TOOL]}
PLATFORM = {"p": {"kind": "openai-responses", "base_url": "http://platform.test", "api_key": "made-up"}}
THEIRS = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAopaque"}


def said(request: ChatRequest) -> list[str]:
    assert request.WhichOneof("payload") == "chat"
    return [block.text.text for message in request.chat.messages for block in message.blocks]


def frames(body: str) -> list[Json]:
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]


def summed_up(words: str) -> list[Step]:
    """An answer that thinks before it says so."""
    thought = [
        ChatEvent(block_start=BlockStart(index=1, thinking=ThinkingStart())),
        ChatEvent(thinking_delta=ThinkingDelta(index=1, text="Hm.")),
    ]
    used = ChatEvent(usage=Usage(input_tokens=90, output_tokens=9))
    return [[STARTED, *thought], [BLOCK, text(words[:4])], [text(words[4:]), used, FINISHED]]


def native_answer(*output: Json) -> list[Step]:
    """A whole Response in the upstream's own bytes."""
    usage = {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}
    response = {"id": "resp_up", "object": "response", "status": "completed", "created_at": 7, "output": list(output)}
    body = json.dumps({**response, "usage": usage}).encode()
    finished = ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN))
    return [[native(body[:30])], [native(body[30:]), finished]]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_backend_without_compaction_is_asked_for_a_summary(start_edge: StartEdge, streamed: bool) -> None:
    worker = ScriptedWorker([summed_up("The key is under the mat."), answer("Fine.")])
    async with start_edge(worker) as running:
        body = {**LONG, "input": [*LONG["input"], TRIGGER], "stream": streamed, "tool_choice": "required"}
        body["text"] = {"format": {"type": "json_object"}}
        answered = await running.client.post(PATH, json=body)
        asked = worker.requests[0]
        assert said(asked)[:2] == ["Where is the key?", "Under the mat."]
        assert "summary" in said(asked)[2]
        # The tools stay, as they are part of what the provider has cached.
        assert [tool.function.name for tool in asked.chat.tools] == ["look"]
        assert asked.chat.tool_choice.mode == ToolChoice.MODE_NONE
        assert not asked.chat.HasField("response_format")
        if streamed:
            events = frames(answered.text)
            kinds = [event["type"] for event in events]
            assert kinds[-3:] == ["response.output_item.added", "response.output_item.done", "response.completed"]
            assert not any("delta" in kind for kind in kinds)
            response = events[-1]["response"]
            assert events[-2]["item"] == response["output"][0]
        else:
            response = answered.json()
        (compaction,) = response["output"]
        assert (compaction["type"], compaction["id"][:4]) == ("compaction", "cmp_")
        assert response["usage"]["output_tokens"] == 9
        assert "x-patchbay-warnings" not in answered.headers
        await running.client.post(PATH, json={"model": "m", "input": [ASKED, compaction, ASKED]})
        first, summary, last = said(worker.requests[1])
        assert (first, last) == ("Where is the key?", "Where is the key?")
        assert summary.endswith("The key is under the mat.")


async def test_the_endpoint_answers_what_a_conversation_is_compacted_to(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([summed_up("The key is under the mat.")])
    async with start_edge(worker) as running:
        answered = await running.client.post(f"{PATH}/compact", json={**LONG, "stream": True})
        assert answered.status_code == 200, answered.text
        compacted = answered.json()
        assert answered.headers["content-type"] == "application/json"
        assert compacted.keys() == {"id", "object", "created_at", "output", "usage"}
        assert (compacted["object"], compacted["usage"]["input_tokens"]) == ("response.compaction", 90)
        message, compaction = compacted["output"]
        content = [{"type": "input_text", "text": "Where is the key?"}]
        assert {**message, "id": ""} == {**ASKED, "content": content, "status": "completed", "id": ""}
        assert message["id"].startswith("msg_")
        assert compaction["type"] == "compaction"
        assert (await running.client.get(f"{PATH}/{compacted['id']}")).status_code == 404


async def test_a_fallback_that_writes_reasoning_otherwise_compacts_as_well(start_edge: StartEdge) -> None:
    away = ScriptedWorker([[failed(make_error(QUOTA_EXCEEDED, "used up"))]], backends=[("one", "")])
    worker = ScriptedWorker([summed_up("The key is under the mat.")], backends=[("two", "")])
    one = {"kind": "openai-compatible", "base_url": "http://one.test"}
    backends = {"one": one, "two": {**one, "reasoning_format": "xml"}}
    routes = [{"backend": "one", "fallbacks": ["two"]}]
    async with start_edge(away, worker, backends=backends, routes=routes) as running:
        answered = await running.client.post(f"{PATH}/compact", json=LONG)
        assert answered.json()["object"] == "response.compaction"


@pytest.mark.parametrize("path", ["/v1/responses/compact", "/codex/responses/compact"])
async def test_a_backend_that_compacts_is_asked_to(start_edge: StartEdge, path: str) -> None:
    worker = ScriptedWorker([native_answer(THEIRS)], backends=[("p", "openai_responses")])
    async with start_edge(worker, backends=PLATFORM) as running:
        answered = await running.client.post(path, json=LONG)
        assert answered.status_code == 200, answered.text
        sent = json.loads(worker.requests[0].native.body)
        assert sent == {**LONG, "input": [*LONG["input"], TRIGGER], "stream": False, "store": False}
        compacted = answered.json()
        assert (compacted["id"], compacted["created_at"], compacted["usage"]["total_tokens"]) == ("resp_up", 7, 6)
        assert compacted["output"][1:] == [THEIRS]
        # What it has compacted goes back to it as it is.
        await running.client.post(PATH, json={"model": "m", "input": [THEIRS, ASKED]})
        assert json.loads(worker.requests[1].native.body)["input"] == [THEIRS, ASKED]


async def test_a_summary_goes_on_at_any_backend_and_another_providers_compaction_at_none(
    start_edge: StartEdge,
) -> None:
    worker = ScriptedWorker([summed_up("It is blue."), native_answer(SAID)], backends=[("a", ""), *_NATIVE])
    backends = {**PLATFORM, "a": {"kind": "openai-compatible", "base_url": "http://a.test"}}
    async with start_edge(worker, backends=backends) as running:
        compacted = await running.client.post(f"{PATH}/compact", json={**LONG, "model": "a/m"})
        summary = compacted.json()["output"][-1]
        await running.client.post(PATH, json={"model": "p/m", "input": [summary, ASKED], "stream": True})
        opened, asked = json.loads(worker.requests[1].native.body)["input"]
        assert opened["content"][0]["text"].endswith("It is blue.")
        assert (opened["type"], opened["role"], asked) == ("message", "user", ASKED)

        refused = await running.client.post(PATH, json={"model": "a/m", "input": [ASKED, THEIRS]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[1]")
        damaged = {**summary, "encrypted_content": summary["encrypted_content"][:-3] + "%"}
        refused = await running.client.post(PATH, json={"model": "a/m", "input": [damaged]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
        assert len(worker.requests) == 2


_NATIVE = [("p", "openai_responses")]


async def test_a_stored_conversation_goes_on_from_its_compaction(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Under the mat."), summed_up("A key."), answer("Yes.")])
    async with start_edge(worker) as running:
        first = (await running.client.post(PATH, json={"model": "m", "input": LONG["input"][:2]})).json()
        body = {"model": "m", "input": [TRIGGER], "previous_response_id": first["id"]}
        second = (await running.client.post(PATH, json=body)).json()
        body = {"model": "m", "input": "Really?", "previous_response_id": second["id"]}
        third = await running.client.post(PATH, json=body)
        assert third.json()["output"][0]["content"][0]["text"] == "Yes."
        summary, last = said(worker.requests[2])
        assert summary.endswith("A key.")
        assert last == "Really?"
        assert [block.text.text for block in worker.requests[2].chat.system] == ["Be kind."]


async def test_a_session_that_is_compacted_does_not_outgrow_what_is_kept(start_edge: StartEdge) -> None:
    path = "/codex/long/responses"
    worker = ScriptedWorker([*[answer("Fine."), summed_up("Many words.")] * 4, answer("Bye.")])
    async with start_edge(worker, sessions={"max_bytes": 9000}) as running:
        for items in ["words " * 700, [TRIGGER]] * 4:
            assert (await running.client.post(path, json={"model": "m", "input": items})).status_code == 200
        end = await running.client.post(path, json={"model": "m", "input": "Bye!"})
        assert end.status_code == 200, end.text
        summary, last = said(worker.requests[-1])
        assert (summary.endswith("Many words."), last) == (True, "Bye!")
        own = (await running.client.get(f"{PATH}/{end.json()['id']}/input_items")).json()["data"]
        assert [item["content"] for item in own] == ["Bye!"]


async def test_without_a_summary_there_is_no_compaction(start_edge: StartEdge) -> None:
    silent: list[Step] = [[STARTED, BLOCK, text(" \n")], [FINISHED]]
    async with start_edge(ScriptedWorker([silent])) as running:
        refused = await running.client.post(f"{PATH}/compact", json=LONG)
        assert (refused.status_code, "no summary" in refused.json()["error"]["message"]) == (502, True)
        body = {**LONG, "input": [*LONG["input"], TRIGGER], "stream": True}
        streamed = frames((await running.client.post(PATH, json=body)).text)
        assert streamed[-1]["type"] == "response.failed"


@pytest.mark.parametrize("script", [native_answer(SAID), [[native(b"{"), FINISHED]], [[native(b"[]"), FINISHED]]])
async def test_a_server_that_does_not_compact_is_said_not_to(start_edge: StartEdge, script: list[Step]) -> None:
    worker = ScriptedWorker([script], backends=_NATIVE)
    async with start_edge(worker, backends=PLATFORM) as running:
        refused = await running.client.post(f"{PATH}/compact", json=LONG)
        assert refused.status_code == 502, refused.text
        assert refused.json()["error"]["message"]


def test_what_was_said_before_a_compaction_is_not_said_again() -> None:
    rule, asked, summary, more = (
        json.dumps(item).encode() for item in ({"role": "system", "content": "Rule."}, ASKED, THEIRS, SAID)
    )
    assert since_last([rule, asked, more]) == (rule, asked, more)
    assert since_last([asked, rule, summary, asked, summary, more, b'"compaction"']) == (
        *(rule, summary),
        *(more, b'"compaction"'),
    )
