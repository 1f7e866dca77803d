"""What servers of the Responses API differ in."""

from __future__ import annotations

from typing import Final

# The dialect's name: in the registry, and of what it leaves in extensions and opaque blocks.
NAME: Final = "openai_responses"
