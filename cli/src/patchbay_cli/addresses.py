"""Addresses: whether a port is free, and how an address is written."""

from __future__ import annotations

import errno
import socket

from patchbay_cli.problems import CommandFailed


def url(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def free_port(host: str) -> int:
    """A port nobody listens on."""
    with _bound(host, 0) as listener:
        port: int = listener.getsockname()[1]
        return port


def require_free(host: str, port: int, key: str) -> None:
    """Makes sure that a server can listen.

    Args:
        host: The address to listen on.
        port: The port; 0 is always free.
        key: The setting that names the port, for example `server.port`.

    Raises:
        CommandFailed: When it cannot, saying how to choose another.
    """
    try:
        _bound(host, port).close()
    except OSError as error:
        variable = "PATCHBAY__" + key.upper().replace(".", "__")
        if error.errno == errno.EADDRINUSE:
            other = f"stop what uses it, or choose another port with {variable}={port + 1} (setting {key})"
            raise CommandFailed(f"port {port} on {host} is in use: {other}") from error
        why = error.strerror or str(error)
        raise CommandFailed(f"cannot listen on {host} port {port} ({why}): see the setting {key}") from error


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # As servers do: a port whose last connections are still closing is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
