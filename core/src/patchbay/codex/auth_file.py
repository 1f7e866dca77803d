"""`auth.json`, where the Codex CLI keeps its sign-in: shared with a running CLI, and whatever else is in it is kept.

The CLI re-reads the file before it spends a refresh token, and so do we; between processes of ours there is a lock
beside the file, which the kernel releases when its holder dies.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from patchbay.codex.login import Login, NotKept, PlaceBusy, SignInMissing

_LOCK_POLL_SECONDS = 0.02
_TOKENS = ("id_token", "access_token", "refresh_token", "account_id")


class AuthFile:
    """One `auth.json`.

    Args:
        path: The file; need not be there.
        name: What its account is called; left out: its path.
    """

    is_file = True

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path.expanduser().absolute()
        self.name = name or str(self.path)

    async def load(self) -> Login:
        return await asyncio.to_thread(self._load)

    async def save(self, login: Login, *, replacing: str | None) -> Login:
        return await asyncio.to_thread(self._save, login, replacing)

    async def forget(self) -> None:
        """Takes the tokens out; what else is in the file stays."""
        async with self.exclusive(5.0):
            await asyncio.to_thread(self._forget)

    @asynccontextmanager
    async def exclusive(self, seconds: float) -> AsyncIterator[None]:
        try:
            descriptor = self._open_lock()
        except OSError as error:
            raise NotKept(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            give_up_at = asyncio.get_running_loop().time() + seconds
            while not self._locked(descriptor):
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise PlaceBusy(f"another process holds {self.path}")
                await asyncio.sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        target = self._target()
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.patchbay-lock")
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _locked(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            # Some network file systems have no locks.
            raise NotKept(f"{self.path} cannot be locked: {error.strerror}") from error
        return True

    def _target(self) -> Path:
        """Where the name is a link, what it leads to: that is locked, replaced and removed. Raises OSError."""
        try:
            return self.path.resolve()
        except RuntimeError:
            # What Python before 3.13 makes of links that lead in a circle.
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None

    def _read(self) -> dict[str, Any]:
        """The whole file, which is the CLI's and may hold anything. Raises SignInMissing."""
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            raise SignInMissing(f"{self.path} is not there") from None
        except OSError as error:
            raise SignInMissing(f"{self.path} cannot be read: {error.strerror}") from error
        except ValueError:
            # Its text is not to be shown: it may hold tokens.
            raise SignInMissing(f"{self.path} is not valid JSON") from None
        if not isinstance(content, dict):
            raise SignInMissing(f"{self.path} is not a JSON object")
        return content

    def _load(self) -> Login:
        return login_in(self._read(), str(self.path))

    def _save(self, login: Login, replacing: str | None) -> Login:
        if replacing is not None:
            there = self._load()
            if there.fingerprint != replacing:
                return there
        try:
            content = self._read()
        except SignInMissing:
            content = {"auth_mode": "chatgpt", "OPENAI_API_KEY": None}
        old = content.get("tokens")
        # A renewal keeps what else belongs to the sign-in; another sign-in has its own.
        tokens = dict(old) if replacing is not None and isinstance(old, dict) else {}
        written = {name: getattr(login, name) for name in _TOKENS}
        tokens |= {name: value for name, value in written.items() if value or name not in tokens}
        content["tokens"] = tokens
        content["last_refresh"] = datetime.fromtimestamp(login.last_refresh, UTC).isoformat().replace("+00:00", "Z")
        if replacing is None:
            content["auth_mode"] = "chatgpt"
        self._replace(content)
        return login

    def _forget(self) -> None:
        with suppress(SignInMissing):
            content = self._read()
            kept = {key: value for key, value in content.items() if key not in ("tokens", "last_refresh", "auth_mode")}
            if any(kept.values()):
                self._replace(kept)
            else:
                self._target().unlink(missing_ok=True)

    def _replace(self, content: dict[str, Any]) -> None:
        """Writes the file so that it is always whole, and never readable to others. Raises NotKept."""
        try:
            target = self._target()
            scratch = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    _give_to_owner_of(target, file.fileno())
                    json.dump(content, file, indent=2)
                    file.flush()
                    os.fsync(file.fileno())
                scratch.replace(target)
            except BaseException:
                scratch.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise NotKept(f"{self.path} cannot be written: {error.strerror}") from error


def _give_to_owner_of(there: Path, descriptor: int) -> None:
    """Lets a new file belong to whom the one it replaces belongs to: to the CLI's user, where this process is root."""
    # There may be none, and we may not be allowed to: that the new token is kept matters more.
    with suppress(OSError):
        owner = there.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def login_in(content: dict[str, Any], name: str) -> Login:
    """The sign-in in the content of an `auth.json`.

    Args:
        name: What the file is called in errors.

    Raises:
        SignInMissing: There is none.
    """
    tokens = content.get("tokens")
    access_token = _text(tokens, "access_token")
    if not access_token or content.get("auth_mode") == "apikey":
        kept = " (the Codex CLI may keep them in the system's keyring)" if content.get("auth_mode") else ""
        raise SignInMissing(f"{name} holds no ChatGPT tokens{kept}")
    return Login(
        access_token=access_token,
        refresh_token=_text(tokens, "refresh_token"),
        id_token=_text(tokens, "id_token"),
        account_id=_text(tokens, "account_id"),
        last_refresh=_seconds(content.get("last_refresh")),
    )


def _text(tokens: object, name: str) -> str:
    value = tokens.get(name) if isinstance(tokens, dict) else None
    return value if isinstance(value, str) else ""


def _seconds(moment: object) -> float:
    try:
        return datetime.fromisoformat(str(moment)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
