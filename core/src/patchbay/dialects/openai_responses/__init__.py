"""OpenAI's Responses API, as spoken by OpenAI's platform, by the ChatGPT backend and by compatible servers."""

from patchbay.dialects.base import Dialect
from patchbay.dialects.openai_responses._echo import echo_of
from patchbay.dialects.openai_responses._edit_native import edit_native, without_reasoning
from patchbay.dialects.openai_responses._errors import ERRORS
from patchbay.dialects.openai_responses._quirks import CHATGPT, NAME, OpenAIResponsesQuirks
from patchbay.dialects.openai_responses._read_events import read_events
from patchbay.dialects.openai_responses._read_request import read_request
from patchbay.dialects.openai_responses._write_events import write_events
from patchbay.dialects.openai_responses._write_request import write_request
from patchbay.dialects.openai_responses.recording import RecordedResponse, ResponseRecorder

__all__ = [
    "CHATGPT",
    "DIALECT",
    "OpenAIResponsesQuirks",
    "RecordedResponse",
    "ResponseRecorder",
    "echo_of",
    "without_reasoning",
]

DIALECT: Dialect[OpenAIResponsesQuirks] = Dialect(
    name=NAME,
    read_request=read_request,
    write_request=write_request,
    read_events=read_events,
    write_events=write_events,
    errors=ERRORS,
    quirks=OpenAIResponsesQuirks(),
    edit_native=edit_native,
)
