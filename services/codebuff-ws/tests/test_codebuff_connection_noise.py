"""Frames that no client would send: each is done, nothing crashes, and others are served."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from sockets import CONTEXTS, ScriptedLoop, prompt_action, replica, say_hello
from structlog.testing import capture_logs

from patchbay.settings import Settings
from patchbay_codebuff_ws.ports import Client, Prompt, PromptResult

SettingsWith = Callable[..., Settings]

_FRAMES = 400
_KINDS = (
    "prompt",
    "init",
    "read-files-response",
    "tool-call-response",
    "mcp-tool-data",
    "cancel-user-input",
    "user-input",
    "generate-commit-message",
    "usage",
    "unknown",
)


def _value(chance: random.Random, depth: int = 0) -> Any:
    match chance.randrange(9 if depth < 3 else 7):
        case 0:
            return None
        case 1:
            return chance.choice((True, False))
        case 2:
            return chance.choice((0, -1, 2**70, -(2**70), 10**400, 1.5, 1e300))
        case 3 | 4 | 5:
            return chance.choice(("", "p1", "x" * 1_000, "\ud83d", "\x00\u2028", "../../etc/passwd", "a/b.py"))
        case 6:
            return chance.choice(CONTEXTS)
        case 7:
            return [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(("type", "role", "content", "a.py", "")): _value(chance, depth + 1) for _ in range(3)}


def _frame(chance: random.Random) -> str:
    data: dict[str, Any] = {**prompt_action(f"p{chance.randrange(9)}"), "type": chance.choice(_KINDS)}
    fields = (*data, "requestId", "output", "files", "tools", "fileContext", "messages", "userInputId", "content")
    for _ in range(chance.randrange(5)):
        data[chance.choice(fields)] = _value(chance)
    message: dict[str, Any] = {"type": "action", "txid": chance.randrange(99), "data": data}
    if not chance.randrange(3):
        kind = chance.choice(("ping", "identify", "subscribe", "unsubscribe", "action", "", 7))
        message = {"type": kind, **{name: _value(chance) for name in ("txid", "topics", "clientSessionId", "data")}}
    text = json.dumps(message)
    if not chance.randrange(4):
        text = text[: chance.randrange(len(text) + 1)]
    return text.replace("\x00", chance.choice(("", "\x01")))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_noise_harms_nobody(settings_with: SettingsWith, seed: int) -> None:
    chance = random.Random(seed)

    async def ask(prompt: Prompt, client: Client) -> PromptResult:
        if prompt.text == "quick":
            return await say_hello(prompt, client)
        await client.read_files(["a.py"])
        await client.call_tool("my_tool", {}, user_input_id=prompt.prompt_id, timeout_seconds=0.01)
        return await say_hello(prompt, client)

    settings = settings_with(codebuff={"request_timeout_seconds": 0.05, "legacy_protocol": bool(seed % 2)})
    with capture_logs() as logs:
        async with replica(settings, loop=ScriptedLoop([ask])) as serving:
            async with serving.socket("noisy") as noisy, serving.socket("other") as other:
                for _ in range(_FRAMES):
                    await noisy.say(_frame(chance))
                await noisy.until(lambda message: message.frames_done.number == _FRAMES)
                await other.prompt("p1", text="quick")
                assert (await other.until_ended())["type"] == "prompt-response"
                await noisy.prompt("last", text="quick")
                assert (await noisy.until_ended("last"))["type"] == "prompt-response"
                acks = [frame for frame in noisy.frames() if frame["type"] == "ack"]
                assert len(acks) == _FRAMES + 1
                assert not any("error" in ack for ack in acks)
            await serving.idle()
    assert [entry for entry in logs if entry["log_level"] in ("error", "critical")] == []
    begun = [message.prompt_begun.prompt_id for message in noisy.received if message.HasField("prompt_begun")]
    ended = [message.frame.prompt_id for message in noisy.received if message.frame.ends_prompt]
    # What has ended has begun, as often; the last of them may still run.
    assert all(ended.count(prompt_id) <= begun.count(prompt_id) for prompt_id in ended)
