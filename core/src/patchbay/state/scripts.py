"""The Lua scripts, and how to run them on a server that may have forgotten them or does not let them be stored.

A script's name carries its version, so that replicas of two releases can share one Redis: a change of keys, arguments
or reply is a new file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from redis.exceptions import (
    AskError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from patchbay.state.connection import Client, deadline


class ScriptsRefused(Exception):
    """The server, its access rules or a proxy before it does not run Lua scripts, which Patchbay cannot do without."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its versioned name, its text and the SHA-1 by which a server knows it."""

    name: str
    source: str
    sha: str


@cache
def load(name: str) -> Script:
    """Reads the script `lua/<name>.lua` of this package."""
    source = resources.files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


ADMIT = load("admit_v1")
RENEW = load("renew_v1")
RELEASE = load("release_v1")
GAUGE = load("gauge_v1")
ANNOUNCE = load("announce_v1")
WITHDRAW = load("withdraw_v1")
DIRECTORY = load("directory_v1")
TRANSCRIPT_APPEND = load("transcript_append_v1")
CONVERSATION_SAVE = load("conversation_save_v1")
CODEX_LOGIN_SAVE = load("codex_login_save_v1")
CODEX_CLAIM = load("codex_claim_v1")
CODEX_SETTLE = load("codex_settle_v1")
CODEX_NOTE = load("codex_note_v1")
STORY_APPEND = load("story_append_v1")
STORY_CUT = load("story_cut_v1")
ASK = load("ask_v1")
KEEP = load("keep_v1")
RESOLVE = load("resolve_v1")
SWEEP = load("sweep_v1")
FETCH = load("fetch_v1")
CODEBUFF_RUN_SET = load("codebuff_run_set_v1")
CODEBUFF_RUN_COUNT = load("codebuff_run_count_v1")


def is_refused(error: object) -> bool:
    """Whether a reply says that the command itself is not allowed or not known, rather than that it failed."""
    return isinstance(error, NoPermissionError) or (
        isinstance(error, ResponseError) and str(error).lower().startswith(("unknown command", "command not allowed"))
    )


async def check(redis: Client, *, timeout: float = 0.5) -> None:
    """Makes sure that the server runs scripts: to be called once at start.

    Raises:
        ScriptsRefused: EVAL is not permitted.
        RedisUnavailable: The server cannot be asked.
    """
    async with deadline(timeout):
        try:
            await redis.execute_command("EVAL", "return redis.call('TIME')", 1, "pb:{admission}:probe")
        except (AskError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError):
            raise  # the server is in a state that passes, whatever it is asked
        except ResponseError as error:
            raise ScriptsRefused(
                f"Redis does not run Lua scripts ({error}). Allow EVAL and EVALSHA for this user, and TIME, or connect "
                "to the server without the proxy that blocks them."
            ) from error


async def run(
    redis: Client, script: Script, keys: tuple[str, ...], args: tuple[str | int | bytes, ...], *, timeout: float = 0.5
) -> object:
    """Runs one script by itself, within `timeout` seconds; a script must give the same when it is run again.

    Raises:
        RedisUnavailable: The server did not answer, or answered with an error.
    """
    async with deadline(timeout):
        try:
            return await _run_once(redis, script, keys, args)
        except RedisConnectionError:
            # The server may have closed an idle connection, or a failover may have moved it.
            return await _run_once(redis, script, keys, args)


async def _run_once(
    redis: Client, script: Script, keys: tuple[str, ...], args: tuple[str | int | bytes, ...]
) -> object:
    try:
        return await redis.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
    except ResponseError as error:
        if not isinstance(error, NoScriptError) and not is_refused(error):
            raise
    return await redis.execute_command("EVAL", script.source, len(keys), *keys, *args)
