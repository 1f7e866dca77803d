"""Request bodies: as they came, or compressed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Final

import zstandard

from patchbay_standin.errors import invalid_request

# What a body may be, once decompressed.
MAX_BYTES: Final = 256 * 1024 * 1024

_GZIP: Final = 31


def decode_body(body: bytes, headers: Mapping[bytes, bytes], *, compressed: bool) -> bytes:
    """The body that a request means.

    Args:
        body: As it came.
        headers: Of the request; names in lower case.
        compressed: Whether zstd and gzip are understood.

    Raises:
        ProviderError: For a content encoding that is not understood, or a body that is not of its encoding.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding == b"identity":
        return body
    decode = _DECODERS.get(encoding) if compressed else None
    if decode is None:
        raise invalid_request(f"Unsupported content encoding: {encoding.decode('latin-1')}", status=415)
    try:
        return decode(body)
    except (zstandard.ZstdError, zlib.error) as error:
        raise invalid_request(f"The body is not of the content encoding {encoding.decode()}: {error}") from None


def _zstd(body: bytes) -> bytes:
    # Bodies that were compressed while they were sent do not say how long they are.
    with zstandard.ZstdDecompressor().stream_reader(body) as reader:
        return reader.read(MAX_BYTES)


def _gzip(body: bytes) -> bytes:
    return zlib.decompressobj(_GZIP).decompress(body, MAX_BYTES)


_DECODERS: Final[Mapping[bytes, Callable[[bytes], bytes]]] = {b"zstd": _zstd, b"gzip": _gzip}
