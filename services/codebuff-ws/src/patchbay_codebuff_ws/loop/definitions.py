"""Which agents a prompt may run: those that its client brings, and those that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from patchbay.errors import INVALID_REQUEST, NOT_FOUND, PatchbayError, make_error
from patchbay_codebuff_ws.loop.state import Project
from patchbay_codebuff_ws.ports import JsonObject


class Definition(Protocol):
    """What the loop reads of an agent's definition (`patchbay.codebuff.agents`)."""

    @property
    def id(self) -> str: ...
    @property
    def display_name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def reasoning_options(self) -> Any: ...
    @property
    def mcp_servers(self) -> Any: ...
    @property
    def tool_names(self) -> Sequence[str]: ...
    @property
    def spawnable_agents(self) -> Sequence[str]: ...
    @property
    def input_schema(self) -> Any: ...
    @property
    def include_message_history(self) -> bool: ...
    @property
    def output_mode(self) -> str: ...
    @property
    def output_schema(self) -> Any: ...
    @property
    def spawner_prompt(self) -> str | None: ...
    @property
    def system_prompt(self) -> str: ...
    @property
    def instructions_prompt(self) -> str: ...
    @property
    def step_prompt(self) -> str: ...
    @property
    def inherit_parent_system_prompt(self) -> bool: ...
    @property
    def handle_steps(self) -> str | None: ...


# Of names in what a model is told: a client may bring any number of agents, with names of any length.
_MOST_NAMES = 50
_LONGEST_NAME = 100

_BY_COST_MODE = {"ask": "ask", "lite": "base-lite", "max": "base-max", "experimental": "base2"}
_DEFAULT = "base"


class Catalog:
    """The agents of one prompt.

    Args:
        read: Reads a definition, raising ValueError for one that is wrong.
    """

    def __init__(
        self, project: Project, builtin: Mapping[str, Definition], read: Callable[[JsonObject], Definition]
    ) -> None:
        self._builtin = builtin
        self._local: dict[str, Definition] = {}
        self.problems: dict[str, str] = {}
        for key, raw in project.templates.items():
            given = {"id": key, **raw}
            try:
                self._local[given["id"]] = read(given)
            except ValueError as error:
                self.problems[str(given["id"])] = str(error)

    @property
    def local_ids(self) -> list[str]:
        """Those that the client brings."""
        return list(self._local)

    def get(self, agent_id: str) -> Definition | None:
        """See `find`; None: there is none, or its definition is wrong."""
        publisher, name, _ = id_parts(agent_id)
        found = self._local.get(agent_id) or self._local.get(name)
        wrong = agent_id in self.problems or name in self.problems
        if found is None and not wrong and publisher in ("", "codebuff"):
            found = self._builtin.get(name)
        return found

    def find(self, agent_id: str) -> Definition:
        """An agent by `id` or `publisher/id@version`.

        Raises:
            PatchbayError: There is none, or its definition is wrong.
        """
        found = self.get(agent_id)
        if found is not None:
            return found
        _, name, _ = id_parts(agent_id)
        if problem := self.problems.get(agent_id) or self.problems.get(name):
            message = f"the agent `{name[:_LONGEST_NAME]}` is not defined well: {problem}"
            raise PatchbayError(make_error(INVALID_REQUEST, message, parameter="agentId"))
        known = listed(sorted({*self._local, *self._builtin}))
        message = f"there is no agent `{agent_id[:_LONGEST_NAME]}` (agents here: {known})"
        raise PatchbayError(make_error(NOT_FOUND, message, parameter="agentId"))

    def choose(self, agent_id: str | None, cost_mode: str, project: Project) -> Definition:
        """The agent of a prompt: the one asked for, else the project's, else that of the cost mode.

        Raises:
            PatchbayError: See `find`.
        """
        base = project.config.get("baseAgent")
        if agent_id is None and isinstance(base, str) and base:
            agent_id = base
        return self.find(agent_id or _BY_COST_MODE.get(cost_mode, _DEFAULT))


def listed(names: Sequence[str]) -> str:
    """Names, for a model to read: no more of them than one would want to."""
    more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*(name[:_LONGEST_NAME] for name in names[:_MOST_NAMES]), *more]) or "none"


def id_parts(agent_id: str) -> tuple[str, str, str]:
    """Publisher, id and version; the first and the last may be empty."""
    publisher, slash, rest = agent_id.rpartition("/")
    name, _, version = rest.partition("@")
    return (publisher if slash else ""), name, version


def may_spawn(spawnable: Sequence[str], agent_id: str) -> bool:
    """Whether an agent is among those that may be started. Publisher and version count where both sides name them."""
    asked = id_parts(agent_id)
    for one in spawnable:
        publisher, name, version = id_parts(one)
        same_publisher = not asked[0] or not publisher or asked[0] == publisher
        same_version = not asked[2] or not version or asked[2] == version
        if name == asked[1] and same_publisher and same_version:
            return True
    return False
