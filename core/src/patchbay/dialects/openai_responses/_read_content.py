"""Reads the content parts of a Responses request."""

from __future__ import annotations

from patchbay.canonical import Audio, Block, Document, Image, Opaque, Refusal, Source, Text
from patchbay.dialects.json_text import load_array, object_text
from patchbay.dialects.openai_fields import Fields, missing, wrong_type
from patchbay.dialects.openai_responses._notes import PART, without_notes
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.sources import source_of

_TEXT_TYPES = ("input_text", "output_text", "text")
# What says nothing, and is not kept.
_EMPTY = {"annotations": b"[]", "logprobs": b"[]"}


def read_content(fields: Fields, name: str, *, required: bool = True) -> list[Block]:
    """Reads a field that is a string or an array of content parts.

    Raises:
        InvalidRequest: When it is neither, or missing although required.
    """
    path = fields.at(name)
    value = fields.raw(name)
    if value is None:
        if required:
            raise missing(path)
        return []
    if value.startswith(b'"'):
        text = Fields({name: value}).required_string(name)
        return [Block(text=Text(text=text))] if text else []
    if not value.startswith(b"["):
        raise wrong_type(path, "one of a string or array of objects", value)
    return [_read_part(raw, f"{path}[{number}]") for number, raw in enumerate(load_array(value))]


def _read_file_source(fields: Fields) -> Source:
    """Takes the fields that say where a file comes from."""
    file_id, data, url = fields.string("file_id"), fields.string("file_data"), fields.string("file_url")
    if file_id is not None:
        return Source(file_id=file_id)
    if url is not None:
        return Source(url=url)
    if data is None:
        raise missing(fields.at("file_data"))
    source = source_of(data)
    # Anything that is not a data URL is the base64 text itself.
    return Source(base64=data) if source.url else source


def _read_part(raw: bytes, path: str) -> Block:
    fields = Fields.of(raw, path)
    kind = fields.required_string("type")
    match kind:
        case _ if kind in _TEXT_TYPES:
            block = Block(text=Text(text=fields.required_string("text")))
        case "refusal":
            block = Block(refusal=Refusal(text=fields.required_string("refusal")))
        case "input_image":
            block = Block(image=_read_image(fields))
        case "input_file":
            block = Block(document=Document(source=_read_file_source(fields)))
            title = fields.string("filename")
            if title is not None:
                block.document.title = title
        case "input_audio":
            block = _read_audio(fields)
        case _:
            block = Block(opaque=Opaque(dialect=NAME, json=raw.decode()))
            block.extensions[NAME] = object_text({PART: b"true"})
            return block
    rest = {name: value for name, value in without_notes(fields.rest()).items() if value != _EMPTY.get(name)}
    if rest:
        block.extensions[NAME] = object_text(rest)
    return block


def _read_image(fields: Fields) -> Image:
    url, file_id = fields.string("image_url"), fields.string("file_id")
    if url is not None:
        image = Image(source=source_of(url))
    elif file_id is not None:
        image = Image(source=Source(file_id=file_id))
    else:
        raise missing(fields.at("image_url"))
    detail = fields.string("detail")
    # What happens anyway.
    if detail is not None and detail != "auto":
        image.detail = detail
    return image


def _read_audio(fields: Fields) -> Block:
    audio = fields.required("input_audio", fields.object("input_audio"))
    block = Block(audio=Audio(base64=audio.required_string("data"), format=audio.required_string("format")))
    fields.put_back("input_audio", audio.rest())
    return block
