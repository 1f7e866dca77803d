"""Finds the script of a request: in its header, or by its model name."""

from __future__ import annotations

from typing import Final

from patchbay_standin.scenarios import PREFIX, SCENARIOS
from patchbay_standin.script import MODEL_PREFIX, Script, ScriptError, read_script

HEADER: Final = b"x-standin-script"

_DEFAULT: Final = Script()
# Names of scripts that come with the request itself are not bounded by anyone but us.
_MAX_COUNTED: Final = 10_000


class UnknownModel(Exception):
    """A model looks like a scenario's name but is none."""


class Library:
    """The registered scripts, and how often each script with `attempts` was played."""

    def __init__(self) -> None:
        self._registered: dict[str, Script] = {}
        self._played: dict[str, int] = {}

    def register(self, name: str, script: Script) -> None:
        """Makes a script known as a model name; its attempts start anew."""
        self._registered[name] = script
        self._played.pop(name, None)

    def unregister(self, name: str | None = None) -> None:
        """Forgets one registered script, or all."""
        if name is None:
            self._registered.clear()
        else:
            self._registered.pop(name, None)

    def restart_attempts(self) -> None:
        """The next request of every script gets its first attempt."""
        self._played.clear()

    def names(self) -> list[str]:
        """The names of all scripts, built-in and registered."""
        return sorted({*SCENARIOS, *self._registered})

    def find(self, header: bytes | None, model: str) -> Script:
        """The script for a request with this header and model.

        Raises:
            ScriptError: When the header or the model name holds a script that cannot be read.
            UnknownModel: When the model looks like a scenario's name but is none.
        """
        if header is not None:
            return self._attempt(header.decode("utf-8", "replace"), self.peek(header))
        script = self._registered.get(model)
        if script is not None:
            return self._attempt(model, script)
        if model.startswith(MODEL_PREFIX):
            return self._attempt(model, read_script(model.removeprefix(MODEL_PREFIX)))
        if not model.startswith(PREFIX):
            return _DEFAULT
        script = SCENARIOS.get(model)
        if script is None:
            raise UnknownModel(model)
        return script

    def peek(self, header: bytes) -> Script:
        """The script in a header, without playing it. Raises ScriptError."""
        return read_script(header.decode("utf-8", "replace"))

    def _attempt(self, name: str, script: Script) -> Script:
        if not script.attempts:
            return script
        played = self._played.get(name, 0)
        if len(self._played) >= _MAX_COUNTED and not played:
            raise ScriptError(f"more than {_MAX_COUNTED} scripts with attempts: DELETE /standin/requests first")
        self._played[name] = played + 1
        return script.attempts[min(played, len(script.attempts) - 1)]
