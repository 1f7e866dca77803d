"""Names and ids of tool calls, in the lengths and letters that a server takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from patchbay.canonical import Chat, Tool

_DIGEST_LENGTH = 8


def fitted(text: str, maximum: int | None = None, forbidden: re.Pattern[str] | None = None) -> str:
    """The text as it is, if it may be; else cut and cleaned, and told apart by a digest. The same every time.

    Args:
        maximum: The longest allowed; None: any length.
        forbidden: What no character may be; with it, the text may not be empty either.
    """
    fits = maximum is None or len(text) <= maximum
    if fits and (forbidden is None or (text and not forbidden.search(text))):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    if forbidden is not None:
        text = forbidden.sub("_", text)
    if maximum is not None:
        text = text[: maximum - _DIGEST_LENGTH - 1]
    return f"{text}_{digest}"


_NAME = b'"name"'
_VALUE = re.compile(rb'\s*+:\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)


def has_longer_name(body: bytes, maximum: int) -> bool:
    """Whether a field `name` anywhere in a JSON text is longer than `maximum` characters."""
    position = body.find(_NAME)
    while position >= 0:
        value = _VALUE.match(body, position + len(_NAME))
        if value is not None and len(value[1]) > maximum:
            name = msgspec.json.decode(body[value.start(1) - 1 : value.end(1) + 1], type=str)
            if len(name) > maximum:
                return True
        position = body.find(_NAME, position + len(_NAME))
    return False


class ClientTool(NamedTuple):
    """A tool as the client knows it."""

    name: str
    namespace: str = ""
    # Its input is free text, which the upstream is asked for as an object with that text as `input`.
    is_wrapped: bool = False


class UpstreamTool(NamedTuple):
    """A tool as the upstream is told of it."""

    name: str
    # Empty where the upstream has no namespaces: there the name begins with it.
    namespace: str = ""
    # Its input is free text; a custom tool of the client that is none here is wrapped in a function.
    is_custom: bool = False


class ToolNames:
    """What each of the client's tools is called upstream; no two are called the same.

    Args:
        tools: The tools of the chat. They get their names first, so that what a call in the conversation is called does
            not depend on the calls around it.
        maximum, forbidden: As for `fitted`.
        custom: Whether the upstream has custom tools.
        namespaces: Whether the upstream has namespaces.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        maximum: int,
        forbidden: re.Pattern[str] | None = None,
        *,
        custom: bool = False,
        namespaces: bool = False,
    ) -> None:
        self._maximum = maximum
        self._forbidden = forbidden
        self._custom = custom
        self._namespaces = namespaces
        self._known: dict[_Key, UpstreamTool] = {}
        # The namespaces of the chat's tools: (name, custom) -> those with such a tool.
        self._homes: dict[tuple[str, bool], set[str]] = {}
        self._taken: set[UpstreamTool] = set()
        self._taken_names: set[str] = set()
        # Name upstream -> the client's tool.
        self.changed: dict[str, ClientTool] = {}
        for tool in tools:
            key = _key_of(tool)
            if key is not None:
                self._register(key)

    def of(self, name: str, namespace: str = "", *, custom: bool = False) -> UpstreamTool:
        """The upstream's word for a tool, whether or not it is one of the chat's."""
        return self._name(self._key(name, namespace, custom))

    def offers(self, name: str, namespace: str = "", *, custom: bool = False) -> bool:
        """Whether the tool is one of the chat's."""
        key = self._key(name, namespace, custom)
        return key.namespace in self._homes.get((key.name, key.custom), ())

    def allowed(self, chat: Chat) -> Iterable[Tool]:
        """The tools that the chat's choice allows, for an upstream that has no word for a choice among some.

        It reads the tools before all else, so that another choice in the next turn finds less in its cache.
        """
        choice = chat.tool_choice.allowed
        if not choice:
            return chat.tools
        keys = {self._key(one.name, one.namespace, one.custom) for one in choice}
        return [tool for tool in chat.tools if _key_of(tool) in keys]

    def _register(self, key: _Key) -> None:
        self._homes.setdefault((key.name, key.custom), set()).add(key.namespace)
        self._name(key)

    def _key(self, name: str, namespace: str, custom: bool) -> _Key:
        # Models leave a namespace out where the name alone says which tool is meant.
        homes = self._homes.get((name, custom), ())
        if not namespace and len(homes) == 1:
            (namespace,) = homes
        return _Key(name, namespace, custom)

    def _name(self, key: _Key) -> UpstreamTool:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._named(key)
            self._taken.add(known)
            self._taken_names.add(known.name)
            client = ClientTool(key.name, key.namespace, key.custom and not self._custom)
            if known.name != key.name or known.namespace != key.namespace or client.is_wrapped:
                self.changed[known.name] = client
        return known

    def _named(self, key: _Key) -> UpstreamTool:
        flat = key.name if self._namespaces or not key.namespace else f"{key.namespace}__{key.name}"
        namespace = key.namespace if self._namespaces else ""
        is_custom = key.custom and self._custom
        # A name that is changed is turned back by itself, without its namespace: it is to be the only one of its kind.
        name = fitted(flat, self._maximum, self._forbidden)
        is_changed = name != key.name or is_custom != key.custom
        if self._is_free(UpstreamTool(name, namespace, is_custom), is_changed=is_changed):
            return UpstreamTool(name, namespace, is_custom)
        for number in range(len(self._known) + 1):
            digest = hashlib.sha256("\0".join((*key[:2], str(key.custom), str(number))).encode()).hexdigest()
            stem = fitted(flat, self._maximum - _DIGEST_LENGTH - 1, self._forbidden)
            other = UpstreamTool(f"{stem}_{digest[:_DIGEST_LENGTH]}", namespace, is_custom)
            if self._is_free(other, is_changed=True):
                return other
        raise AssertionError("more names were tried than there are tools")

    def _is_free(self, tool: UpstreamTool, *, is_changed: bool) -> bool:
        if tool in self._taken or tool.name in self.changed:
            return False
        return not is_changed or tool.name not in self._taken_names


class _Key(NamedTuple):
    """What tells the client's tools apart."""

    name: str
    namespace: str
    custom: bool


def _key_of(tool: Tool) -> _Key | None:
    """None: the provider runs it."""
    match tool.WhichOneof("kind"):
        case "function":
            return _Key(tool.function.name, tool.function.namespace, False)
        case "custom":
            return _Key(tool.custom.name, tool.custom.namespace, True)
    return None
