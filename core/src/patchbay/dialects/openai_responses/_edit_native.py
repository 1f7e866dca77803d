"""Readies a client's own body for an upstream of the Responses API.

For OpenAI's platform that is the model, and every other byte stays as it was. Other servers refuse some of what clients
say: that is taken out, item by item, and what needs no change keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from patchbay.dialects.base import NativeEdit
from patchbay.dialects.call_ids import NOTHING
from patchbay.dialects.json_text import Object, dump, dump_array, dump_object, load_array, load_object
from patchbay.dialects.native import set_top_level
from patchbay.dialects.openai_responses._item_rules import (
    MESSAGE_METADATA,
    fit_fields,
    fit_schema,
    fit_tier,
    fit_tool_type,
    is_missed,
)
from patchbay.dialects.openai_responses._quirks import NAME, OpenAIResponsesQuirks
from patchbay.dialects.openai_responses._write_request import ENCRYPTED_REASONING
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.signatures import MARK_IN_JSON, is_carried, is_openai_made
from patchbay.dialects.tool_names import fitted, has_longer_name
from patchbay.errors import InvalidRequest


class _Item(msgspec.Struct):
    """What decides whether an item must change."""

    type: object = None
    role: object = None
    call_id: object = None
    encrypted_content: object = None


_decode_item = msgspec.json.Decoder(_Item).decode


def edit_native(body: bytes, model: str | None, quirks: OpenAIResponsesQuirks) -> NativeEdit:
    """The client's body with the model asked for, and without what the server refuses.

    Raises:
        InvalidRequest: When the body is not a JSON object.
    """
    fields = _fields(body)
    changed: Object = {}
    if model is not None:
        changed["model"] = dump(model)
    warnings = Warnings(NAME)
    edit = _Edit(fields, quirks, warnings)
    try:
        changed |= edit.changed()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}") from error
    changed = {name: value for name, value in changed.items() if fields.get(name) != value}
    if edit.removed:
        kept = {name: value for name, value in fields.items() if name not in edit.removed}
        body = dump_object(kept | changed)
    elif changed:
        body = set_top_level(body, changed)
    return NativeEdit(body, warnings=warnings.all(), is_unfit=has_longer_name(body, quirks.max_tool_name))


def without_reasoning(body: bytes) -> bytes:
    """The body without earlier answers' reasoning, for a server that cannot read it (`invalid_encrypted_content`).

    Raises:
        InvalidRequest: When the body is not a JSON object.
    """
    fields = _fields(body)
    value = fields.get("input", b"null")
    if not value.startswith(b"["):
        return body
    items = load_array(value)
    kept = [item for item in items if not item.startswith(b"{") or _decode_item(item).type != "reasoning"]
    return body if len(kept) == len(items) else set_top_level(body, {"input": dump_array(kept)})


def _fields(body: bytes) -> Object:
    try:
        return load_object(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest("The body of your request must be a JSON object.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}") from error


class _Edit:
    """What to change in one body."""

    def __init__(self, fields: Object, quirks: OpenAIResponsesQuirks, warnings: Warnings) -> None:
        self._fields = fields
        self._quirks = quirks
        self._warnings = warnings
        # The fields to leave out.
        self.removed: set[str] = set()

    def changed(self) -> Object:
        """The fields to set."""
        quirks, fields = self._quirks, self._fields
        for name in sorted(quirks.unsupported & fields.keys()):
            self._remove(name)
        changed: Object = {}
        if quirks.stream_only:
            changed["stream"] = b"true"
        if not quirks.keeps_answers:
            changed["store"] = b"false"
        if quirks.instructions_required and fields.get("instructions", b"null") == b"null":
            changed["instructions"] = b'""'
        if quirks.always_encrypted:
            changed |= self._include()
        self._edit_tier(changed)
        if "input" in fields:
            self._edit_input(fields["input"], changed)
        has_tool_rules = bool(quirks.unsupported_schema_fields) or not quirks.web_search_preview
        if has_tool_rules and fields.get("tools", b"").startswith(b"["):
            self._edit(changed, "tools", self._tool)
        choice = fields.get("tool_choice", b"")
        if choice.startswith(b"{"):
            fit = self._retyped(choice)
            if fit is not None:
                changed["tool_choice"] = fit
        return changed

    def _remove(self, name: str) -> None:
        self.removed.add(name)
        if is_missed(name, self._fields[name]):
            self._warnings.dropped(name)

    def _include(self) -> Object:
        value = self._fields.get("include", b"null")
        include = load_array(value) if value.startswith(b"[") else []
        wanted = dump(ENCRYPTED_REASONING)
        return {} if wanted in include else {"include": dump_array([*include, wanted])}

    def _edit_tier(self, changed: Object) -> None:
        value = self._fields.get("service_tier", b"null")
        if self._quirks.service_tiers is None or not value.startswith(b'"'):
            return
        asked = msgspec.json.decode(value, type=str)
        tier = fit_tier(asked, self._quirks)
        if tier is not None:
            changed["service_tier"] = dump(tier)
            return
        self.removed.add("service_tier")
        if asked not in ("auto", "default"):
            self._warnings.dropped("service_tier", f"{asked} is not supported by this backend")

    def _edit_input(self, value: bytes, changed: Object) -> None:
        if value.startswith(b'"') and not self._quirks.string_input:
            part: Object = {"type": b'"input_text"', "text": value}
            item: Object = {"type": b'"message"', "role": b'"user"', "content": dump_array([dump_object(part)])}
            changed["input"] = dump_array([dump_object(item)])
        elif value.startswith(b"[") and (self._has_item_rules(value) or MARK_IN_JSON in value):
            self._edit(changed, "input", self._item)
        if self._quirks.parallel_without_tools or "parallel_tool_calls" not in self._fields:
            return
        # Tools may also come in an item.
        if self._fields.get("tools", b"[]") in (b"[]", b"null") and b'"additional_tools"' not in value:
            self.removed.add("parallel_tool_calls")

    def _has_item_rules(self, items: bytes) -> bool:
        quirks = self._quirks
        if not (quirks.keeps_answers and quirks.system_role) or quirks.unsupported_part_fields:
            return True
        # A search of the text costs far less than to read it, and only Codex makes such notes.
        return not quirks.message_metadata and MESSAGE_METADATA.encode() in items

    def _edit(self, changed: Object, name: str, fit: Callable[[bytes], bytes | None]) -> None:
        """Edits the entries of an array; one that `fit` gives nothing for is left out."""
        before = load_array(self._fields[name])
        after = [fit(raw) if raw.startswith(b"{") else raw for raw in before]
        if after != before:
            changed[name] = dump_array([raw for raw in after if raw is not None])

    def _item(self, raw: bytes) -> bytes | None:
        item = _decode_item(raw)
        kind = item.type if isinstance(item.type, str) else ("message" if item.role is not None else "item_reference")
        if kind == "reasoning" and is_carried(str(item.encrypted_content or "")):
            return None
        if not self._quirks.keeps_answers:
            if kind == "item_reference":
                self._warnings.dropped("input.item_reference")
                return None
            # What the server does not keep and cannot read; nobody else's reasoning is of use to it.
            if kind == "reasoning" and not is_openai_made(str(item.encrypted_content or "")):
                return None
        fields = load_object(raw)
        is_changed = fit_fields(fields, kind, self._quirks, keeps_ids=self._quirks.keeps_answers)
        if isinstance(item.call_id, str) and not self._quirks.keeps_answers:
            call_id = fitted(item.call_id, self._quirks.max_call_id, NOTHING)
            is_changed = is_changed or call_id != item.call_id
            fields["call_id"] = dump(call_id)
        for name in ("content", "output"):
            is_changed = self._edit_parts(fields, name) or is_changed
        return dump_object(fields) if is_changed else raw

    def _edit_parts(self, fields: Object, name: str) -> bool:
        value = fields.get(name, b"")
        refused = self._quirks.unsupported_part_fields
        if not value.startswith(b"[") or not any(dump(field) in value for field in refused):
            return False
        parts = [
            dump_object({field: inner for field, inner in load_object(raw).items() if field not in refused})
            if raw.startswith(b"{")
            else raw
            for raw in load_array(value)
        ]
        fields[name] = dump_array(parts)
        return True

    def _tool(self, raw: bytes) -> bytes:
        fields = load_object(raw)
        is_changed = False
        schema = fields.get("parameters", b"")
        if self._quirks.unsupported_schema_fields and schema.startswith(b"{"):
            inner = load_object(schema)
            is_changed = fit_schema(inner, self._quirks)
            if inner.get("type") == b'"object"' and "properties" not in inner:
                inner["properties"] = b"{}"
                is_changed = True
            fields["parameters"] = dump_object(inner)
        if is_changed:
            return dump_object(fields)
        return self._retyped(raw) or raw

    def _retyped(self, raw: bytes) -> bytes | None:
        fields = load_object(raw)
        kind = fields.get("type", b"null")
        fit = fit_tool_type(kind, self._quirks)
        return None if fit == kind else dump_object({**fields, "type": fit})
