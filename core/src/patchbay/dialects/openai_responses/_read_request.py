"""Reads a Responses request. Format: https://platform.openai.com/docs/api-reference/responses/create"""

from __future__ import annotations

import msgspec

from patchbay.canonical import Block, Chat, Reasoning, ResponseFormat, Text
from patchbay.dialects.json_text import dump, dump_array, load_array, load_object, object_text
from patchbay.dialects.openai_fields import Fields, missing, read_body, wrong_type
from patchbay.dialects.openai_responses._notes import INSTRUCTIONS
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.openai_responses._read_items import read_items, read_text
from patchbay.dialects.openai_responses._read_tools import read_choice, read_tools

_MAX_UINT32 = 2**32 - 1

# Asks, in `include`, for log probabilities.
LOGPROBS = "message.output_text.logprobs"


def read_request(body: bytes) -> Chat:
    """Reads a client's body into a chat.

    Raises:
        InvalidRequest: When the body is not JSON, lacks a required field, or a field has the wrong type.
    """
    return read_body(body, _read)


def _read(fields: Fields) -> Chat:
    fields.raw("model")
    chat = Chat()
    instructions = fields.string("instructions")
    if instructions:
        block = Block(text=Text(text=instructions))
        block.extensions[NAME] = object_text({INSTRUCTIONS: b"true"})
        chat.system.append(block)
    chat.tools.extend(read_tools(fields, "tools", chat.namespaces))
    _read_input(fields, chat)
    choice = fields.raw("tool_choice")
    if choice is not None:
        read_choice(choice, chat.tool_choice)
    parallel = fields.boolean("parallel_tool_calls")
    if parallel is not None:
        chat.parallel_tool_calls = parallel
    _read_sampling(fields, chat)
    _read_reasoning(fields, chat)
    _read_text(fields, chat)
    chat.stream = fields.boolean("stream") or False
    # Every answer of this dialect reports its usage.
    chat.include_usage = chat.stream
    _read_caller(fields, chat)
    if rest := fields.rest():
        chat.extensions[NAME] = object_text(rest)
    return chat


def _read_input(fields: Fields, chat: Chat) -> None:
    value = fields.raw("input")
    if value is None:
        # A stored prompt may be all there is to say.
        if not fields.has("prompt"):
            raise missing("input")
    elif value.startswith(b'"'):
        read_text(msgspec.json.decode(value, type=str), chat)
    elif value.startswith(b"["):
        read_items(load_array(value), chat)
    else:
        raise wrong_type("input", "one of a string or array of objects", value)


def _read_sampling(fields: Fields, chat: Chat) -> None:
    sampling = chat.sampling
    max_tokens = fields.integer("max_output_tokens")
    temperature, top_p = fields.number("temperature"), fields.number("top_p")
    if max_tokens is not None:
        sampling.max_tokens = max_tokens
    if temperature is not None:
        sampling.temperature = temperature
    if top_p is not None:
        sampling.top_p = top_p
    include = fields.array("include")
    if include is not None and dump(LOGPROBS) in include:
        sampling.logprobs = True
        include.remove(dump(LOGPROBS))
        # Alone it asks for nothing here, and is refused elsewhere.
        top_logprobs = fields.integer("top_logprobs", maximum=_MAX_UINT32)
        if top_logprobs is not None:
            sampling.top_logprobs = top_logprobs
    if include:
        fields.rest()["include"] = dump_array(include)


def _read_reasoning(fields: Fields, chat: Chat) -> None:
    options = fields.object("reasoning")
    if options is None:
        return
    effort = options.string("effort")
    older, summary = options.string("generate_summary"), options.string("summary")
    summary = summary or older
    if effort is not None:
        chat.reasoning.effort = effort
        if effort == "none":
            chat.reasoning.mode = Reasoning.MODE_DISABLED
    rest = options.rest()
    if summary:
        chat.reasoning.display = "summarized"
        if summary != "auto":
            rest["summary"] = dump(summary)
    elif effort not in (None, "none"):
        # Here reasoning is hidden unless one asks.
        chat.reasoning.display = "omitted"
    fields.put_back("reasoning", rest)


def _read_text(fields: Fields, chat: Chat) -> None:
    options = fields.object("text")
    if options is None:
        return
    value = options.raw("format")
    if value is not None and not _read_format(value, chat):
        options.put_back("format", load_object(value))
    fields.put_back("text", options.rest())


def _read_format(value: bytes, chat: Chat) -> bool:
    """Reads the format of the answer, if it is of a known type and holds nothing unknown."""
    options = Fields.of(value, "text.format")
    wanted = ResponseFormat()
    match options.required_string("type"):
        case "text":
            wanted.type = ResponseFormat.TYPE_TEXT
        case "json_object":
            wanted.type = ResponseFormat.TYPE_JSON_OBJECT
        case "json_schema":
            wanted.type = ResponseFormat.TYPE_JSON_SCHEMA
            wanted.name = options.required_string("name")
            schema = options.required("schema", options.raw("schema"))
            if not schema.startswith(b"{"):
                raise wrong_type("text.format.schema", "an object", schema)
            wanted.schema_json = schema.decode()
            description, strict = options.string("description"), options.boolean("strict")
            if description is not None:
                wanted.description = description
            if strict is not None:
                wanted.strict = strict
        case _:
            return False
    if options.rest():
        return False
    chat.response_format.CopyFrom(wanted)
    return True


def _read_caller(fields: Fields, chat: Chat) -> None:
    user, tier, metadata = fields.string("user"), fields.string("service_tier"), fields.object("metadata")
    if user is not None:
        chat.user = user
    if tier is not None:
        chat.service_tier = tier
    if metadata is not None:
        for name in list(metadata.rest()):
            chat.metadata[name] = metadata.required_string(name)
