"""The backends this worker serves, from the configuration."""

from __future__ import annotations

from patchbay.settings import Settings
from patchbay.upstream.provider import HttpProvider
from patchbay.worker.runtime import Shared
from patchbay.worker.service import Provider
from patchbay_claude_worker.profiles import PROFILES


def build(settings: Settings, _: Shared) -> list[Provider]:
    """One provider for each enabled backend of this worker."""
    return [
        HttpProvider(backend, PROFILES[backend.kind])
        for backend in settings.enabled_backends().values()
        if backend.worker == "claude-worker"
    ]
