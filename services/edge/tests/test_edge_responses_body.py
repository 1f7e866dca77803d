"""The input of a request of the Responses API, and what of it only repeats what is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patchbay.errors import InvalidRequest
from patchbay_edge.responses.body import read_body

Item = dict[str, Any]

ASKED: Item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sum of 2 and 3?"}]}
THOUGHT: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAthought"}
CALLED: Item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{}"}
RESULT: Item = {"type": "function_call_output", "call_id": "c1", "output": "5"}
ANSWERED: Item = {
    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
    "content": [{"type": "output_text", "text": "It is 5.", "annotations": []}],
}  # fmt: skip
THANKED: Item = {"role": "user", "content": "Thanks!"}
KEPT = [ASKED, THOUGHT, CALLED, RESULT, ANSWERED]


def texts(items: list[Item]) -> list[bytes]:
    return [json.dumps(item).encode() for item in items]


def body_of(items: object, **fields: object) -> bytes:
    return json.dumps({"model": "m", "input": items, **fields}).encode()


SHORT_ANSWER: Item = {"role": "assistant", "content": "It is 5."}

# The items of a request -> how many of them repeat what is kept, and whether the client keeps the conversation itself.
REQUESTS: dict[str, tuple[list[Item], int, bool]] = {
    "all of it": ([*KEPT, THANKED], 5, True),
    "nothing new": (KEPT, 5, True),
    "without ids and reasoning": ([ASKED | {"id": "x"}, CALLED | {"id": ""}, RESULT, SHORT_ANSWER, THANKED], 4, True),
    "only what is new": ([THANKED], 0, False),
    "only a result": ([RESULT], 0, False),
    "the first words again": ([ASKED], 0, False),
    "shortened, with the beginning": ([ASKED, THANKED], 0, True),
    "shortened, with an answer": ([SHORT_ANSWER, THANKED], 0, True),
    "compacted": ([{"type": "compaction", "encrypted_content": "x"}, THANKED], 0, True),
    "another conversation": ([{"role": "user", "content": "Hello"}, SHORT_ANSWER, THANKED], 0, True),
    "other words at the same place": ([ASKED, CALLED, RESULT | {"call_id": "c2"}, SHORT_ANSWER], 0, True),
    "nothing": ([], 0, False),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_repeats_what_is_kept(name: str) -> None:
    items, repeated, is_whole = REQUESTS[name]
    request = read_body(body_of(items))
    assert request.repeated(texts(KEPT)) == repeated
    assert request.is_whole_conversation(texts(KEPT)) == is_whole


def test_what_was_said_comes_before_what_is_said_now() -> None:
    request = read_body(b'{"previous_response_id" : "resp_1", "input" : "Thanks!", "model": "m"}')
    assert (request.previous_response_id, request.store) == ("resp_1", None)
    assert request.written(request.items, goes_on=True) is request.body
    body = request.written([b'{"a" :  1}', b"2", *request.items], goes_on=False)
    said = b'[{"a" :  1},2,{"type":"message","role":"user","content":"Thanks!"}]'
    assert body == b'{"previous_response_id":null,"input":' + said + b',"model":"m"}'


def test_a_request_without_input_goes_on_with_nothing_new() -> None:
    request = read_body(b'{"model":"m","previous_response_id":"r"}')
    body = request.written([b"1"], goes_on=False)
    assert json.loads(body) == {"model": "m", "previous_response_id": None, "input": [1]}
    assert json.loads(request.written([b"1"], goes_on=True))["previous_response_id"] == "r"


def test_messages_may_stand_for_the_input_where_that_is_said() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"store":true}'
    request = read_body(body, takes_messages=True)
    assert json.loads(request.body) == {"model": "m", "input": [{"role": "user", "content": "Hi"}], "store": True}
    assert (len(request.items), request.store) == (1, True)
    assert read_body(body).body == body
    both = b'{"input":"a","messages":[]}'
    assert read_body(both, takes_messages=True).body == both


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b'{"input":7}', "input"),
        (b'{"input":{}}', "input"),
        (b'{"previous_response_id":7}', "previous_response_id"),
        (b'{"store":"yes"}', "store"),
        (b"[]", ""),
        (b"{", ""),
        (b"\xff", ""),
        (b'{"input":' + b"[" * 99_999, ""),
    ],
)
def test_bad_input_is_named(body: bytes, parameter: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_body(body)
    assert raised.value.error.parameter == parameter


ODD_ITEMS = [
    b"7", b'"x"', b"null", b"[]", b'{"type":7}', b'{"content":{}}', b'{"content":[1]}', b'{"role":{}}',
    b'{"type":"reasoning","id":[]}', b'{"type":"function_call_output","call_id":{}}', b'{"type":"x","id":[1]}',
    b'{"role":"user","content":"\xff"}', b'{"role":"\xff"}', b'{"content":[{"text":"\xff"}]}',
]  # fmt: skip


@pytest.mark.parametrize("item", ODD_ITEMS)
def test_odd_items_are_passed_on(item: bytes) -> None:
    request = read_body(b'{"input":[' + item + b"]}")
    assert request.items == [item]
    assert request.repeated([item]) == 1
    for other in (b'{"role":"user","content":"x"}', b'{"type":"reasoning","id":"rs_1"}'):
        assert request.repeated([other, b'{"role":"user","content":"y"}']) == 0
        assert not read_body(b'{"input":[' + other + b"]}").repeated([item, item])
