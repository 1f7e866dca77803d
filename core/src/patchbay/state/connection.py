"""One way to connect to Redis, whichever way it is deployed, with a deadline on everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

Client: TypeAlias = "Redis | RedisCluster"

REDIS_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""All that a command may raise when Redis does not do what it is asked."""

# The pool keeps some more for subscriptions and pipelines, of which there are few.
_COMMANDS_AT_ONCE = 64
_MOST_CONNECTIONS = 100


class RedisUnavailable(Exception):
    """Redis did not answer in time, cannot be reached, or does not take the command."""


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Bounds what is inside, all connecting and waiting included, and turns every failure into `RedisUnavailable`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RedisUnavailable(f"no answer within {seconds} s") from error
    except REDIS_ERRORS as error:
        raise RedisUnavailable(f"{type(error).__name__}: {error}") from error


class _OwnedCommands:
    """Runs each command in a task of its own, which a caller's cancellation does not reach.

    A cancelled caller goes at once; its command ends by its own deadline, reads its own reply and gives its connection
    back. So no reply is ever left on a connection for the next caller, and no connection is lost to the pool. Commands
    beyond the pool's connections wait their turn, where redis-py fails them on a cluster and behind Sentinel.
    """

    _turn: asyncio.Semaphore
    _timeout: float

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        command = asyncio.ensure_future(self._run(*args, **options))
        try:
            return await asyncio.shield(command)
        except asyncio.CancelledError:
            command.add_done_callback(_retrieve)
            raise

    async def _run(self, *args: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                await self._turn.acquire()
        except TimeoutError:
            raise RedisTimeoutError(f"no free connection within {self._timeout} s") from None
        try:
            return await super().execute_command(*args, **options)  # type: ignore[misc]
        finally:
            self._turn.release()

    def _take_turns(self, timeout: float) -> None:
        self._turn, self._timeout = asyncio.Semaphore(_COMMANDS_AT_ONCE), timeout


def _retrieve(command: asyncio.Future[Any]) -> None:
    # Its caller is gone: an error nobody asks for must not be reported as never retrieved.
    if not command.cancelled():
        command.exception()


class _Standalone(_OwnedCommands, Redis):  # type: ignore[misc]
    pass


class _Cluster(_OwnedCommands, RedisCluster):  # type: ignore[misc]
    pass


def connect(url: str, *, timeout: float = 0.5) -> Redis | RedisCluster:
    """A client for the server, Sentinel group or cluster at `url`. Nothing is connected before the first command.

    Args:
        url: One of `redis://[user:password@]host:port/db`, `rediss://...` (TLS), `unix:///path?db=0`,
            `redis+sentinel://[user:password@]host:port,host:port/service/db` and
            `redis+cluster://[user:password@]host:port,host:port`; the last two also as `rediss+...`. A Sentinel URL may
            end in `?sentinel_username=...&sentinel_password=...`.
        timeout: Seconds to connect, to wait for a free connection and to wait for each reply.

    Raises:
        ValueError: The URL is none of these.
    """
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "max_connections": _MOST_CONNECTIONS,
    }
    client: _Standalone | _Cluster
    if parts.scheme in ("redis", "rediss", "unix"):
        client = cast(_Standalone, _Standalone.from_url(url, **options))
    elif parts.scheme in ("redis+sentinel", "rediss+sentinel"):
        client = _sentinel(parts, options)
    elif parts.scheme in ("redis+cluster", "rediss+cluster"):
        client = _cluster(parts, options)
    else:
        raise ValueError(
            f"cannot connect to Redis at a URL of scheme {parts.scheme!r}: "
            "use redis, rediss, unix, redis+sentinel or redis+cluster"
        )
    client._take_turns(timeout)
    return client


def _sentinel(parts: SplitResult, options: dict[str, Any]) -> _Standalone:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel URL names its service: redis+sentinel://host:26379/service/0")
    query = parse_qs(parts.query)
    sentinel_options = dict(options)
    for name in ("username", "password"):
        if values := query.get(f"sentinel_{name}"):
            sentinel_options[name] = values[0]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _addresses(parts, 26379), sentinel_kwargs=sentinel_options
    )
    options |= _credentials(parts)
    options |= {"db": int(database or 0), "ssl": parts.scheme.startswith("rediss")}
    client: _Standalone = sentinel.master_for(service, redis_class=_Standalone, **options)
    return client


def _cluster(parts: SplitResult, options: dict[str, Any]) -> _Cluster:
    nodes = [ClusterNode(host, port) for host, port in _addresses(parts, 6379)]
    options |= _credentials(parts)
    return _Cluster(startup_nodes=nodes, ssl=parts.scheme.startswith("rediss"), **options)


def _credentials(parts: SplitResult) -> dict[str, str]:
    userinfo = parts.netloc.rpartition("@")[0]
    username, _, password = userinfo.partition(":")
    return {name: unquote(value) for name, value in (("username", username), ("password", password)) if value}


def _addresses(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    addresses = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        # A list of hosts is more than urlsplit reads, but each of them is a host of its own.
        one = urlsplit(f"//{place}")
        if not one.hostname:
            raise ValueError(f"no host in {place!r}")
        addresses.append((one.hostname, one.port or default_port))
    return addresses
