"""The built-in scenarios: scripts chosen by model name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from patchbay_standin.script import ErrorEvent, ErrorReply, Script, Text, Thinking, ToolCall

PREFIX: Final = "standin-"

_ERROR_STATUSES: Final = (400, 401, 403, 404, 413, 429, 500, 503, 529)

_WEATHER = ToolCall(name="get_weather", input={"city": "Lisbon", "unit": "celsius"})
_TIME = ToolCall(name="get_time", input={"zone": "Europe/Lisbon"})


def _error_scenarios() -> dict[str, Script]:
    scripts = {}
    for status in _ERROR_STATUSES:
        retry_after = 1.0 if status in (429, 503, 529) else None
        scripts[f"{PREFIX}error-{status}"] = Script(error=ErrorReply(status=status, retry_after=retry_after))
    return scripts


SCENARIOS: Final[Mapping[str, Script]] = MappingProxyType(
    {
        "standin-echo": Script(),
        "standin-slow": Script(delta_delay_ms=100),
        "standin-slow-first-byte": Script(first_byte_delay_ms=3000),
        "standin-slow-first-event": Script(first_event_delay_ms=3000),
        "standin-thinking": Script(
            blocks=[
                Thinking(text="The question is simple, so a short answer will do."),
                Text(text="After some thought: yes."),
            ]
        ),
        "standin-tool": Script(blocks=[Text(text="Let me look that up."), _WEATHER]),
        "standin-parallel-tools": Script(blocks=[Text(text="Two look-ups at once."), _WEATHER, _TIME]),
        "standin-json": Script(text='{"answer": 42, "unit": "apples", "ready": true}'),
        "standin-refusal": Script(stop_reason="refusal", text="I cannot help with that."),
        "standin-max-tokens": Script(text="This sentence is cut off in the", stop_reason="max_tokens"),
        "standin-overloaded-in-stream": Script(error_event=ErrorEvent(after=0, status=529)),
        "standin-error-in-stream": Script(deltas=20, error_event=ErrorEvent(after=5, status=500)),
        "standin-silence": Script(deltas=20, silence_after=3),
        "standin-silence-at-once": Script(deltas=20, silence_after=0),
        "standin-cut": Script(deltas=20, cut_after=5),
        "standin-cut-before-head": Script(cut_after=-1),
        "standin-huge": Script(huge=16),
        "standin-bench-paced": Script(deltas=100, delta_delay_ms=5),
        "standin-bench-burst": Script(deltas=100),
        "standin-bench-burst-split": Script(deltas=100, separate_sends=True),
        **_error_scenarios(),
    }
)
