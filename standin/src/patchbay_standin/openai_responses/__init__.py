"""The OpenAI Responses API: https://platform.openai.com/docs/api-reference/responses"""

from __future__ import annotations

from patchbay_standin.openai_responses.call import ResponsesCall
from patchbay_standin.openai_responses.endpoints import ResponsesEndpoints
from patchbay_standin.openai_responses.shelf import ConnectionMemory, Shelf

__all__ = ["ConnectionMemory", "ResponsesCall", "ResponsesEndpoints", "Shelf"]
