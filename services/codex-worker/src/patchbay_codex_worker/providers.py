"""The backends this worker serves, from the configuration."""

from __future__ import annotations

from patchbay.settings import Settings
from patchbay.worker.runtime import Shared
from patchbay.worker.service import Provider


def build(settings: Settings, shared: Shared) -> list[Provider]:
    """One provider for each backend of this worker whose dialect there is: none, until there is that of Responses.

    Then it is `CodexProvider` with the profile `chatgpt`, and `HttpProvider` with `platform`.
    """
    return []
