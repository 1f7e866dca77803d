"""What a model is asked in one step of an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from patchbay.canonical import ROLE_USER, Block, CacheMark, Chat, Message, Reasoning, Text
from patchbay.canonical import Tool as CanonicalTool
from patchbay_codebuff_ws.loop.history import canonical, system_notice
from patchbay_codebuff_ws.loop.prune import text_tokens
from patchbay_codebuff_ws.ports import JsonObject


@dataclass(frozen=True)
class Request:
    """All of it but the conversation.

    Attributes:
        step_prompt: Comes last, and is said anew in each step; empty: there is none.
        reasoning: The options of the agent's definition, in its names.
    """

    system: str
    step_prompt: str
    tools: Sequence[CanonicalTool]
    reasoning: JsonObject

    def overhead(self) -> int:
        """About how many tokens it takes of the model's window."""
        return text_tokens(self.system + self.step_prompt) + sum(
            text_tokens(tool.function.input_schema_json + tool.function.description) for tool in self.tools
        )

    def chat(self, history: Sequence[JsonObject], *, model: str) -> Chat:
        """The request, with the conversation so far."""
        messages = canonical(history, model=model)
        # Marked before the step's prompt, which is another one in the next step.
        if messages and messages[-1].role == ROLE_USER:
            messages[-1].blocks[-1].cache.CopyFrom(CacheMark())
        if self.step_prompt or not messages or messages[-1].role != ROLE_USER:
            block = Block(text=Text(text=self.step_prompt or system_notice("Go on.")))
            if messages and messages[-1].role == ROLE_USER:
                messages[-1].blocks.append(block)
            else:
                messages.append(Message(role=ROLE_USER, blocks=[block]))
        chat = Chat(messages=messages, tools=self.tools, stream=True, include_usage=True)
        if self.system:
            chat.system.append(Block(text=Text(text=self.system), cache=CacheMark()))
        _set_reasoning(chat, self.reasoning)
        return chat


def _set_reasoning(chat: Chat, options: JsonObject) -> None:
    if options.get("enabled") is False or options.get("effort") == "none":
        chat.reasoning.mode = Reasoning.MODE_DISABLED
        return
    if isinstance(options.get("effort"), str):
        chat.reasoning.effort = options["effort"]
    if isinstance(options.get("max_tokens"), int):
        chat.reasoning.budget_tokens = options["max_tokens"]
    if chat.HasField("reasoning") or options.get("enabled") is True:
        chat.reasoning.mode = Reasoning.MODE_ENABLED
