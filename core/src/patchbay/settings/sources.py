"""Where settings come from: a file, the environment, flags. Each becomes one tree of known keys."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml

from patchbay.settings.errors import SettingsError
from patchbay.settings.schema import Node, unknown_key

# The JSON boundary: what YAML and JSON can hold.
Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Tree: TypeAlias = dict[str, Value]

ENV_PREFIX = "PATCHBAY__"
CONFIG_VARIABLE = "PATCHBAY_CONFIG"
STANDARD_PLACES = ("patchbay.yaml", "config/patchbay.yaml")


@dataclass(frozen=True)
class Reader:
    """Turns what was written into trees of known keys.

    Args:
        root: The keys there are.
        environ: For `env:NAME` secrets.
        names: Free names that environment and flags may spell with underscores (`openai-compatible`).
    """

    root: Node
    environ: Mapping[str, str]
    names: tuple[str, ...]

    def file(self, path: Path) -> Tree:
        """The tree of a YAML or JSON file."""
        origin = str(path)
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
        except OSError as error:
            raise SettingsError(f"{origin}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise SettingsError(f"{origin}: must hold sections such as `server:`, not a single value")
        return self._mapping(self.root, content, (), origin=origin)

    def environment(self) -> Tree:
        """The tree of the `PATCHBAY__...` variables; an empty one counts as not set."""
        tree: Tree = {}
        for variable, text in sorted(self.environ.items()):
            if variable.startswith(ENV_PREFIX) and text:
                segments = variable.removeprefix(ENV_PREFIX).split("__")
                self._put(tree, segments, text, origin=variable)
        return tree

    def flags(self, flags: Iterable[tuple[str, str | None]]) -> Tree:
        """The tree of `--section.key value` flags, as split by `split_flags`."""
        tree: Tree = {}
        for flag, text in flags:
            self._put(tree, flag.split("."), text, origin=f"--{flag}")
        return tree

    def _put(self, tree: Tree, segments: Sequence[str], text: str | None, *, origin: str) -> None:
        node = self.root
        path: tuple[str, ...] = ()
        for segment in segments:
            name = self._spelling(node, segment)
            path = (*path, name)
            node = self._child(node, path, origin)
        if text is None:
            if not node.boolean:
                raise SettingsError(f"{origin}: needs a value")
            text = "true"
        _merge(tree, _nested(path, self._value(node, _parsed(node, text), path, origin=origin)), (), origin)

    def _spelling(self, node: Node, segment: str) -> str:
        """A segment as the configuration spells it: environment variables have no hyphens and no lower case."""
        wanted = segment.lower().replace("-", "_")
        known = [*node.fields, *(self.names if node.named is not None else ())]
        free = segment.lower() if segment.isupper() else segment
        return next((name for name in known if name.lower().replace("-", "_") == wanted), free)

    def _child(self, node: Node, path: tuple[str, ...], origin: str) -> Node:
        child = node.fields.get(path[-1], node.named)
        if child is None:
            raise unknown_key(self.root, node, path, origin)
        return child

    def _mapping(self, node: Node, content: Mapping[str, Value], path: tuple[str, ...], *, origin: str) -> Tree:
        tree: Tree = {}
        for key, value in content.items():
            if not isinstance(key, str):
                raise SettingsError(f"{origin}: {'.'.join((*path, str(key)))}: a key must be a text; put it in quotes")
            # A header's name may have a dot; a key's dots are a way of writing nested keys.
            dotted = (key,) if node.named is not None and not node.named.is_mapping else tuple(key.split("."))
            child, here = node, path
            for segment in dotted:
                here = (*here, segment)
                child = self._child(child, here, origin)
            if value is None and (child.is_mapping or child.items is not None):
                continue
            _merge(tree, _nested(dotted, self._value(child, value, here, origin=origin)), path, origin)
        return tree

    def _value(self, node: Node, value: Value, path: tuple[str, ...], *, origin: str) -> Value:
        if isinstance(value, dict):
            if not node.is_mapping:
                raise unknown_key(self.root, node, (*path, *list(value)[:1]), origin)
            return self._mapping(node, value, path, origin=origin)
        if node.items is not None:
            listed = value
            if isinstance(value, str):
                listed = [part.strip() for part in value.split(",") if part.strip()]
            if isinstance(listed, list):
                items = node.items
                return [
                    self._value(items, item, (*path, str(index)), origin=origin) for index, item in enumerate(listed)
                ]
        if node.secret and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return self._secret(str(value), ".".join(path), origin)
        return value

    def _secret(self, text: str, path: str, origin: str) -> str:
        """A secret, fetched from where the text points."""
        if text.startswith("env:"):
            name = text.removeprefix("env:")
            if not self.environ.get(name):
                raise SettingsError(f"{origin}: {path} is {text}, but the variable {name} is not set")
            return self.environ[name].strip()
        if text.startswith("file:"):
            place = Path(text.removeprefix("file:")).expanduser()
            try:
                secret = place.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not a text file"
                raise SettingsError(f"{origin}: {path} is {text}, but that file cannot be read: {reason}") from error
            if not secret:
                raise SettingsError(f"{origin}: {path} is {text}, but that file is empty")
            return secret
        return text.strip()


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe subset, in which a key written twice is an error and not a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def find_file(config: str | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file to read: the flag's, the variable's, or one in a standard place."""
    named = config or environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser()
    return next((Path(place) for place in STANDARD_PLACES if Path(place).is_file()), None)


def split_flags(argv: Sequence[str]) -> tuple[str | None, list[tuple[str, str | None]]]:
    """Splits arguments into the `--config` file and the (`server.port`, text) of the other flags."""
    config: str | None = None
    flags: list[tuple[str, str | None]] = []
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--"):
            raise SettingsError(f"{argument}: not a flag; write --section.key value, or --config FILE")
        flag, equals, text = argument.removeprefix("--").partition("=")
        value: str | None = text if equals else None
        if not equals and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        if flag != "config":
            flags.append((flag, value))
        elif value:
            config = value
        else:
            raise SettingsError("--config: needs the name of a file")
    return config, flags


def _parsed(node: Node, text: str) -> Value:
    """A text from the environment or a flag: lists and mappings are JSON, `null` is nothing, the rest stays text."""
    if text == "null":
        return None
    if text[:1] in "[{" and (node.is_mapping or node.items is not None):
        try:
            parsed: Value = json.loads(text)
        except ValueError:
            return text
        return parsed
    return text


def _nested(path: Sequence[str], value: Value) -> Tree:
    for segment in reversed(path):
        value = {segment: value}
    assert isinstance(value, dict)
    return value


def _merge(tree: Tree, other: Tree, path: tuple[str, ...], origin: str) -> None:
    """Adds `other` to `tree`, both from one source: nothing may be said twice."""
    for key, value in other.items():
        there = tree.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value, (*path, key), origin)
        elif key in tree:
            raise SettingsError(f"{origin}: {'.'.join((*path, key))} is set twice")
        else:
            tree[key] = value
