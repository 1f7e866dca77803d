"""What the Messages API allows in the names and ids of tools."""

from __future__ import annotations

import re

FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")
