"""The frames of a socket in a file, one JSON object a line, to see later what was said. Secrets are taken out.

    {"at": "2026-01-31T12:00:00.000Z", "worker": ..., "from": "client" | "server", "frame": {...}}

A frame that is no JSON has `text` in place of `frame`. A file that is full ends with `{"at": ..., "full": true}`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from patchbay.telemetry.logs import MASK, mask_secrets
from patchbay_codebuff_ws.connection import wire

log = structlog.get_logger(__name__)

_MOST_BYTES = 32 * 1024 * 1024
_MOST_FILES = 200
_LONGEST_TEXT = 2_000
_SHORTEST_TOKEN = 4
_IS_KEY = re.compile(r"(?!(?:true|false|null|[-+.\deE\[\]{}:, ]*)\Z)")

_NAMES = re.compile(r"token\Z|fingerprint|secret|password|api_?key|authorization|cookie|credential", re.IGNORECASE)
# In a text that is no JSON; what is cut off in its middle ends with the text.
_FIELD = re.compile(r'"(?P<name>[^"\\]{1,100})"\s*:\s*"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
# What is given to the programs and servers of MCP, and what a user's shell begins with: any of it may be a key.
_SECRET_MAPS = frozenset({"env", "headers", "shellConfigFiles"})
_IN_URL = re.compile(r"([?&][^?=&#]{0,40}(?:key|token|secret|password|auth)[^?=&#]{0,40}=)[^&#]+", re.IGNORECASE)


class Captures:
    """The files of one directory.

    Args:
        directory: Where they are; it is made when the first one is.
        worker_id: This replica's id.
    """

    def __init__(self, directory: Path, *, worker_id: str) -> None:
        self._directory = directory
        self._worker_id = worker_id

    def open(self, connection_id: str, headers: Mapping[str, str]) -> FrameCapture | None:
        """The file of one socket, whichever replica has begun it; None: it cannot be written.

        Args:
            headers: Those that say who the client is: its keys are in them.
        """
        name = re.sub(r"[^A-Za-z0-9_-]", "_", connection_id)[:60]
        if name != connection_id:
            name += "-" + hashlib.sha256(connection_id.encode()).hexdigest()[:12]
        path = self._directory / f"codebuff-{name}.jsonl"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(path)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            log.error("capture_not_opened", path=str(path), error=str(error))
            return None
        capture = FrameCapture(descriptor, worker_id=self._worker_id)
        for value in headers.values():
            capture.keep_out(value.strip(" \t").rpartition(" ")[2])
        return capture

    def _make_room(self, path: Path) -> None:
        """Removes the oldest files, so that with this one there are not too many."""
        others = [(other.stat().st_mtime, other) for other in self._directory.glob("codebuff-*.jsonl") if other != path]
        others.sort()
        for _, other in others[: max(0, len(others) + 1 - _MOST_FILES)]:
            other.unlink(missing_ok=True)


class FrameCapture:
    """One file, open."""

    def __init__(self, descriptor: int, *, worker_id: str) -> None:
        self._descriptor: int | None = descriptor
        self._worker_id = worker_id
        self._size = os.fstat(descriptor).st_size
        self._tokens: set[bytes] = set()

    def keep_out(self, token: str) -> None:
        """Has a client's key be taken out wherever it is said, in commands and their output too."""
        # What JSON may be made of, but for texts, would be taken out of the frame's own form as well.
        if _IS_KEY.match(token) and len(token) >= _SHORTEST_TOKEN and len(self._tokens) < _MOST_FILES:
            self._tokens.add(msgspec.json.encode(token)[1:-1])

    def client(self, text: str) -> None:
        """A frame that the client has sent."""
        self._write("client", text)

    def server(self, text: str) -> None:
        """A frame that goes to the client."""
        self._write("server", text)

    def close(self) -> None:
        """Ends the file. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, sender: str, text: str) -> None:
        if self._descriptor is None:
            return
        line: dict[str, Any] = {"at": _now(), "worker": self._worker_id, "from": sender}
        try:
            frame = wire.loads(text)
            self._note_tokens(frame)
            line["frame"] = redacted(frame)
        except RecursionError:
            line["text"] = "(nested too deeply)"
        except (msgspec.DecodeError, UnicodeError):
            line["text"] = mask_secrets(None, "", {"text": _FIELD.sub(_field_in_text, text[:_LONGEST_TEXT])})["text"]
        data = _encoded(line)
        for token in self._tokens:
            data = data.replace(token, MASK.encode())
        full = self._size + len(data) > _MOST_BYTES
        if full:
            data = _encoded({"at": _now(), "worker": self._worker_id, "full": True})
        try:
            os.write(self._descriptor, data)
        except OSError as error:
            log.error("capture_not_written", error=str(error))
            full = True
        self._size += len(data)
        if full:
            self.close()

    def _note_tokens(self, frame: object) -> None:
        data = frame.get("data") if isinstance(frame, dict) else None
        token = data.get("authToken") if isinstance(data, dict) else None
        if isinstance(token, str):
            self.keep_out(token)


def redacted(frame: Any) -> Any:
    """A frame without its secrets: by their names, and by their form."""
    return _by_name(mask_secrets(None, "", {"frame": frame})["frame"])


def _by_name(value: Any) -> Any:
    if isinstance(value, Mapping):
        # A server of MCP that has an address is given its keys as parameters of it, too.
        secret = _SECRET_MAPS | {"params"} if "url" in value else _SECRET_MAPS
        return {key: _field(key, item, secret) for key, item in value.items()}
    if isinstance(value, list):
        return [_by_name(item) for item in value]
    return value


def _field(name: str, value: Any, secret_maps: frozenset[str]) -> Any:
    if _NAMES.search(name) and isinstance(value, str):
        return MASK
    if name == "url" and isinstance(value, str):
        return _IN_URL.sub(rf"\1{MASK}", value)
    if name in secret_maps and isinstance(value, Mapping):
        return {key: MASK if isinstance(item, str) else _by_name(item) for key, item in value.items()}
    if name == "mcpConfig":
        return _server(value)
    if name == "mcpServers" and isinstance(value, Mapping):
        return {key: _server(item) for key, item in value.items()}
    return _by_name(value)


def _server(value: Any) -> Any:
    """A server of MCP without its keys, which may be among its program's arguments, or in its address."""
    server = _by_name(value)
    if isinstance(server, dict):
        if isinstance(arguments := server.get("args"), list):
            server["args"] = [MASK] * len(arguments)
        if isinstance(url := server.get("url"), str) and "?" in url:
            server["url"] = f"{url.partition('?')[0]}?{MASK}"
    return server


def _field_in_text(found: re.Match[str]) -> str:
    return f'"{found["name"]}": "{MASK}"' if _NAMES.search(found["name"]) else found[0]


def _encoded(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
