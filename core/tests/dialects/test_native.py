import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbay.dialects.native import RequestHead, read_head, set_top_level
from patchbay.errors import InvalidRequest


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (b'{"model":"m"}', RequestHead("m")),
        (b'{"model":"m","stream":true}', RequestHead("m", stream=True)),
        (b'{"model":"m","stream":null}', RequestHead("m")),
        (b'{"model":"m","stream_options":{"include_usage":true}}', RequestHead("m", include_usage=True)),
        (b'{"model":"m","stream_options":{"include_usage":1}}', RequestHead("m")),
        (b'{"model":"m","stream_options":null,"metadata":null,"user":null}', RequestHead("m")),
        (b'{"model":"m","user":"u"}', RequestHead("m", user="u")),
        (b'{"model":"m","user":"u","metadata":{"user_id":"v","n":1}}', RequestHead("m", user="v")),
        (b'{"model":"m","metadata":{"user_id":7},"user":8}', RequestHead("m")),
        (b' \n{"messages":[{"model":"no"}],"mod\\u0065l":"\xc3\xa9"}', RequestHead("\u00e9")),
    ],
)
def test_read_head(body: bytes, head: RequestHead) -> None:
    assert read_head(body) == head


@pytest.mark.parametrize(
    ("body", "message", "parameter"),
    [
        (b"", "The request body is not valid JSON: Input data was truncated", ""),
        (b'{"model":', "The request body is not valid JSON: Input data was truncated", ""),
        (b'["model"]', "The request body must be a JSON object.", ""),
        (b"null", "The request body must be a JSON object.", ""),
        (b"{}", "model: Field required", "model"),
        (b'{"model":null}', "model: Input should be a valid string", "model"),
        (b'{"model":7}', "model: Input should be a valid string", "model"),
        (b'{"model":"m","stream":"yes"}', "stream: Input should be a valid boolean", "stream"),
        (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "The request body is nested too deeply.", ""),
        (b'{"model":"\xff"}', "The request body is not valid JSON: ", ""),
    ],
)
def test_read_head_refuses(body: bytes, message: str, parameter: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_head(body)
    assert caught.value.error.message.startswith(message)
    assert caught.value.error.parameter == parameter


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"X"}'),
        (b' { "model" : "a" , "n" : 1 }\n', b' { "model" : "X" , "n" : 1 }\n'),
        (b'{"n":1.50,"model":\t"a"}', b'{"n":1.50,"model":\t"X"}'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"X"}'),
        (b'{"x":[{"model":"a"},{"model":"a"}],"model":"a"}', b'{"x":[{"model":"a"},{"model":"a"}],"model":"X"}'),
        (b'{"x":{"model":"a"},"mod\\u0065l":"a"}', b'{"x":{"model":"a"},"mod\\u0065l":"X"}'),
        (b'{"\\"model":"a","model":"a"}', b'{"\\"model":"a","model":"X"}'),
        (b'{"x":"{\\"model\\":\\"a\\"}","model":"a"}', b'{"x":"{\\"model\\":\\"a\\"}","model":"X"}'),
        (b'{"model":"a","model":"a"}', b'{"model":"a","model":"X"}'),
        (b'{"model":{"model":{"model":"a"}}}', b'{"model":"X"}'),
        (b'{"x":"model","model":"a"}', b'{"x":"model","model":"X"}'),
        (b'{"model":"X"}', b'{"model":"X"}'),
        (b"{}", b'{"model":"X"}'),
        (b'\n{ "n":1}', b'\n{"model":"X", "n":1}'),
        (b'{"x":{"model":"a"}}', b'{"model":"X","x":{"model":"a"}}'),
        (b'{"model":null,"n":[1e5]}', b'{"model":"X","n":[1e5]}'),
    ],
)
def test_set_top_level(body: bytes, expected: bytes) -> None:
    assert set_top_level(body, {"model": b'"X"'}) == expected


def test_set_top_level_of_many_equal_pairs_deeper() -> None:
    deep = b'{"model":"a","y":"[{\\""},' * 50
    body = b'{"x":[' + deep + b'0],"model" :"a","z":' + b"[" + deep + b"0]}"
    assert set_top_level(body, {"model": b'"X"'}) == body.replace(b'"model" :"a"', b'"model" :"X"')


def test_set_several_fields() -> None:
    body = b'{"model":"a","messages":[]}'
    fields = {"model": b'"b"', "stream_options": b'{"include_usage":true}'}
    assert set_top_level(body, fields) == b'{"stream_options":{"include_usage":true},"model":"b","messages":[]}'


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":"a"', b'{"model":"a"}x'])
def test_set_top_level_refuses(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        set_top_level(body, {"model": b'"X"'})


_NAMES = st.sampled_from(["model", "stream", "mo\\del", 'mo"del', "modèl", "x"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(
    body=st.dictionaries(_NAMES, _JSON, max_size=5),
    name=_NAMES,
    value=_JSON,
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_set_top_level_is_assignment(
    body: dict[str, object], name: str, value: object, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()
    new = msgspec.json.encode(value)
    changed = set_top_level(text, {name: new})
    assert json.loads(changed) == body | {name: value}
    # All that is not the value is still there: putting the old value back gives the old bytes.
    if name in body:
        old = bytes(msgspec.json.decode(text, type=dict[str, msgspec.Raw])[name])
        assert set_top_level(changed, {name: old}) == text


def test_cost_of_a_large_body() -> None:
    messages = [{"role": "user", "content": 'line one\n"quoted" and more text ' * 8}] * 800
    body = json.dumps({"max_tokens": 5, "messages": messages, "model": "claude"}).encode()
    best = min(_seconds(body) for _ in range(20))
    assert best / (len(body) / 100_000) < 1e-3


def test_cost_of_a_large_value() -> None:
    body = json.dumps({"input": [{"role": "user", "content": "words " * 200_000}], "model": "m"}).encode()
    start = time.perf_counter()
    changed = set_top_level(body, {"input": b"[]"})
    assert time.perf_counter() - start < 0.2
    assert changed == b'{"input": [], "model": "m"}'


def _seconds(body: bytes) -> float:
    start = time.perf_counter()
    read_head(body)
    set_top_level(body, {"model": b'"other"'})
    return time.perf_counter() - start
