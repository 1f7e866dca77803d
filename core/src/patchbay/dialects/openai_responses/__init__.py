"""OpenAI's Responses API, as spoken by OpenAI's platform, by the ChatGPT backend and by compatible servers."""

from patchbay.dialects.openai_responses._echo import echo_of
from patchbay.dialects.openai_responses._errors import ERRORS
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.openai_responses._read_events import read_events
from patchbay.dialects.openai_responses._write_events import write_events

__all__ = ["ERRORS", "NAME", "echo_of", "read_events", "write_events"]
