"""The Responses API at the edge: answers, stored responses, and turns that go on from others."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from patchbay.canonical import ChatEvent, Finished
from patchbay.testing.valkey import ValkeyProcess
from patchbay.testing.worker import BLOCK, FINISHED, STARTED, ScriptedWorker, Step, answer, native, text
from patchbay_proto.v1.provider_pb2 import ChatRequest, CountTokensResponse, Model

StartEdge = Callable[..., AbstractAsyncContextManager]
Json = dict[str, Any]

PATH = "/v1/responses"
ASK: Json = {"model": "m", "input": "How are you?"}
ASKED_AGAIN: Json = {"role": "user", "content": "And?"}
KEYS = {"require_api_key": True, "api_keys": [{"key": "alice-key", "id": "alice"}, {"key": "bobs-key", "id": "bob"}]}
PLATFORM = {"p": {"kind": "openai-responses", "base_url": "http://platform.test", "api_key": "made-up"}}


def said(request: ChatRequest) -> list[str]:
    """The texts of a chat that a worker got."""
    assert request.WhichOneof("payload") == "chat"
    return [block.text.text for message in request.chat.messages for block in message.blocks]


def frames(body: str) -> list[Json]:
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]


def native_answer(response_id: str, words: str) -> list[Step]:
    """An answer in the upstream's own bytes."""
    item = {"type": "message", "id": f"msg_{response_id}", "role": "assistant", "status": "completed"}
    item["content"] = [{"type": "output_text", "text": words, "annotations": []}]  # type: ignore[assignment]
    response = {"id": response_id, "object": "response", "status": "completed", "output": [item]}
    data = [{"type": "response.output_item.done", "output_index": 0, "item": item}]
    data.append({"type": "response.completed", "response": response})
    body = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in data).encode()
    finished = ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN))
    return [[native(body[:40])], [native(body[40:]), finished]]


