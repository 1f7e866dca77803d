"""The preload for Codebuff's CLI of February 2025, with what that CLI does at its start; it is too large to install."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node_js import node_20, node_24

_PRELOAD = Path(__file__).parent.parent / "deploy" / "codebuff" / "redirect-legacy.cjs"

_WS = "exports.WebSocket = class { static OPEN = 1; constructor(url) { this.url = String(url) } }; exports.other = 2"
_CLI = """
process.env.ENVIRONMENT = 'production'
process.env.NEXT_PUBLIC_APP_URL = 'https://codebuff.com'
process.env.OWN = 'own'
const ws = require('ws')
const child = require('node:child_process').execSync('echo $ENVIRONMENT $OWN').toString().trim()
const { ENVIRONMENT, NEXT_PUBLIC_APP_URL, OWN } = process.env
const url = new ws.WebSocket('wss://manicode-backend.onrender.com/ws').url
const open = ws.WebSocket.OPEN
console.log(JSON.stringify({ url, open, other: ws.other, ENVIRONMENT, NEXT_PUBLIC_APP_URL, OWN, child }))
"""


@pytest.mark.parametrize(
    ("node", "patchbay", "url", "origin"),
    [
        (node_20, "http://127.0.0.1:8000", "ws://127.0.0.1:8000/ws", "http://127.0.0.1:8000"),
        (node_24, "https://pb.test/", "wss://pb.test/ws", "https://pb.test"),
    ],
)
def test_the_cli_comes_to_patchbay_and_stays_as_it_is(
    tmp_path: Path, node: Callable[[], Path], patchbay: str, url: str, origin: str
) -> None:
    module = tmp_path / "node_modules" / "ws"
    module.mkdir(parents=True)
    (module / "index.js").write_text(_WS)
    cli = tmp_path / "cli.js"
    cli.write_text(_CLI)
    environ = {"PATH": os.defpath, "HOME": str(tmp_path), "PATCHBAY_URL": patchbay}
    ran = subprocess.run(
        [str(node()), "--require", str(_PRELOAD), str(cli)], env=environ, capture_output=True, text=True, check=True
    )
    said: dict[str, Any] = json.loads(ran.stdout)
    assert said == {
        "url": url,
        "open": 1,
        "other": 2,
        # Not "production": there, it would replace itself by its newest version.
        "ENVIRONMENT": "patchbay",
        "NEXT_PUBLIC_APP_URL": origin,
        "OWN": "own",
        "child": "patchbay own",
    }
