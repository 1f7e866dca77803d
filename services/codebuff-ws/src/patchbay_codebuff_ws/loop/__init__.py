"""The loop of Codebuff's agents: their prompts, steps, tools and sub-agents."""

from __future__ import annotations

from patchbay.codebuff.agents import builtin_agents, read_definition
from patchbay.settings import Settings
from patchbay.state.codebuff_runs import CodebuffRuns
from patchbay.worker.runtime import Shared
from patchbay_codebuff_ws.loop.prompt_loop import AgentLoop
from patchbay_codebuff_ws.loop.sandbox import Sandbox
from patchbay_codebuff_ws.models import Dispatch
from patchbay_codebuff_ws.ports import Loop

__all__ = ["make_loop"]


def make_loop(settings: Settings, shared: Shared) -> Loop:
    """The loop of one replica; it asks models through the workers that are announced in its Redis."""
    return AgentLoop(
        settings.codebuff,
        models=Dispatch(settings, shared.redis),
        runs=CodebuffRuns(
            shared.redis,
            ttl_seconds=settings.codebuff.runs_ttl_seconds,
            timeout=settings.redis.timeout_seconds,
        ),
        steps=Sandbox(settings.codebuff.steps),
        builtin=builtin_agents(),
        read=read_definition,
    )
