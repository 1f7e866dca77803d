"""What goes wrong with a configuration."""

from __future__ import annotations


class SettingsError(Exception):
    """The configuration cannot be used. Its text is one line: the path, what is wrong, how to mend it."""
