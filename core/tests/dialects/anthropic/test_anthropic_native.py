import pytest

from patchbay.dialects.anthropic import DIALECT
from patchbay.dialects.base import NativeEdit
from patchbay.errors import InvalidRequest

BODY = (
    b'{ "max_tokens": 1.0, "messages":[{"role":"user","content":"\\"model\\":\\"a\\""}],'
    b'\n"model" : "a", "x":{"model":"a"} }'
)


@pytest.mark.parametrize("model", [None, "a"])
def test_the_very_same_bytes(model: str | None) -> None:
    edit = DIALECT.edit_native(BODY, model, DIALECT.quirks)
    assert edit.body is BODY
    assert not edit.hide_usage


def test_another_model() -> None:
    assert DIALECT.edit_native(BODY, 'b"é', DIALECT.quirks) == NativeEdit(
        BODY.replace(b'"model" : "a"', '"model" : "b\\"é"'.encode())
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{}", b'{"model":7}'])
def test_bodies_without_a_model(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        DIALECT.edit_native(body, "b", DIALECT.quirks)


def test_dialect() -> None:
    assert DIALECT.name == "anthropic"
    assert DIALECT.quirks.default_max_tokens == 32_000
