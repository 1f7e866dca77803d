"""Encrypted content: reasoning and compacted history that only the account it was made for may bring back.

The API's own begins with `gAAAA` (Fernet). Ours does too, and holds whom it was made for and a digest of what it says.
Other content that begins so is taken: a script's own, or that of a recording.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Final

from patchbay_standin.errors import ProviderError

PREFIX: Final = "gAAAA"

# Decodes to bytes whose first are Fernet's version and the high bytes of its time.
_MARK: Final = base64.urlsafe_b64decode("gAAAAABzdGFuZGlu")
_TAG_SIZE: Final = 9


def seal(text: str, owner: str) -> str:
    """Encrypted content that says `text` to whom it belongs."""
    # Two digests and mark and tag: a length that base64 needs no padding for.
    return base64.urlsafe_b64encode(_MARK + _tag(owner) + hashlib.sha384(text.encode()).digest() * 2).decode()


def check_sealed(contents: Iterable[str], owner: str) -> None:
    """Refuses content that was made for another, or by another provider."""
    for content in contents:
        if not content.startswith(PREFIX):
            raise _refused(
                content, "could not be verified. Reason: Encrypted content could not be decrypted or parsed."
            )
        made_for = _owner_tag(content)
        if made_for is not None and made_for != _tag(owner):
            raise _refused(
                content,
                "could not be verified. Reason: Encrypted content organization_id did not match the target"
                " organization.",
            )


def _tag(owner: str) -> bytes:
    return hashlib.sha256(owner.encode()).digest()[:_TAG_SIZE]


def _owner_tag(content: str) -> bytes | None:
    try:
        data = base64.urlsafe_b64decode(content)
    except (binascii.Error, ValueError):
        return None
    return data[len(_MARK) :][:_TAG_SIZE] if data.startswith(_MARK) else None


def _refused(content: str, reason: str) -> ProviderError:
    shown = content if len(content) <= 16 else f"{content[:4]}...{content[-4:]}"
    return ProviderError(
        status=400,
        message=f"The encrypted content {shown} {reason}",
        type="invalid_request_error",
        code="invalid_encrypted_content",
    )
