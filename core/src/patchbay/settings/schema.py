"""What keys the configuration has, as a tree: read off the pydantic models, so that each key is declared once."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretStr

from patchbay.settings.errors import SettingsError


@dataclass(frozen=True)
class Node:
    """One place in the configuration.

    Attributes:
        fields: The keys known here.
        named: What any other key here holds (a backend, a header).
        items: What a list here holds.
        secret: Whether a text here is a secret.
        boolean: Whether this is a yes or no.
        description: What the key is for.
    """

    fields: Mapping[str, Node] = field(default_factory=dict)
    named: Node | None = None
    items: Node | None = None
    secret: bool = False
    boolean: bool = False
    description: str = ""

    @property
    def is_mapping(self) -> bool:
        return bool(self.fields) or self.named is not None


def node_of(annotation: object) -> Node:
    """The tree under a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _node_of_model(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _union(node_of(argument) for argument in arguments)
    if origin is dict:
        return Node(named=node_of(arguments[1]))
    if origin in (tuple, list):
        return Node(items=node_of(arguments[0]))
    return Node(secret=annotation is SecretStr, boolean=annotation is bool)


def _node_of_model(model: type[BaseModel]) -> Node:
    hints = get_type_hints(model)
    fields = {
        name: replace(node_of(hints[name]), description=info.description or "")
        for name, info in model.model_fields.items()
    }
    named = None
    if model.model_config.get("extra") == "allow":
        named = node_of(hints["__pydantic_extra__"]).named
    # A key may be written as a plain text where a mapping says more (`security.api_keys`).
    return Node(fields=fields, named=named, secret=getattr(model, "WRITTEN_AS_SECRET", False))


def _union(nodes: Iterable[Node]) -> Node:
    merged = Node()
    for node in nodes:
        merged = Node(
            fields={**merged.fields, **node.fields},
            named=merged.named or node.named,
            items=merged.items or node.items,
            secret=merged.secret or node.secret,
            boolean=merged.boolean or node.boolean,
        )
    return merged


def leaves(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every key that takes a value, as (`server.port`, node); a free name is `*`."""
    children = dict(node.fields)
    if node.named is not None:
        children["*"] = node.named
    if node.items is not None and node.items.is_mapping:
        children = {"*": node.items}
    if not children:
        yield path, node
    for name, child in children.items():
        yield from leaves(child, f"{path}.{name}" if path else name)


def unknown_key(root: Node, node: Node, path: tuple[str, ...], origin: str) -> SettingsError:
    """The error for a key that `node` does not know, naming the nearest one that exists."""
    *above, key = path
    near = difflib.get_close_matches(key, node.fields, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean {'.'.join([*above, near[0]])}?"
    elif elsewhere := _elsewhere(root, key):
        hint = f"did you mean {elsewhere}?"
    elif node.fields:
        hint = f"known here: {', '.join(node.fields)}"
    else:
        hint = f"{'.'.join(above)} takes a value, not keys"
    return SettingsError(f"{origin}: unknown key {'.'.join(path)}; {hint}")


def _elsewhere(root: Node, key: str) -> str | None:
    """The same key in another section, or a section of nearly that name."""
    for path, _ in leaves(root):
        if path.rpartition(".")[2] == key:
            return path.replace("*", "<name>")
    paths = {path.rpartition(".")[2]: path for path, _ in leaves(root)}
    near = difflib.get_close_matches(key, paths, n=1, cutoff=0.8)
    return paths[near[0]].replace("*", "<name>") if near else None
