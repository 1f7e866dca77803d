"""The ChatGPT backend: its rules, quotas, accounts and models."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from patchbay_standin import Account, ErrorReply, Quota, Script, Text, Thinking, write_script
from patchbay_standin.testing import StandinProcess

PATH = "/backend-api/codex/responses"
USER = {"role": "user", "content": [{"type": "input_text", "text": "hello"}]}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
BODY: dict[str, Any] = {"model": "gpt-5.5", "instructions": "", "input": [USER], "stream": True, "store": False}


@pytest.fixture
def account(standin: StandinProcess) -> Iterator[dict[str, str]]:
    """The headers of an account."""
    standin.account("ann", Account(plan="pro"))
    yield headers_of(standin, "ann")
    standin.forget_accounts()


def headers_of(standin: StandinProcess, name: str) -> dict[str, str]:
    tokens = standin.sign_in(name)
    return {"authorization": f"Bearer {tokens.access_token}", "chatgpt-account-id": tokens.account_id}


def scripted(script: Script) -> dict[str, str]:
    return {"x-standin-script": write_script(script).decode()}


def test_a_stream_on_the_wire(call: Any, account: dict[str, str], standin: StandinProcess) -> None:
    turn_state = {"x-codex-turn-state": "sticky"}
    answer = call("POST", PATH, BODY, {**account, **turn_state})
    assert answer.status == 200
    # As the real one: no content type, and no output in the end.
    assert "content-type" not in answer.headers
    assert [name for name, _ in answer.events][-2:] == ["response.output_item.done", "response.completed"]
    assert answer.events[-1][1]["response"]["output"] == []
    assert answer.events[-1][1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}
    assert (answer.headers["openai-model"], answer.headers["x-codex-turn-state"]) == ("gpt-5.5", "sticky")
    (request,) = standin.requests()
    assert (request.protocol, request.model, request.outcome) == ("codex", "gpt-5.5", "completed")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in BODY.items() if key != name}


UNSUPPORTED = [
    "max_output_tokens",
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "metadata",
    "user",
    "truncation",
    "safety_identifier",
    "prompt_cache_retention",
    "prompt_cache_options",
    "stream_options",
    "context_management",
    "previous_response_id",
    "generate",
    "n",
    "seed",
    "logprobs",
    "top_logprobs",
    "frequency_penalty",
    "presence_penalty",
]
SYSTEM = {"role": "system", "content": "x"}
CACHED = {"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}
ADDITIONAL = {"type": "additional_tools", "role": "developer", "tools": [TOOL]}

DETAILS: list[tuple[dict[str, Any], str]] = [
    (without("stream"), "Stream must be set to true"),
    ({**BODY, "stream": False}, "Stream must be set to true"),
    (without("store"), "Store must be set to false"),
    ({**BODY, "store": True}, "Store must be set to false"),
    (without("instructions"), "Instructions are required"),
    ({**BODY, "instructions": None}, "Instructions are required"),
    ({**BODY, "input": "hello"}, "Input must be a list"),
    (without("input"), "Input must be a list"),
    ({**BODY, "input": []}, "Input must not be empty"),
    ({**BODY, "input": [SYSTEM, USER]}, "System messages are not allowed"),
    ({**BODY, "input": [{"role": "user", "content": [CACHED]}]}, "Unsupported parameter: prompt_cache_breakpoint"),
    ({**BODY, "service_tier": "flex"}, "Unsupported service_tier: flex"),
    ({**BODY, "parallel_tool_calls": True}, "Unsupported parameter: parallel_tool_calls"),
    ({**BODY, "tools": [{"type": "web_search_preview"}]}, "Unsupported tool type: web_search_preview"),
    (
        {**BODY, "model": "claude-sonnet-4-5"},
        "The 'claude-sonnet-4-5' model is not supported when using Codex with a ChatGPT account.",
    ),
    (
        {**BODY, "model": "standin-nonsense"},
        "The 'standin-nonsense' model is not supported when using Codex with a ChatGPT account.",
    ),
    *[({**BODY, name: 1}, f"Unsupported parameter: {name}") for name in UNSUPPORTED],
]


@pytest.mark.parametrize(("body", "detail"), DETAILS, ids=[f"{row[1][:40]}-{i}" for i, row in enumerate(DETAILS)])
def test_rules_told_as_detail(body: dict[str, Any], detail: str, call: Any, account: dict[str, str]) -> None:
    answer = call("POST", PATH, body, account)
    assert (answer.status, answer.json) == (400, {"detail": detail})


def function(**parameters: object) -> dict[str, Any]:
    return {**TOOL, "parameters": {"type": "object", **parameters}}


ERRORS: list[tuple[dict[str, Any], int, str, str | None]] = [
    (
        {"tools": [function()]},
        400,
        "Invalid schema for function 'f': In context=(), object",
        "invalid_function_parameters",
    ),
    (
        {"tools": [function(properties={}, **{"$schema": "s"})]},
        400,
        "Invalid schema for function 'f': '$schema'",
        "invalid_function_parameters",
    ),
    (
        {"tools": [{"type": "namespace", "name": "n", "tools": [function()]}]},
        400,
        "Invalid schema for function 'f': In",
        "invalid_function_parameters",
    ),
    (
        {"tools": [{**TOOL, "name": "n" * 65}]},
        400,
        "Invalid 'tools[0].name': string too long",
        "string_above_max_length",
    ),
    ({"input": [{**USER, "id": "item_1"}]}, 400, "Invalid 'input[0].id': 'item_1'. Expected an ID", "invalid_value"),
    ({"input": [{**USER, "id": "msg_" + "x" * 99}]}, 400, "Invalid 'input[0].id': string too long", None),
    (
        {"input": [{"type": "function_call", "call_id": "c" * 65, "name": "f", "arguments": ""}]},
        400,
        "Invalid 'input[0].call_id': string too long",
        "string_above_max_length",
    ),
    ({"input": [{"type": "item_reference", "id": "rs_1"}]}, 404, "Item with id 'rs_1' not found. Items are not", None),
    ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, 404, "Item with id 'rs_1' not found.", None),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]}]},
        400,
        "Error while downloading https://example.com/a.png.",
        "invalid_value",
    ),
    ({"input": [{"role": "tool", "content": "x"}]}, 400, "Invalid value: 'tool'.", "invalid_value"),
]


@pytest.mark.parametrize(("fields", "status", "message", "code"), ERRORS, ids=[row[2][:45] for row in ERRORS])
def test_rules_told_as_error(
    fields: dict[str, Any], status: int, message: str, code: str | None, call: Any, account: dict[str, str]
) -> None:
    answer = call("POST", PATH, {**BODY, **fields}, account)
    assert answer.status == status
    assert answer.json["error"]["message"].startswith(message)
    assert answer.json["error"]["code"] == code or code is None


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{"role": "developer", "content": "x"}, USER], "tools": [TOOL], "parallel_tool_calls": True},
        {"input": [ADDITIONAL, USER], "parallel_tool_calls": True},
        {"service_tier": "priority", "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k"},
        {
            "text": {"verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "client_metadata": {"a": "b"},
        },
        {"input": [{**USER, "id": "msg_1", "internal_chat_message_metadata_passthrough": {"turn_id": "t"}}]},
        {"model": "gpt-standin"},
        {"model": "standin-echo"},
    ],
)
def test_what_it_takes(fields: dict[str, Any], call: Any, account: dict[str, str]) -> None:
    assert call("POST", PATH, {**BODY, **fields}, account).status == 200


@pytest.mark.parametrize("way", ["header", "metadata"])
def test_lite_requests(way: str, call: Any, account: dict[str, str]) -> None:
    header = {"x-openai-internal-codex-responses-lite": "true"} if way == "header" else {}
    metadata = {} if header else {"ws_request_header_x_openai_internal_codex_responses_lite": "true"}
    body = {**BODY, "model": "gpt-6.1-sol", "input": [ADDITIONAL, USER], "client_metadata": metadata}
    headers = {**account, **header}
    assert call("POST", PATH, {**body, "parallel_tool_calls": False}, headers).status == 200
    refused = call("POST", PATH, {**body, "parallel_tool_calls": True}, headers)
    assert refused.json == {"detail": "Unsupported parameter: parallel_tool_calls"}
    assert call("POST", PATH, {**body, "tools": []}, headers).json == {"detail": "Unsupported parameter: tools"}


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_compressed_bodies(encoding: str, call: Any, account: dict[str, str], standin: StandinProcess) -> None:
    plain = json.dumps(BODY).encode()
    # Written as a stream, as Codex does: the frame does not say how long the body is.
    packer = zstandard.ZstdCompressor().compressobj()
    packed = gzip.compress(plain) if encoding == "gzip" else packer.compress(plain) + packer.flush()
    headers = {**account, "content-encoding": encoding}
    assert call("POST", PATH, packed, headers).status == 200
    assert standin.requests()[-1].body == BODY
    assert call("POST", PATH, plain, headers).status == 400
    assert call("POST", PATH, plain, {**account, "content-encoding": "br"}).status == 415
    assert call("POST", "/v1/responses", packed, headers).status == 415


def test_who_may_ask(call: Any, account: dict[str, str], standin: StandinProcess) -> None:
    def refused(**headers: str) -> tuple[int, Any]:
        answer = call("POST", PATH, BODY, headers)
        return answer.status, answer.json.get("detail") or answer.json["error"]["code"]

    bearer, identity = account["authorization"], account["chatgpt-account-id"]
    unknown = "Could not parse your authentication token. Please try signing in again."
    assert refused() == (401, "Unauthorized")
    assert refused(authorization="Bearer sk-key") == (401, unknown)
    assert refused(authorization=bearer) == (401, "The account (none) is not one of this token's.")
    other = {"authorization": bearer, "chatgpt-account-id": "acc-bob"}
    assert refused(**other) == (401, "The account acc-bob is not one of this token's.")
    standin.account("short", Account(token_lifetime_s=-1))
    assert refused(**headers_of(standin, "short")) == (401, "token_expired")
    assert call("POST", PATH, BODY, account).status == 200
    standin.expire_access_tokens("ann")
    assert refused(**account) == (401, "token_expired")
    assert call("POST", PATH, BODY, headers_of(standin, "ann")).status == 200
    report = standin.account_report("ann")
    assert (report.requests, report.unauthorized, identity) == (2, 3, "acc-ann")


def test_quota_in_headers_and_usage(call: Any, standin: StandinProcess, account: dict[str, str]) -> None:
    resets_at = int(time.time()) + 600
    standin.account(
        "bob", Account(primary=Quota(used_percent=12.5, resets_at=resets_at), percent_per_request=0.5, plan="team")
    )
    headers = headers_of(standin, "bob")
    answer = call("POST", PATH, BODY, headers)
    got = {name: value for name, value in answer.headers.items() if name.startswith("x-codex-p")}
    assert got.pop("x-codex-primary-reset-after-seconds") in ("599", "600", "598")
    assert got == {
        "x-codex-primary-used-percent": "13",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": str(resets_at),
        "x-codex-plan-type": "team",
    }
    assert answer.headers["x-codex-secondary-used-percent"] == "0.5"
    usage = call("GET", "/backend-api/wham/usage", None, headers).json
    assert (usage["plan_type"], usage["rate_limit"]["allowed"], usage["rate_limit"]["limit_reached"]) == (
        "team",
        True,
        False,
    )
    window = usage["rate_limit"]["primary_window"]
    assert (window["used_percent"], window["limit_window_seconds"], window["reset_at"]) == (13, 18_000, resets_at)
    assert call("GET", "/backend-api/wham/usage").status == 401


def test_a_used_up_quota(call: Any, standin: StandinProcess, account: dict[str, str]) -> None:
    resets_at = int(time.time()) + 600
    standin.account("ann", Account(plan="pro", primary=Quota(used_percent=100, resets_at=resets_at)))
    answer = call("POST", PATH, BODY, account)
    assert answer.status == 429
    error = answer.json["error"]
    assert error.pop("resets_in_seconds") in range(590, 601)
    assert error == {
        "type": "usage_limit_reached",
        "message": "The usage limit has been reached",
        "plan_type": "pro",
        "resets_at": resets_at,
    }
    assert answer.headers["x-codex-primary-used-percent"] == "100"
    assert standin.account_report("ann").limited == 1
    # The window is over.
    standin.account("ann", Account(primary=Quota(used_percent=100, resets_at=time.time() - 1)))
    assert call("POST", PATH, BODY, account).status == 200
    # Used up request by request.
    standin.account("ann", Account(secondary=Quota(used_percent=98), percent_per_request=1))
    assert [call("POST", PATH, BODY, account).status for _ in range(3)] == [200, 200, 429]


def test_encrypted_content_belongs_to_an_account(call: Any, standin: StandinProcess, account: dict[str, str]) -> None:
    standin.account("bob")
    asked = {"include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}}
    script = scripted(Script(blocks=[Thinking(text="Hm."), Text(text="Yes.")]))
    events = call("POST", PATH, {**BODY, **asked}, {**account, **script}).events
    item = next(event["item"] for name, event in events if name == "response.output_item.done")
    again = {**BODY, "input": [item, USER]}
    assert call("POST", PATH, again, account).status == 200
    answer = call("POST", PATH, again, headers_of(standin, "bob"))
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_encrypted_content")
    assert "could not be verified" in answer.json["error"]["message"]


def test_error_shapes(call: Any, account: dict[str, str]) -> None:
    def body(**fields: Any) -> Any:
        reply = ErrorReply(message="m", **fields)
        return call("POST", PATH, BODY, {**account, **scripted(Script(error=reply))}).json

    error = {"message": "m", "type": "server_error", "param": None, "code": "c"}
    assert body(status=500, type="server_error", code="c") == {"error": error}
    assert body(status=500, shape="detail") == {"detail": "m"}
    assert body(status=500, type="server_error", code="c", shape="event") == {
        "type": "error",
        "status": 500,
        "error": error,
    }
    limited = body(status=429, type="usage_limit_reached", fields={"resets_at": 7})["error"]
    assert (limited["plan_type"], limited["resets_at"], limited["resets_in_seconds"]) == ("pro", 7, 3600)


def test_models_and_accounts(call: Any, account: dict[str, str], standin: StandinProcess) -> None:
    answer = call("GET", "/backend-api/codex/models?client_version=0.169.0", None, account)
    models = {model["slug"]: model for model in answer.json["models"]}
    required = [
        "slug",
        "display_name",
        "supported_reasoning_levels",
        "shell_type",
        "visibility",
        "supported_in_api",
        "priority",
        "base_instructions",
        "support_verbosity",
        "truncation_policy",
        "experimental_supported_tools",
    ]
    assert all(name in model for model in models.values() for name in required)
    assert (models["gpt-6.1-sol"]["use_responses_lite"], models["gpt-5.5"]["use_responses_lite"]) == (True, False)
    assert answer.headers["x-models-etag"]
    assert call("GET", "/backend-api/codex/models", None, account).status == 422
    assert call("GET", "/backend-api/codex/models?client_version=1").status == 401
    check = call("GET", "/backend-api/wham/accounts/check", None, account).json
    assert check["accounts"] == [
        {
            "id": "acc-ann",
            "plan_type": "pro",
            "structure": "personal",
            "workspace_backend_origin": standin.url,
            "account_routing_override": "NO_CONSTRAINT",
        }
    ]
    assert call("GET", "/backend-api/ps/plugins/installed", None, account).json == {"detail": "Not Found"}


def test_compacts_without_a_stream(call: Any, account: dict[str, str]) -> None:
    body = {"model": "gpt-5.5", "instructions": "", "input": [USER]}
    answer = call("POST", f"{PATH}/compact", body, account)
    assert [item["type"] for item in answer.json["output"]] == ["message", "compaction"]
    assert call("POST", PATH, {**BODY, "input": [*answer.json["output"], USER]}, account).status == 200
