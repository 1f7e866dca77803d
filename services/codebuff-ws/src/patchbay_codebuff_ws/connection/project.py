"""What a client says of its project: the full `fileContext`, or the plain map of paths to contents of other clients."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

import msgspec

from patchbay_codebuff_ws.ports import JsonObject

_FIELDS: Mapping[str, type] = {
    "projectRoot": str,
    "cwd": str,
    "fileTree": list,
    "fileTokenScores": dict,
    "knowledgeFiles": dict,
    "agentTemplates": dict,
    "customToolDefinitions": dict,
    "gitChanges": dict,
    "changesSinceLastChat": dict,
    "shellConfigFiles": dict,
    "systemInfo": dict,
}
_OPTIONAL_FIELDS: Mapping[str, type] = {"tokenCallers": dict, "userKnowledgeFiles": dict, "codebuffConfig": dict}
_GIT_CHANGES = ("status", "diff", "diffCached", "lastCommitMessages")
_SYSTEM_INFO: JsonObject = {
    "platform": "unknown",
    "shell": "unknown",
    "nodeVersion": "unknown",
    "arch": "unknown",
    "homedir": "/",
    "cpus": 1,
}
_KNOWLEDGE = ("knowledge.md", "claude.md")
_ROOT = "/"


class Project(msgspec.Struct, frozen=True):
    """A project.

    Attributes:
        context: A `fileContext` with all that clients require of one.
        files: Contents that the client has sent along, by path.
    """

    context: JsonObject
    files: dict[str, str] = {}


def read_project(raw: object) -> Project | None:
    """The project that a client tells of; None: it tells of none."""
    if not isinstance(raw, dict) or not raw:
        return None
    if _is_plain(raw):
        return _of_files({_relative(path): content for path, content in raw.items() if isinstance(content, str)})
    return Project(_completed(raw))


def _is_plain(raw: JsonObject) -> bool:
    """Whether these are files: a full context holds more than texts, or is known by its fields."""
    return all(value is None or isinstance(value, str) for value in raw.values()) and not raw.keys() & {
        "projectRoot",
        "cwd",
    }


def _completed(raw: JsonObject) -> JsonObject:
    """As it was told, with what is missing or of a wrong type in a form that clients take back."""
    context = {
        name: value
        for name, value in raw.items()
        if name not in _OPTIONAL_FIELDS or isinstance(value, _OPTIONAL_FIELDS[name])
    }
    for name, kind in _FIELDS.items():
        if not isinstance(context.get(name), kind):
            context[name] = kind()
    context["projectRoot"] = context["projectRoot"] or context["cwd"] or _ROOT
    context["cwd"] = context["cwd"] or context["projectRoot"]
    git = context["gitChanges"]
    context["gitChanges"] = {**git, **{name: "" for name in _GIT_CHANGES if not isinstance(git.get(name), str)}}
    system = context["systemInfo"]
    context["systemInfo"] = {
        **system,
        **{name: value for name, value in _SYSTEM_INFO.items() if not _is_like(system.get(name), value)},
    }
    return context


def _is_like(value: object, example: object) -> bool:
    return isinstance(value, (int, float)) if isinstance(example, int) else isinstance(value, str)


def _of_files(files: dict[str, str]) -> Project:
    knowledge = {path: content for path, content in files.items() if path.lower().endswith(_KNOWLEDGE)}
    return Project(_completed({"fileTree": _tree(files), "knowledgeFiles": knowledge}), files)


def _relative(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/")).lstrip("/") or path


def _tree(paths: Mapping[str, Any]) -> list[JsonObject]:
    """The nodes of a file tree."""
    top: list[JsonObject] = []
    directories: dict[str, list[JsonObject]] = {"": top}
    for path in sorted(paths):
        parent, parts = "", path.split("/")
        for name in parts[:-1]:
            here = f"{parent}/{name}" if parent else name
            if here not in directories:
                directories[here] = []
                node = {"name": name, "type": "directory", "filePath": here, "children": directories[here]}
                directories[parent].append(node)
            parent = here
        directories[parent].append({"name": parts[-1], "type": "file", "filePath": path})
    return top


def has_project(session_state: Mapping[str, Any]) -> bool:
    """Whether a prompt's session state tells of a project itself."""
    context = session_state.get("fileContext")
    return isinstance(context, dict) and bool(context)
