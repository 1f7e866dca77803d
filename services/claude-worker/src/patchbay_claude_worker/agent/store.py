"""Keeps transcripts in Redis, as claude-agent-sdk's SessionStore: https://code.claude.com/docs/en/agent-sdk/sessions"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

import msgspec

from patchbay.state.conversations import Conversations

if TYPE_CHECKING:
    # Its types are all that is used of it, and to import it takes seconds.
    from claude_agent_sdk import SessionKey, SessionListSubkeysKey, SessionStoreEntry

_SUFFIX = ".jsonl"


class RedisSessionStore:
    """A session's transcripts: its own, and one for each subagent. A SessionStore without its optional listings."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Appends entries. Raises RedisUnavailable."""
        written = [(entry.get("uuid", ""), msgspec.json.encode(entry).decode()) for entry in entries]
        if written:
            await self._conversations.append(key["session_id"], _name(key), written)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """The entries of a transcript; None: there is none. Raises RedisUnavailable."""
        entries = await self._conversations.transcript(key["session_id"], _name(key))
        return [cast("SessionStoreEntry", msgspec.json.decode(entry)) for entry in entries] or None

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """The subagents' transcripts. Raises RedisUnavailable."""
        prefix = _name(cast("SessionKey", key)) + "/"
        names = await self._conversations.transcripts(key["session_id"])
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def key_of(path: str) -> SessionKey | None:
    """Whose transcript a file of the program's is: `.../projects/<project>/<session>[/<subpath>].jsonl`."""
    parts = PurePosixPath(path).parts
    if "projects" not in parts or not path.endswith(_SUFFIX):
        return None
    below = parts[len(parts) - parts[::-1].index("projects") :]
    if len(below) < 2:
        return None
    project, session, *rest = below
    if not rest:
        return {"project_key": project, "session_id": session.removesuffix(_SUFFIX)}
    return {"project_key": project, "session_id": session, "subpath": "/".join(rest).removesuffix(_SUFFIX)}


async def load_files(conversations: Conversations, key: SessionKey) -> dict[Path, bytes]:
    """The files that a session's transcripts are to the program, below its configuration's directory.

    Raises:
        RedisUnavailable: They cannot be read.
    """
    session, own = key["session_id"], _name(key)
    base = PurePosixPath("projects", key["project_key"])
    files: dict[Path, bytes] = {}
    for name in await conversations.transcripts(session):
        subpath = name.removeprefix(own).removeprefix("/")
        place = base / session / (subpath + _SUFFIX) if subpath else base / (session + _SUFFIX)
        if name.startswith(own) and ".." not in place.parts and place.is_relative_to(base):
            lines = await conversations.transcript(session, name)
            files[Path(place)] = b"".join(line + b"\n" for line in lines)
    # Subagents' transcripts are nothing without the one that has started them.
    return files if Path(base / (session + _SUFFIX)) in files else {}


def _name(key: SessionKey) -> str:
    subpath = key.get("subpath")
    return f"{key['project_key']}/{subpath}" if subpath else key["project_key"]
