"""What is wrong with an answer that OpenAI's dialects cannot read, or cannot write to its end."""

from __future__ import annotations

from patchbay import errors
from patchbay.canonical import Error
from patchbay.errors import make_error


def unreadable(error: Exception) -> Error:
    return make_error(errors.UPSTREAM, f"The upstream's answer cannot be read: {error}")


def too_large() -> Error:
    return make_error(errors.UPSTREAM, "The upstream's answer has a part that is too large.", retryable=False)


def cut_short() -> Error:
    return make_error(errors.UPSTREAM, "The upstream's answer ended before it was complete.")


def unfinished() -> Error:
    """The answer as it came from the worker."""
    return make_error(errors.UPSTREAM, "The answer ended before it was complete.")
