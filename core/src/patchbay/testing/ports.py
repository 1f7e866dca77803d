"""Ports for servers that are told theirs."""

from __future__ import annotations

import random
import socket

# Below the range from which systems take the ports of outgoing connections: one of those may take a port of that range
# before the server does that it was found for.
_FIRST, _LAST = 10_000, 29_999
_chance = random.SystemRandom()


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    while True:
        port = _chance.randint(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
