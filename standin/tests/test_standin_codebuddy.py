from __future__ import annotations

from typing import Any

import openai
import pytest

from patchbay_standin.testing import StandinProcess

KEY = "ck_id-1.s3cret"
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]


def both(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", "x-api-key": key}


def test_chunks_are_responses(call: Any) -> None:
    body = {"model": "gpt-5.5", "messages": MESSAGES, "stream": True}
    answer = call("POST", "/v2/chat/completions", body, both(KEY))
    assert answer.status == 200
    assert {data["object"] for _, data in answer.events if data != "[DONE]"} == {"response"}
    assert answer.events[-1] == ("", "[DONE]")


def test_sdk_reads_it(standin: StandinProcess) -> None:
    with openai.OpenAI(base_url=f"{standin.url}/v2", api_key=KEY, default_headers={"X-API-Key": KEY}) as client:
        messages: Any = MESSAGES
        chunks = client.chat.completions.create(model="gpt-5.5", messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.endswith("You asked gpt-5.5. Your last message was: hello")
    assert standin.requests()[-1].protocol == "codebuddy"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "both Authorization: Bearer and X-API-Key are required"),
        ({"authorization": f"Bearer {KEY}"}, "both Authorization: Bearer and X-API-Key are required"),
        ({"x-api-key": KEY}, "both Authorization: Bearer and X-API-Key are required"),
        ({"authorization": f"Bearer {KEY}", "x-api-key": f"{KEY}x"}, "Authorization and X-API-Key differ"),
        (both("sk-something"), "the key is not of the form ck_<id>.<secret>"),
        (both("ck_idonly"), "the key is not of the form ck_<id>.<secret>"),
    ],
)
def test_keys(headers: dict[str, str], reason: str, call: Any) -> None:
    body = {"model": "gpt-5.5", "messages": MESSAGES, "stream": True}
    answer = call("POST", "/v2/chat/completions", body, headers)
    assert (answer.status, answer.json) == (401, {"code": 401, "msg": f"Unauthorized: {reason}"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": MESSAGES}, "11101: Non-stream chat request is currently not supported"),
        ({"messages": MESSAGES, "stream": False}, "11101: Non-stream chat request is currently not supported"),
        ({"messages": MESSAGES[1:], "stream": True}, "11101: A system message is required"),
    ],
)
def test_rules(fields: dict[str, object], message: str, call: Any) -> None:
    answer = call("POST", "/v2/chat/completions", {"model": "gpt-5.5", **fields}, both(KEY))
    assert (answer.status, answer.json) == (400, {"code": 11101, "msg": message})


def test_errors_inside_a_200(ask: Any) -> None:
    script = '{"error": {"status": 200, "code": 14018, "message": "quota used up"}}'
    answer = ask("codebuddy", "m", headers={"x-standin-script": script})
    assert (answer.status, answer.json) == (200, {"code": 14018, "msg": "quota used up"})
