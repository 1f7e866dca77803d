"""Where an image or a file comes from, to and from the URL that OpenAI's dialects say it by."""

from __future__ import annotations

import re

from patchbay.canonical import Source

_DATA_URL = re.compile(r"data:([^;,]*);base64,(.*)", re.DOTALL)


def source_of(url: str) -> Source:
    match = _DATA_URL.fullmatch(url)
    return Source(url=url) if match is None else Source(base64=match[2], media_type=match[1])


def url_of(source: Source) -> str:
    """The URL; base64 of an unknown type stays as it is, since a data URL must name one."""
    if source.WhichOneof("origin") == "url":
        return source.url
    return f"data:{source.media_type};base64,{source.base64}" if source.media_type else source.base64
