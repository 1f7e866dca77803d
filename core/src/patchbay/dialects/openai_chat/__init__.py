"""OpenAI Chat Completions, as spoken by OpenAI and by everyone who is compatible with it."""

from patchbay.dialects.base import Dialect
from patchbay.dialects.openai_chat._errors import ERRORS
from patchbay.dialects.openai_chat._native import edit_native
from patchbay.dialects.openai_chat._quirks import NAME, OpenAIChatQuirks
from patchbay.dialects.openai_chat._read_events import read_events
from patchbay.dialects.openai_chat._read_request import read_request
from patchbay.dialects.openai_chat._write_events import write_events
from patchbay.dialects.openai_chat._write_request import write_request

__all__ = ["DIALECT", "OpenAIChatQuirks"]

DIALECT: Dialect[OpenAIChatQuirks] = Dialect(
    name=NAME,
    read_request=read_request,
    write_request=write_request,
    read_events=read_events,
    write_events=write_events,
    errors=ERRORS,
    quirks=OpenAIChatQuirks(),
    edit_native=edit_native,
)
