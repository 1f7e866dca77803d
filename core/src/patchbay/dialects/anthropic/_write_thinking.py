"""Writes thinking, effort and sampling, which the API allows only in certain company.

Rules: https://platform.claude.com/docs/en/build-with-claude/extended-thinking ("feature compatibility") and
https://platform.claude.com/docs/en/build-with-claude/effort
"""

from __future__ import annotations

from patchbay.canonical import Chat, Reasoning, ToolChoice
from patchbay.dialects.anthropic._json import Object
from patchbay.dialects.anthropic._quirks import ModelFeatures
from patchbay.dialects.anthropic._write_blocks import type_of
from patchbay.dialects.request_warnings import Warnings

# What an effort is worth in tokens to a model that takes a budget. At most three quarters of `max_tokens` are spent.
_BUDGETS = {"minimal": 1_024, "low": 4_096, "medium": 10_000, "high": 24_000, "xhigh": 32_000, "max": 48_000}
_SMALLEST_BUDGET = 1_024
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_FORCED = (ToolChoice.MODE_ANY, ToolChoice.MODE_TOOL)
_WITH_THINKING = "is not supported together with thinking"


class ThinkingWriter:
    """Decides how the model is to think, and what of the sampling can stand beside it.

    What the client said in the API's own terms (`thinking`) is kept wherever the model takes it. An effort without
    them, as OpenAI clients say it, becomes `output_config.effort` with adaptive thinking, or for an older model a
    budget. How much to think is honoured as nearly as the model can (`patchbay.dialects.hints`); only where it is
    not to think at all is there a warning.

    Args:
        messages: The conversation as written: a budget is refused when the turn that goes on began without thinking.
    """

    def __init__(self, chat: Chat, features: ModelFeatures, warnings: Warnings, *, messages: list[Object]) -> None:
        self._chat = chat
        self._features = features
        self._warnings = warnings
        self._messages = messages
        self._reasoning = chat.reasoning
        # The client's word for what it asked.
        self._parameter = "thinking" if chat.reasoning.mode else "reasoning_effort"

    def thinking(self, max_tokens: int) -> Object:
        """The value of `thinking`; empty: the request does not say it."""
        written = self._asked(max_tokens)
        if not written or written["type"] == "disabled":
            return written
        if self._chat.tool_choice.mode in _FORCED and self._chat.tools:
            self._warnings.dropped(self._parameter, "is not supported together with a forced tool choice")
            return {}
        if written["type"] == "enabled" and self._goes_on_without_thinking():
            return {}
        if self._reasoning.HasField("display"):
            written["display"] = self._reasoning.display
        return written

    def effort(self) -> str | None:
        """The value of `output_config.effort`."""
        asked = self._reasoning.effort
        allowed = self._features.efforts
        if not asked or (asked == "none" and self._features.disabled_thinking):
            return None
        if not allowed:
            return None
        if asked in allowed:
            return asked
        if asked in ("none", "minimal"):
            return allowed[0]
        if asked not in _EFFORTS:
            self._warnings.dropped(self._parameter, f"{asked} is not supported by this backend")
            return None
        return max((name for name in allowed if _EFFORTS.index(name) < _EFFORTS.index(asked)), key=_EFFORTS.index)

    def sampling(self, thinking: Object) -> Object:
        """`temperature`, `top_p` and `top_k`, as far as they may be said beside `thinking`."""
        sampling = self._chat.sampling
        asked = [name for name in ("temperature", "top_p", "top_k") if sampling.HasField(name)]
        if not self._features.sampling:
            for name in asked:
                self._warnings.dropped(name, "is not supported by this model")
            return {}
        thinks = bool(thinking) and thinking["type"] != "disabled"
        written: Object = {}
        if sampling.HasField("temperature"):
            self._temperature(written, thinks=thinks)
        if sampling.HasField("top_p"):
            self._top_p(written, thinks=thinks)
        if sampling.HasField("top_k"):
            if thinks:
                self._warnings.dropped("top_k", _WITH_THINKING)
            else:
                written["top_k"] = sampling.top_k
        return written

    def _temperature(self, written: Object, *, thinks: bool) -> None:
        temperature = self._chat.sampling.temperature
        if thinks and temperature != 1:
            self._warnings.dropped("temperature", _WITH_THINKING)
            return
        if temperature > 1:
            self._warnings.add("temperature", "a temperature above 1 is not supported by this backend; 1 is used")
            temperature = 1
        written["temperature"] = temperature

    def _top_p(self, written: Object, *, thinks: bool) -> None:
        top_p = self._chat.sampling.top_p
        if thinks and top_p < 0.95:
            self._warnings.dropped("top_p", "below 0.95 " + _WITH_THINKING)
        elif "temperature" in written and not self._features.temperature_with_top_p:
            self._warnings.dropped("top_p", "is not supported together with temperature by this model")
        else:
            written["top_p"] = top_p

    def _asked(self, max_tokens: int) -> Object:
        match self._reasoning.mode:
            case Reasoning.MODE_DISABLED:
                return self._disabled()
            case Reasoning.MODE_ADAPTIVE:
                return self._adaptive(max_tokens)
            case Reasoning.MODE_ENABLED:
                return self._enabled(max_tokens)
        if self._reasoning.effort == "none":
            return self._disabled() if self._features.thinks_by_default else {}
        if self._reasoning.HasField("budget_tokens"):
            return self._enabled(max_tokens)
        # A model that thinks by itself needs only the effort, if anything; and to be told to show it.
        if self._features.thinks_by_default:
            return self._adaptive(max_tokens) if self._reasoning.HasField("display") else {}
        if not self._reasoning.effort:
            return {}
        return self._adaptive(max_tokens)

    def _disabled(self) -> Object:
        return {"type": "disabled"} if self._features.disabled_thinking else {}

    def _adaptive(self, max_tokens: int) -> Object:
        if self._features.adaptive_thinking:
            return {"type": "adaptive"}
        return self._budget(_BUDGETS.get(self._reasoning.effort or "high", _BUDGETS["high"]), max_tokens)

    def _enabled(self, max_tokens: int) -> Object:
        if not self._features.budget_thinking and self._features.adaptive_thinking:
            return {"type": "adaptive"}
        if not self._reasoning.HasField("budget_tokens"):
            return self._adaptive(max_tokens)
        # The client's own budget is the client's to get right.
        if self._features.budget_thinking:
            return {"type": "enabled", "budget_tokens": self._reasoning.budget_tokens}
        return self._budget(0, max_tokens)

    def _budget(self, budget: int, max_tokens: int) -> Object:
        budget = min(budget, max_tokens * 3 // 4)
        if not self._features.budget_thinking:
            self._warnings.dropped(self._parameter, "is not supported by this model")
            return {}
        if budget < _SMALLEST_BUDGET:
            self._warnings.dropped(self._parameter, "leaves no room for an answer within max_tokens")
            return {}
        return {"type": "enabled", "budget_tokens": budget}

    def _goes_on_without_thinking(self) -> bool:
        """Whether the answer goes on with a turn of the assistant that did not begin with thinking.

        The API refuses a budget then. A turn begins behind the last message of the user that holds no tool results.
        """
        begins: Object | None = None
        # Whether the user's messages since then hold results; None: there are none. In a row they are one to the API.
        has_result: bool | None = None
        for message in reversed(self._messages):
            if message["role"] == "assistant":
                if has_result is False:
                    break
                begins, has_result = message, None
            elif message["role"] == "user":
                has_result = bool(has_result) or "tool_result" in _types(message)
        return begins is not None and _types(begins)[:1] not in (["thinking"], ["redacted_thinking"])


def _types(message: Object) -> list[str]:
    content = message["content"]
    return [type_of(block) for block in content] if isinstance(content, list) else []