async def test_whole_and_streamed_answers(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running:
        whole = await running.client.post(PATH, json={**ASK, "metadata": {"a": "b"}, "instructions": "Be brief."})
        assert (whole.status_code, whole.headers["x-patchbay-backend"]) == (200, "a")
        body = whole.json()
        assert (body["object"], body["status"], body["id"][:5]) == ("response", "completed", "resp_")
        assert body["output"][0]["content"][0]["text"] == "Fine."
        assert (body["metadata"], body["instructions"]) == ({"a": "b"}, "Be brief.")
        streamed = await running.client.post(PATH, json={**ASK, "stream": True}, headers={"accept": "application/json"})
        assert streamed.headers["content-type"].startswith("text/event-stream")
        events = frames(streamed.text)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Fine."


async def test_the_next_turn_has_what_was_said_wherever_it_comes(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very."), answer("Bye.")])
    async with start_edge(worker) as running, running.another() as other:
        first = await running.client.post(PATH, json=ASK)
        second = await other.post(
            PATH, json={"model": "m", "input": "Really?", "previous_response_id": first.json()["id"], "stream": True}
        )
        last = frames(second.text)[-1]["response"]
        assert last["previous_response_id"] == first.json()["id"]
        third = await running.client.post(
            PATH,
            json={"model": "m", "input": [{"role": "user", "content": "Bye!"}], "previous_response_id": last["id"]},
        )
        assert third.status_code == 200
        assert said(worker.requests[1]) == ["How are you?", "Fine.", "Really?"]
        assert said(worker.requests[2]) == ["How are you?", "Fine.", "Really?", "Very.", "Bye!"]
        # A turn may go on from the middle as well.
        await other.post(PATH, json={"model": "m", "input": "No?", "previous_response_id": first.json()["id"]})
        assert said(worker.requests[3]) == ["How are you?", "Fine.", "No?"]


async def test_a_client_that_says_everything_again_is_not_told_twice(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very.")])
    async with start_edge(worker) as running:
        first = (await running.client.post(PATH, json=ASK)).json()
        everything = [{"role": "user", "content": "How are you?"}, *first["output"], {"role": "user", "content": "So?"}]
        await running.client.post(PATH, json={"model": "m", "input": everything, "previous_response_id": first["id"]})
        assert said(worker.requests[1]) == ["How are you?", "Fine.", "So?"]


async def test_an_unknown_response_is_the_providers_own_error(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine.")])
    async with start_edge(worker) as running:
        for stream in (False, True):
            body = {**ASK, "previous_response_id": "resp_gone", "stream": stream}
            response = await running.client.post(PATH, json=body)
            assert response.status_code == 400
            assert response.json()["error"] == {
                "message": "Previous response with id 'resp_gone' not found.",
                "type": "invalid_request_error",
                "param": "previous_response_id",
                "code": "previous_response_not_found",
            }
        assert worker.requests == []


async def test_what_is_not_to_be_stored_is_not(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running:
        for stream in (False, True):
            response = await running.client.post(PATH, json={**ASK, "store": False, "stream": stream})
            found = frames(response.text)[-1]["response"] if stream else response.json()
            assert (await running.client.get(f"{PATH}/{found['id']}")).status_code == 404
        assert [name async for name in running.edge.redis.scan_iter("pb:response:*")] == []


async def test_stored_responses_are_read_and_deleted_by_their_owner_only(start_edge: StartEdge) -> None:
    items = [{"role": "user", "content": str(number), "id": None} for number in range(3)]
    alice, bob = ({"authorization": f"Bearer {name}"} for name in ("alice-key", "bobs-key"))
    async with start_edge(ScriptedWorker([answer("Fine.")]), security=KEYS) as running:
        client: httpx.AsyncClient = running.client
        made = (await client.post(PATH, json={"model": "m", "input": items}, headers=alice)).json()
        at = f"{PATH}/{made['id']}"
        assert (await client.get(at, headers=alice)).json() == made
        listed = (await client.get(f"{at}/input_items", headers=alice)).json()
        assert [item["content"] for item in listed["data"]] == ["2", "1", "0"]
        assert (listed["object"], listed["has_more"], listed["last_id"]) == ("list", False, listed["data"][-1]["id"])
        page = await client.get(f"{at}/input_items", params={"order": "asc", "limit": 1}, headers=alice)
        assert ([item["content"] for item in page.json()["data"]], page.json()["has_more"]) == (["0"], True)
        after = {"order": "asc", "after": page.json()["last_id"]}
        rest = (await client.get(f"{at}/input_items", params=after, headers=alice)).json()
        assert [item["content"] for item in rest["data"]] == ["1", "2"]
        for wrong in ({"order": "up"}, {"limit": "0"}, {"limit": "x"}, {"limit": "9" * 5000}, {"after": "nobody"}):
            refused = await client.get(f"{at}/input_items", params=wrong, headers=alice)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(wrong)))
        for path in (at, f"{at}/input_items"):
            assert (await client.get(path, headers=bob)).status_code == 404
            assert (await client.get(path)).status_code == 401
        assert (await client.delete(at, headers=bob)).status_code == 404
        going_on = {"model": "m", "input": "x", "previous_response_id": made["id"]}
        assert (await client.post(PATH, json=going_on, headers=bob)).status_code == 400
        deleted = await client.delete(at, headers=alice)
        assert deleted.json() == {"id": made["id"], "object": "response", "deleted": True}
        gone = await client.get(at, headers=alice)
        assert (gone.status_code, gone.json()["error"]["param"]) == (404, "response_id")
        assert (await client.delete(at, headers=alice)).status_code == 404


async def test_callers_without_keys_of_ours_share_no_session(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine.")])
    async with start_edge(worker) as running:
        for secret in ("sk-alice", "sk-bob", "sk-alice"):
            headers = {"authorization": f"Bearer {secret}"}
            body = {"model": "m", "input": f"I am {secret}."}
            made = await running.client.post("/codex/one/responses", json=body, headers=headers)
        assert said(worker.requests[1]) == ["I am sk-bob."]
        assert said(worker.requests[2]) == ["I am sk-alice.", "Fine.", "I am sk-alice."]
        at = f"{PATH}/{made.json()['id']}"
        assert (await running.client.get(at, headers={"x-api-key": "sk-alice"})).status_code == 200
        assert (await running.client.get(at, headers={"x-api-key": "sk-bob"})).status_code == 404
        assert (await running.client.get(at)).status_code == 404


@pytest.mark.parametrize("client_stores", [True, False])
async def test_a_session_in_the_path_goes_on_by_itself(start_edge: StartEdge, client_stores: bool) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very."), answer("Bye.")])
    path = "/codex/one/responses"
    async with start_edge(worker) as running, running.another() as other:
        for client, words in ((running.client, "How are you?"), (other, "Really?"), (running.client, "Bye!")):
            body = {"model": "m", "messages": [{"role": "user", "content": words}], "stream": True}
            response = await client.post(path, json=body if client_stores else {**body, "store": False})
            assert frames(response.text)[-1]["type"] == "response.completed"
        assert said(worker.requests[2]) == ["How are you?", "Fine.", "Really?", "Very.", "Bye!"]
        assert {request.session_id for request in worker.requests} == {"one"}
        await running.client.post("/codex/two/responses", json={"model": "m", "input": "Who?"})
        assert said(worker.requests[3]) == ["Who?"]


async def test_a_client_that_shortens_its_session_gets_nothing_back(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very."), answer("Bye.")])
    async with start_edge(worker) as running:
        for asked in (
            "How are you?",
            [{"role": "user", "content": "In short: fine."}, {"role": "assistant", "content": "Ok."}],
            [{"role": "user", "content": "Go on."}],
        ):
            await running.client.post("/codex/one/responses", json={"model": "m", "input": asked})
        assert said(worker.requests[1]) == ["In short: fine.", "Ok."]
        assert said(worker.requests[2]) == ["In short: fine.", "Ok.", "Very.", "Go on."]


async def test_native_bytes_pass_and_are_kept(start_edge: StartEdge) -> None:
    worker = ScriptedWorker(
        [native_answer("resp_up1", "Fine."), native_answer("resp_up2", "Very."), native_answer("resp_up3", "Yes.")],
        backends=[("p", "openai_responses")],
    )
    async with start_edge(worker, backends=PLATFORM) as running:
        first = json.dumps({**ASK, "stream": True}).encode()
        response = await running.client.post(PATH, content=first)
        assert frames(response.text)[-1]["response"]["id"] == "resp_up1"
        assert worker.requests[0].native.body == first
        # The backend that has made a response is told of it, and no other.
        second = {"model": "m", "input": "Really?", "previous_response_id": "resp_up1", "stream": True}
        await running.client.post(PATH, content=json.dumps(second).encode())
        assert worker.requests[1].native.body == json.dumps(second).encode()
        # What we do not know it may know.
        third = json.dumps({**second, "previous_response_id": "resp_theirs"}).encode()
        await running.client.post(PATH, content=third)
        assert worker.requests[2].native.body == third
        stored = await running.client.get(f"{PATH}/resp_up2")
        assert stored.json()["output"][0]["content"][0]["text"] == "Very."


@pytest.mark.parametrize("credentials", ["api_key", "pass_through"])
async def test_no_key_goes_on_from_what_another_one_has_left_at_the_provider(
    start_edge: StartEdge, credentials: str
) -> None:
    worker = ScriptedWorker([native_answer("resp_up1", "Fine.")], backends=[("p", "openai_responses")])
    backends = {"p": {**PLATFORM["p"], "credentials": credentials}}
    if credentials == "pass_through":
        del backends["p"]["api_key"]
    alice, bob = ({"x-patchbay-key": name, "authorization": "Bearer own"} for name in ("alice-key", "bobs-key"))
    async with start_edge(worker, backends=backends, security=KEYS) as running:
        assert (await running.client.post(PATH, json={**ASK, "stream": True}, headers=alice)).status_code == 200
        going_on = {"model": "m", "input": "And?", "previous_response_id": "resp_up1", "stream": True}
        answered = await running.client.post(PATH, json=going_on, headers=bob)
        if credentials == "pass_through":
            # Whose account it is, the provider knows.
            assert json.loads(worker.requests[1].native.body)["previous_response_id"] == "resp_up1"
        else:
            assert answered.json()["error"]["code"] == "previous_response_not_found"
            assert len(worker.requests) == 1
        assert (await running.client.post(PATH, json=going_on, headers=alice)).status_code == 200


async def test_what_codex_says_of_itself_goes_on_and_what_others_say_does_not(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([native_answer("resp_up1", "Fine.")], backends=[("p", "openai_responses")])
    codex = {"originator": "codex_exec", "user-agent": "codex_exec/1", "x-codex-window-id": "w:1", "session-id": "s"}
    async with start_edge(worker, backends=PLATFORM) as running:
        await running.client.post(PATH, json={**ASK, "stream": True}, headers={**codex, "cookie": "a=b"})
        assert dict(worker.requests[0].headers) == codex
        assert worker.requests[0].session_id == "s"
        await running.client.post(PATH, json={**ASK, "stream": True}, headers={"user-agent": "curl", "x-codex-a": "b"})
        assert dict(worker.requests[1].headers) == {}


async def test_a_backend_that_did_not_make_a_response_gets_all_of_it(start_edge: StartEdge) -> None:
    worker = ScriptedWorker(
        [answer("Fine."), native_answer("resp_up2", "Very.")], backends=[("a", ""), ("p", "openai_responses")]
    )
    backends = {**PLATFORM, "a": {"kind": "openai-compatible", "base_url": "http://a.test"}}
    async with start_edge(worker, backends=backends) as running:
        first = (await running.client.post(PATH, json={**ASK, "model": "a/m"})).json()
        body = {"model": "p/m", "input": "Really?", "previous_response_id": first["id"], "stream": True}
        await running.client.post(PATH, json=body)
        sent = json.loads(worker.requests[1].native.body)
        assert sent["previous_response_id"] is None
        assert [item["content"] for item in sent["input"][::2]] == ["How are you?", "Really?"]
        assert sent["input"][1] == first["output"][0]


async def test_a_failed_answer_is_nothing_to_go_on_from(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")]], answer("Fine.")])
    async with start_edge(worker) as running:
        response = await running.client.post("/codex/one/responses", json={**ASK, "stream": True})
        assert frames(response.text)[-1]["type"] == "response.failed"
        await running.client.post("/codex/one/responses", json=ASK)
        assert said(worker.requests[-1]) == ["How are you?"]


async def test_an_answer_cut_off_at_its_limit_is_one_to_go_on_from(start_edge: StartEdge) -> None:
    cut = ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_MAX_TOKENS))
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")], [cut]], answer("Fine.")])
    async with start_edge(worker) as running:
        first = (await running.client.post(PATH, json=ASK)).json()
        assert first["status"] == "incomplete"
        await running.client.post(PATH, json={"model": "m", "input": "Go on.", "previous_response_id": first["id"]})
        assert said(worker.requests[1]) == ["How are you?", "half", "Go on."]


async def test_a_session_that_has_outgrown_what_is_kept_says_so(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("x" * 4000), answer("Yes.")])
    path = "/codex/long/responses"
    async with start_edge(worker, sessions={"max_bytes": 3000}) as running:
        assert (await running.client.post(path, json=ASK)).status_code == 200
        assert (await running.client.post(path, json={"model": "m", "input": "More."})).status_code == 200
        refused = await running.client.post(path, json={"model": "m", "input": "And?"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "sessions.max_bytes" in refused.json()["error"]["message"]
        assert len(worker.requests) == 2
        # A client that has shortened it goes on.
        shorter = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, ASKED_AGAIN]
        assert (await running.client.post(path, json={"model": "m", "input": shorter})).status_code == 200
        assert (await running.client.post(path, json={"model": "m", "input": "So?"})).status_code == 200
        assert said(worker.requests[-1])[:3] == ["Hi", "Hello", "And?"]


async def test_without_redis_only_what_is_stored_is_missed(start_edge: StartEdge, valkey: ValkeyProcess) -> None:
    worker = ScriptedWorker([answer("Fine.")])
    async with start_edge(worker, flags=("--redis.timeout_seconds=0.5",)) as running:
        made = (await running.client.post(PATH, json=ASK)).json()
        valkey.pause()
        try:
            # Nothing to go on from: the answer comes, and is not kept.
            assert (await running.client.post(PATH, json=ASK)).status_code == 200
            going_on = {"model": "m", "input": "x", "previous_response_id": made["id"]}
            for response in (
                await running.client.post(PATH, json=going_on),
                await running.client.post("/codex/one/responses", json=ASK),
                await running.client.get(f"{PATH}/{made['id']}"),
                await running.client.delete(f"{PATH}/{made['id']}"),
            ):
                assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            everything = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
            whole = await running.client.post("/codex/one/responses", json={"model": "m", "input": everything})
            assert whole.status_code == 200
        finally:
            valkey.resume()


async def test_tokens_are_counted_with_what_was_said_before(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine.")], counts=CountTokensResponse(input_tokens=11))
    async with start_edge(worker) as running:
        made = (await running.client.post(PATH, json=ASK)).json()
        body = {"model": "m", "input": "Really?", "previous_response_id": made["id"]}
        counted = await running.client.post(f"{PATH}/input_tokens", json=body)
        assert counted.json() == {"object": "response.input_tokens", "input_tokens": 11}
        chat = worker.count_requests[0].chat
        assert [block.text.text for message in chat.messages for block in message.blocks] == [
            "How are you?", "Fine.", "Really?"
        ]  # fmt: skip


@pytest.mark.parametrize("path", ["/codex/chat/completions", "/codex/v1/chat/completions"])
async def test_chat_completions_under_codex(start_edge: StartEdge, path: str) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        response = await running.client.post(path, json=body)
        assert response.json()["choices"][0]["message"]["content"] == "Fine."


@pytest.mark.parametrize("path", ["/v1/models", "/codex/v1/models", "/codex/models"])
async def test_the_model_list_that_codex_takes(start_edge: StartEdge, path: str) -> None:
    async with start_edge(ScriptedWorker([answer("x")])) as running:
        listed = (await running.client.get(path, params={"client_version": "0.169.0"})).json()
        assert listed.keys() == {"models"}
        required = {
            "slug", "display_name", "supported_reasoning_levels", "shell_type", "visibility", "supported_in_api",
            "priority", "base_instructions", "support_verbosity", "truncation_policy", "experimental_supported_tools",
        }  # fmt: skip
        assert all(required <= model.keys() for model in listed["models"])
        plain = (await running.client.get(path)).json()
        assert [model["id"] for model in plain["data"]] == [model["slug"] for model in listed["models"]]


async def test_what_the_provider_tells_codex_of_a_model_codex_is_told(start_edge: StartEdge) -> None:
    told = {"slug": "gpt-6.1-sol", "priority": 7, "tool_mode": "code", "context_window": 272000, "upgrade": None}
    model = Model(id="gpt-6.1-sol", backend="a", codex_json=json.dumps(told))
    async with start_edge(ScriptedWorker([answer("x")], models=[model])) as running:
        listed = (await running.client.get("/v1/models", params={"client_version": "0.169.0"})).json()
        assert listed == {"models": [told | {"priority": 0}]}


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"model": "m", "input": 7}, "input"),
        ({"model": "m", "input": "x", "previous_response_id": 7}, "previous_response_id"),
        ({"input": "x"}, "model"),
    ],
)
async def test_bad_requests_are_refused_in_openais_words(start_edge: StartEdge, body: Json, parameter: str) -> None:
    async with start_edge(ScriptedWorker([answer("x")])) as running:
        response = await running.client.post(PATH, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, parameter)
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_other_methods_are_refused(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([[[STARTED], [FINISHED]]])) as running:
        refused = await running.client.put(PATH, json=ASK)
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert (await running.client.get("/codex/a/b/responses")).status_code == 404
