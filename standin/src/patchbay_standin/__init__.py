"""A scripted provider that speaks the Anthropic, OpenAI, ChatGPT and CodeBuddy protocols on loopback."""

from __future__ import annotations

from patchbay_standin.app import Standin
from patchbay_standin.oauth import Account, AccountReport, DeviceFlow, Quota, RefreshFault, Tokens
from patchbay_standin.records import RecordedRequest, Stats
from patchbay_standin.scenarios import SCENARIOS
from patchbay_standin.script import (
    ErrorEvent,
    ErrorReply,
    RedactedThinking,
    Refusal,
    Script,
    ScriptError,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
    Usage,
    read_script,
    write_script,
)
from patchbay_standin.server import running

__all__ = [
    "SCENARIOS",
    "Account",
    "AccountReport",
    "DeviceFlow",
    "ErrorEvent",
    "ErrorReply",
    "Quota",
    "RecordedRequest",
    "RedactedThinking",
    "RefreshFault",
    "Refusal",
    "Script",
    "ScriptError",
    "ServerToolUse",
    "Standin",
    "Stats",
    "Text",
    "Thinking",
    "Tokens",
    "ToolCall",
    "Usage",
    "read_script",
    "running",
    "write_script",
]
