"""Which model answers which agent."""

from __future__ import annotations

from patchbay.settings.codebuff import CodebuffModels


def choose_model(models: CodebuffModels, *, agent_id: str, cost_mode: str, own: str) -> str:
    """The model that answers an agent: the configured one of the agent, of the cost mode, or of all; else its own."""
    return models.agents.get(agent_id) or models.cost_modes.get(cost_mode) or models.default or own
