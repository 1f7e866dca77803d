"""The Messages API of Anthropic, as client and as upstream: https://platform.claude.com/docs/en/api/messages"""

from patchbay.dialects.anthropic._errors import ERRORS
from patchbay.dialects.anthropic._native import edit_native
from patchbay.dialects.anthropic._quirks import NAME, AnthropicQuirks
from patchbay.dialects.anthropic._read_events import read_events
from patchbay.dialects.anthropic._read_request import read_request
from patchbay.dialects.anthropic._write_events import write_events
from patchbay.dialects.anthropic._write_request import write_request
from patchbay.dialects.base import Dialect

__all__ = ["DIALECT", "AnthropicQuirks"]

DIALECT: Dialect[AnthropicQuirks] = Dialect(
    name=NAME,
    read_request=read_request,
    write_request=write_request,
    read_events=read_events,
    write_events=write_events,
    errors=ERRORS,
    quirks=AnthropicQuirks(),
    edit_native=edit_native,
)
