"""The backends of this worker, as the configuration makes them."""

from __future__ import annotations

import json
from contextlib import aclosing

import pytest

from patchbay.settings import load
from patchbay.state.connection import connect
from patchbay.testing.upstream import Visit, upstream
from patchbay.worker.runtime import Shared
from patchbay_codex_worker.profiles import openai_responses
from patchbay_codex_worker.providers import build
from patchbay_proto.v1.provider_pb2 import ChatRequest, NativeRequest

NOTE = {"internal_chat_message_metadata_passthrough": {"turn_id": "t"}}


@pytest.mark.parametrize(
    ("base_url", "is_openai"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://api.openai.com.example/v1", False),
        ("https://notapi.openai.com/v1", False),
        ("http://127.0.0.1:9/v1", False),
    ],
)
def test_only_openai_is_told_where_codexs_messages_come_from(base_url: str, is_openai: bool) -> None:
    assert openai_responses(base_url).quirks.message_metadata is is_openai


async def test_a_compatible_server_gets_the_clients_bytes_but_for_what_it_refuses() -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(b'{"id": "r", "output": []}', "content-type: application/json", "connection: close")

    async with upstream(script) as served:
        config = {"kind": "openai-responses", "base_url": served.url, "api_key": "sk-made-up"}
        [provider] = build(
            load([f"--backends.r={json.dumps(config)}"], {}),
            Shared(redis=connect("redis://127.0.0.1:1"), worker_id="w"),
        )
        items = [b'{"role": "user",  "content": "a"}', json.dumps({"role": "user", "content": "b", **NOTE}).encode()]
        body = b'{"model": "m", "temperature": 1, "input": [%s]}'
        for sent, expected in (
            (items[0], items[0]),
            (b", ".join(items), b'%s,{"role":"user","content":"b"}' % items[0]),
        ):
            native = NativeRequest(dialect="openai_responses", body=body % sent)
            async with aclosing(provider.chat(ChatRequest(backend="r", native=native))) as answer:
                events = [event async for some in answer for event in some]
            assert not any(event.HasField("error") for event in events)
            assert served.visits[-1].body == body % expected
        await provider.aclose()


@pytest.mark.parametrize(("reasoning", "asked"), [(True, 2), (False, 1)])
async def test_what_a_server_cannot_read_of_earlier_answers_is_left_out(reasoning: bool, asked: int) -> None:
    refusal = {"error": {"code": "invalid_encrypted_content", "message": "cannot be verified"}}

    async def script(visit: Visit) -> None:
        if b"gAAAA" in visit.body:
            await visit.answer(json.dumps(refusal).encode(), "connection: close", status="400 Bad Request")
        else:
            await visit.answer(b'{"id": "r", "output": []}', "content-type: application/json", "connection: close")

    thought = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAold"}
    said = {"role": "user", "content": "gAAAA" if not reasoning else "a"}
    async with upstream(script) as served:
        config = {"kind": "openai-responses", "base_url": served.url, "api_key": "sk-made-up"}
        settings = load([f"--backends.r={json.dumps(config)}"], {})
        [provider] = build(settings, Shared(redis=connect("redis://127.0.0.1:1"), worker_id="w"))
        body = json.dumps({"model": "m", "input": [thought, said] if reasoning else [said]}).encode()
        native = NativeRequest(dialect="openai_responses", body=body)
        async with aclosing(provider.chat(ChatRequest(backend="r", native=native))) as answer:
            events = [event async for some in answer for event in some]
        await provider.aclose()
    assert [event.error.message for event in events if event.HasField("error")] == (
        [] if reasoning else ["cannot be verified"]
    )
    assert len(served.visits) == asked
