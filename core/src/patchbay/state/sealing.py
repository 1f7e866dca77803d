"""Secrets at rest: sealed with AES-256-GCM, so that what is read from Redis or a file is of no use by itself.

What is sealed names the key that opens it, and is bound to the place where it is kept: moved to another place, it does
not open. Several keys let one be replaced: the first one seals, all of them open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_ID_BYTES = 8
_NONCE_BYTES = 12
_HEAD_BYTES = len(_VERSION) + _ID_BYTES + _NONCE_BYTES
_KEY_BYTES = 32
# All replicas must come to the same key without asking each other, so that the salt cannot be a random one.
_PASSPHRASE_SALT = b"patchbay security.secrets_key v1"


class CannotOpen(Exception):
    """What was sealed does not open: its key is not among ours, it was changed, or it belongs to another place."""


class Sealer:
    """Seals and opens.

    Args:
        keys: Each 32 bytes; the first one seals, all open.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a sealer needs a key")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._first = _key_id(keys[0])

    def seal(self, plain: bytes, context: str) -> bytes:
        """Seals `plain` for the place `context`, for example the Redis key that will hold it."""
        nonce = os.urandom(_NONCE_BYTES)
        head = _VERSION + self._first + nonce
        return head + self._ciphers[self._first].encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """What was sealed for the place `context`.

        Raises:
            CannotOpen: It was not, not with one of these keys, or it is no longer what it was.
        """
        key_id, nonce = sealed[1 : 1 + _ID_BYTES], sealed[1 + _ID_BYTES : _HEAD_BYTES]
        cipher = self._ciphers.get(key_id)
        if sealed[:1] != _VERSION or cipher is None:
            raise CannotOpen("it was sealed with a key that is not among security.secrets_key")
        try:
            return cipher.decrypt(nonce, sealed[_HEAD_BYTES:], context.encode())
        except (InvalidTag, ValueError):
            raise CannotOpen("it was changed, or moved here from another place") from None


def make_sealer(secrets: Sequence[str]) -> Sealer | None:
    """The sealer of `security.secrets_key`; None without any key."""
    return Sealer([key_of(secret) for secret in secrets]) if secrets else None


def key_of(secret: str) -> bytes:
    """The key that a text stands for: 32 bytes in hex or base64 are it, any other text is a passphrase for scrypt."""
    secret = secret.strip()
    for decode in (bytes.fromhex, _base64):
        try:
            key = decode(secret)
        except (ValueError, binascii.Error):
            continue
        if len(key) == _KEY_BYTES:
            return key
    return hashlib.scrypt(secret.encode(), salt=_PASSPHRASE_SALT, n=2**14, r=8, p=1, dklen=_KEY_BYTES)


def _base64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"patchbay key id" + key).digest()[:_ID_BYTES]
