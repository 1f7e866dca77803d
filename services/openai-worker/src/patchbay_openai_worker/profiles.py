"""The upstreams of the OpenAI Chat Completions dialect, one profile a kind.

To add a provider, add a profile here, its kind to `patchbay.settings`, and a row to docs/configuration.md.
"""

from __future__ import annotations
