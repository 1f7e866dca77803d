from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from patchbay.errors import UNAVAILABLE, PatchbayError
from patchbay.settings import Backend, load
from patchbay.testing.scripted_claude import ScriptedClaude
from patchbay_claude_worker.cli.process import Guardian
from patchbay_claude_worker.model.fitness import Fitness


@pytest.fixture
async def guardian() -> AsyncIterator[Guardian]:
    watching = Guardian()
    await watching.start()
    yield watching
    await watching.dismiss()


def backend_of(**config: object) -> Backend:
    written = {"kind": "claude-cli", "api_key": "sk-ant-made-up", "base_url": "http://127.0.0.1:9", **config}
    return load([f"--backends.x={json.dumps(written)}"], {}).enabled_backends()["x"]


async def tried(backend: Backend, guardian: Guardian) -> Fitness:
    fitness = Fitness(backend)
    fitness.start(guardian)
    await fitness._tried.wait()
    await fitness.aclose()
    assert list(guardian.directory.glob("home-*")) == []
    return fitness


async def test_the_real_program_sends_what_it_is_told_to(guardian: Guardian) -> None:
    fitness = await tried(backend_of(), guardian)
    assert fitness.trouble == ""
    await fitness.require()


async def test_a_program_that_sends_something_else_is_not_used(guardian: Guardian, tmp_path: Path) -> None:
    claude = ScriptedClaude(tmp_path)
    await (await tried(backend_of(cli_path=claude.path), guardian)).require()
    claude.plan(unfit=True)
    fitness = await tried(backend_of(cli_path=claude.path), guardian)
    with pytest.raises(PatchbayError, match="does not send what it is told to") as raised:
        await fitness.require()
    assert (raised.value.error.code, raised.value.error.retryable) == (UNAVAILABLE, False)


async def test_what_cannot_be_found_out_refuses_nobody(guardian: Guardian, tmp_path: Path) -> None:
    claude = ScriptedClaude(tmp_path)
    claude.disappear()
    await (await tried(backend_of(cli_path=claude.path), guardian)).require()
    dies = tmp_path / "dies"
    dies.write_text("#!/bin/sh\nexit 3\n")
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nsleep 60\n")
    for program in (dies, hangs):
        program.chmod(0o755)
        config = backend_of(cli_path=str(program), pool={"silence_seconds": 0.5})
        await (await tried(config, guardian)).require()
