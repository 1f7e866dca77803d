"""The configuration of every service: one file, overridden by the environment, overridden by flags."""

from patchbay.settings.backends import KINDS, Backend, ReasoningFormat, Timeouts
from patchbay.settings.codex import OAUTH_ISSUER, Codex, is_account_name
from patchbay.settings.embedded import embedded_socket, embedded_url, state_directory
from patchbay.settings.errors import SettingsError
from patchbay.settings.loading import load, load_or_exit
from patchbay.settings.model import (
    ApiKey,
    Limits,
    Redis,
    Security,
    Server,
    Settings,
    StandIn,
    Telemetry,
    Workers,
    is_loopback,
)
from patchbay.settings.routes import Route, Target

__all__ = [
    "KINDS",
    "OAUTH_ISSUER",
    "ApiKey",
    "Backend",
    "Codex",
    "Limits",
    "ReasoningFormat",
    "Redis",
    "Route",
    "Security",
    "Server",
    "Settings",
    "SettingsError",
    "StandIn",
    "Target",
    "Telemetry",
    "Timeouts",
    "Workers",
    "embedded_socket",
    "embedded_url",
    "is_account_name",
    "is_loopback",
    "load",
    "load_or_exit",
    "state_directory",
]
