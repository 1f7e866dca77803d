"""The client's files, as an agent has seen them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from patchbay_codebuff_ws.loop.history import both_ends, tool_result
from patchbay_codebuff_ws.loop.state import Project
from patchbay_codebuff_ws.ports import Client, JsonObject

# How a client says, in place of a content, that there is none.
_STATUSES = (
    "[FILE_DOES_NOT_EXIST]",
    "[FILE_OUTSIDE_PROJECT]",
    "[FILE_READ_ERROR]",
    "[FILE_TOO_LARGE",
    "[FILE_IGNORED",
)
_MISSING = _STATUSES[0]
# A longer one would be left out at once, to make place for the conversation, and read again, and again.
_MOST_CHARACTERS = 120_000


def is_status(content: str) -> bool:
    """Whether it says why there is no content."""
    return content.startswith(_STATUSES)


class Files:
    """Reads files through the client, and knows what one agent has seen of them.

    Args:
        history: Its conversation so far, in which it has seen files before.
    """

    def __init__(self, client: Client, project: Project, history: Iterable[JsonObject]) -> None:
        self._client = client
        self._project = project
        self._seen = _seen_in(history)

    async def read(self, paths: Sequence[str]) -> dict[str, str | None]:
        """The contents by path, as given; None, or a status in brackets, for a file that cannot be read."""
        relative = {path: self._project.relative(path) for path in paths}
        found = await self._client.read_files(list(dict.fromkeys(relative.values())))
        return {path: found.get(name) for path, name in relative.items()}

    async def shown(self, paths: Sequence[str]) -> list[JsonObject]:
        """What a model is shown of files, for `read_files`."""
        contents = await self.read(paths)
        shown = []
        for path, content in contents.items():
            relative = self._project.relative(path)
            if content is None:
                content = _MISSING
            elif not is_status(content):
                content = as_shown(content)
                self._seen[relative] = content
            entry: JsonObject = {"path": relative, "content": content}
            callers = self._project.callers(relative)
            if callers:
                entry["referencedBy"] = callers
            shown.append(entry)
        return shown

    async def current(self, path: str) -> str | None:
        """A file's content as it is, with its own line ends; None when there is none.

        Raises:
            UnreadableFile: It is there, or may be, but cannot be read.
        """
        content = (await self.read([path]))[path]
        if content is None or content.startswith(_MISSING):
            return None
        if is_status(content):
            raise UnreadableFile(content)
        return content

    def note(self, path: str, content: str) -> None:
        """Notes what the agent has written."""
        self._seen[self._project.relative(path)] = as_shown(content)

    async def changes(self) -> list[JsonObject]:
        """What others have changed since the agent saw it, with the new contents."""
        if not self._seen:
            return []
        now = await self.read(list(self._seen))
        changed: list[JsonObject] = []
        for path, content in now.items():
            # A file that did not come at all may be there still: only what the client says counts.
            if content is None or (is_status(content) and not content.startswith(_MISSING)):
                continue
            content = content if is_status(content) else as_shown(content)
            if content != self._seen[path]:
                changed.append({"path": path, "content": content})
                self._seen[path] = content
        return changed


class UnreadableFile(Exception):
    """A file cannot be read; the message is the client's status."""


def as_shown(content: str) -> str:
    """A file's content as models are shown it, and as it is kept to see later whether it has changed."""
    return both_ends(content if not content or content.endswith("\n") else content + "\n", _MOST_CHARACTERS)


def file_entries(message: Mapping[str, object]) -> list[JsonObject]:
    """The files that a tool message of the conversation shows, to be read or changed in place."""
    result = tool_result(message)
    if result is None or result.get("toolName") not in ("read_files", "find_files", "file_updates"):
        return []
    entries: list[JsonObject] = []
    for part in result.get("output") or ():
        value = part.get("value") if isinstance(part, dict) else None
        if isinstance(value, list):
            entries += [entry for entry in value if isinstance(entry, dict) and isinstance(entry.get("path"), str)]
    return entries


def _seen_in(history: Iterable[JsonObject]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for message in history:
        for entry in file_entries(message):
            content = entry.get("content")
            if isinstance(content, str) and (not is_status(content) or entry["path"] in seen):
                seen[entry["path"]] = content
    return seen
