"""The ways from a client to a model: straight to the stand-in, or through Patchbay to each of its upstreams.

A test that runs over all of them says by its `direct` case that the stand-in really answers so, and by the others that
Patchbay changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from patchbay_standin import RecordedRequest, Script, write_script
from patchbay_standin.script import MODEL_PREFIX
from patchbay_standin.testing import StandinProcess

# How the official SDKs can be asked: blocking or not, the answer whole or streamed. Each of both, in one of two ways:
# an SDK's two kinds of client differ in how they wait, and share what they make of an answer.
MODES = ("sync", "async-stream")

# A picture of one pixel, and the smallest thing that passes for a PDF.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = "JVBERi0xLjEKJSVFT0YK"

WEATHER_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Way:
    """One way to the stand-in.

    Attributes:
        url: The base URL, without `/v1`.
        backend: The backend that models are addressed by; empty: the stand-in itself is asked.
        upstream: The protocol that the stand-in sees: `anthropic`, `openai` or `codebuddy`.
    """

    url: str
    backend: str
    upstream: str

    @property
    def direct(self) -> bool:
        return not self.backend

    def model(self, name: str) -> str:
        """The name by which a client asks for the stand-in's model `name`."""
        return name if self.direct else f"{self.backend}/{name}"

    def scripted(self, script: Script) -> str:
        """A model that answers as the script says."""
        return self.model(script_model(script))


def script_model(script: Script) -> str:
    """The model name that is a script, as the stand-in sees it."""
    return MODEL_PREFIX + write_script(script).decode()


def streams(mode: str) -> bool:
    """Whether a mode of `MODES` streams the answer."""
    return mode.endswith("stream")


def only(upstream: StandinProcess) -> RecordedRequest:
    """The one request that the stand-in got since the test began."""
    (request,) = upstream.requests()
    return request
