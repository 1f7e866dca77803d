"""The backends this worker serves, from the configuration."""

from __future__ import annotations

from patchbay.settings import Settings
from patchbay.worker.runtime import Shared
from patchbay.worker.service import Provider


def build(settings: Settings, shared: Shared) -> list[Provider]:
    """One provider for each enabled backend of this worker."""
    return []
