"""Readies a client's own body for an upstream of the Messages API."""

from __future__ import annotations

from patchbay.dialects.anthropic._json import dump
from patchbay.dialects.anthropic._quirks import AnthropicQuirks
from patchbay.dialects.base import NativeEdit
from patchbay.dialects.native import read_head, set_top_level


def edit_native(body: bytes, model: str | None, _: AnthropicQuirks) -> NativeEdit:
    """The very same bytes, or with another model in place of the client's.

    Raises:
        InvalidRequest: Another model is asked for and the body is not a JSON object with a `model`.
    """
    if model is None or read_head(body).model == model:
        return NativeEdit(body)
    return NativeEdit(set_top_level(body, {"model": dump(model)}))
