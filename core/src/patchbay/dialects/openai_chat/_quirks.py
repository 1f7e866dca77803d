"""What servers of the Chat Completions protocol differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

# The dialect's name: in the registry, and of what it leaves in extensions and opaque blocks.
NAME: Final = "openai_chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIChatQuirks:
    """One server's ways. The defaults are those of api.openai.com."""

    # Where the output limit goes; older servers know only `max_tokens`.
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    # How reasoning is asked for: OpenAI's `reasoning_effort`, OpenRouter's `reasoning` object, or not at all.
    reasoning_field: Literal["reasoning_effort", "reasoning"] | None = "reasoning_effort"
    # The efforts the server knows, weakest first; another one becomes the nearest of these.
    efforts: tuple[str, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    # The effort that stands for "do not think" when the client said only that; None: nothing is sent, since models that
    # cannot think refuse the parameter.
    disabled_effort: str | None = None
    # The field in which the server wants a model's earlier thinking back. None: it takes none, and thinking is left
    # out without a warning: no server of this kind can use another provider's, and clients always send it.
    echo_reasoning: Literal["reasoning_content", "reasoning", "reasoning_details"] | None = None
    system_role: Literal["system", "developer"] = "system"
    # Whether a developer message inside the conversation may stay one; else it becomes a system message.
    developer_role: bool = True
    # Sent as the system message when the chat has none, for servers that require one.
    system_required: str | None = None
    # Content that is only text goes as one string, for servers that do not know text parts.
    joined_text: bool = False
    # Whether the server fetches a document from its address, given as OpenRouter wants it, in `file_data`.
    document_urls: bool = False
    # Whether the server takes Anthropic's `cache_control` marks.
    cache_control: bool = False
    top_k: bool = False
    # How many stop sequences the server takes; None: any number.
    max_stop: int | None = 4
    # Ask for a usage report in every stream, whatever the client asked, so that its cost is known.
    stream_usage: bool = True
    # Tool names longer than this are shortened; the answer's names are turned back.
    max_tool_name: int = 64
    # Longer ids are shortened, the same way in a call and in its result: other providers' are longer than OpenAI's.
    max_tool_call_id: int = 40
    # A longer `user` is shortened: Claude Code's is.
    max_user: int = 64
    # Whether the server wants the `extra_content` of its tool calls back, as Gemini does.
    tool_extra_content: bool = False
    # With it, the `extra_content` of calls that other models made, as JSON; Google documents one for Gemini.
    default_extra_content: str | None = None
    # Whether the server has custom tools, whose input is free text; else they are functions with one string.
    custom_tools: bool = True
    # Top-level parameters the server refuses; dropped with a warning.
    unsupported: frozenset[str] = frozenset()
