"""A backend of kind `claude-cli` in model mode: the Anthropic dialect, carried by processes."""

from __future__ import annotations

import dataclasses

from patchbay.dialects.anthropic import AnthropicQuirks
from patchbay.settings import Backend
from patchbay.upstream.http import HttpUpstream
from patchbay.upstream.profile import Profile
from patchbay.upstream.provider import HttpProvider
from patchbay_claude_worker.cli.pool import Pool
from patchbay_claude_worker.cli.sign_in import CliSignIn
from patchbay_claude_worker.model.command import command
from patchbay_claude_worker.model.fitness import Fitness
from patchbay_claude_worker.model.transport import CliUpstream
from patchbay_claude_worker.profiles import ANTHROPIC, CLI_MODELS
from patchbay_proto.v1.provider_pb2 import BackendStatus


def profile_of(backend: Backend) -> Profile[AnthropicQuirks]:
    """The API's own profile; without its other paths behind an operator's sign-in, whose token only the program has."""
    profile = dataclasses.replace(ANTHROPIC, kind=backend.kind, models=CLI_MODELS)
    if backend.credentials == "signed_in":
        return dataclasses.replace(profile, models_path=None, count_tokens_path=None)
    return profile


class ModelProvider(HttpProvider[AnthropicQuirks]):
    """Serves one backend through a pool of its own."""

    def __init__(self, backend: Backend) -> None:
        assert backend.claude_cli is not None
        self._pool = Pool(backend.name, backend.claude_cli.pool, lambda home: command(backend, home))
        profile = profile_of(backend)
        http = HttpUpstream(backend.base_url, backend.timeouts)
        account = CliSignIn(backend) if backend.credentials == "signed_in" else None
        self._fitness = Fitness(backend)
        upstream = CliUpstream(
            backend, self._pool, http, chat_path=profile.chat_path, fitness=self._fitness, account=account
        )
        super().__init__(backend, profile, upstream)
        self.sign_in = self._account = account

    async def start(self) -> None:
        """Starts the spares, tries the program, and asks whether somebody is signed in."""
        await self._pool.start()
        self._fitness.start(self._pool.guardian)
        if self._account is not None:
            await self._account.start(self._pool.guardian)

    def status(self) -> BackendStatus:
        status = super().status()
        status.mode = "model"
        status.pool.CopyFrom(self._pool.status())
        if self._account is not None:
            status.signed_in, status.detail = self._account.signed_in, self._account.detail
        if trouble := self._pool.trouble or self._fitness.trouble:
            status.signed_in, status.detail = False, trouble
        return status

    async def aclose(self) -> None:
        await super().aclose()
        await self._fitness.aclose()
        if self._account is not None:
            await self._account.aclose()
        await self._pool.aclose()
