"""Structured logs on standard error: lines for people on a terminal, JSON otherwise. Secrets never get into them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

if TYPE_CHECKING:
    from patchbay.settings import Telemetry

MASK = "**********"

_SECRET_NAMES = re.compile(r"(api_?key|auth_?token|authorization|secret|password|cookie|credential)s?\Z")
_SECRET_TEXTS = re.compile(
    r"(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"
    r"|\b(?:sk|ck|pk|rk)[-_][\w.-]{8,}"
    r"|\bAIza[\w-]{20,}"
    # A scheme is short. One of any length would be looked for from everywhere in a long text to its end.
    r"|(?P<url>\b[a-z][a-z+]{0,30}://[^\s:/@]*:)[^\s/@]+(?=@)",
    re.IGNORECASE,
)


def configure(telemetry: Telemetry, *, service: str, stream: TextIO | None = None) -> None:
    """Sets up logging for the process: structlog's and the standard library's loggers come out alike.

    Args:
        telemetry: Level and format.
        service: The command's name, in every line.
        stream: Where lines go; None: standard error.
    """
    stream = sys.stderr if stream is None else stream
    for_people = telemetry.log_format == "console" or (telemetry.log_format == "auto" and stream.isatty())
    level = logging.getLevelNamesMapping()[telemetry.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Service(service),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Processor = structlog.processors.JSONRenderer()
    if for_people:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                mask_secrets,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    # Every request upstream as a line of its own says nothing that ours does not.
    for name in ("httpx", "httpcore", "aiohttp.access"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _Service:
    """Puts the service's name into every line."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event.setdefault("service", self._name)
        return event


def mask_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Masks what looks like a secret by its name or by its form. The last line of defence, not the first."""
    return {
        name: MASK if _SECRET_NAMES.search(name.lower().replace("-", "_")) else _masked(event[name]) for name in event
    }


def _masked(value: object) -> object:
    if isinstance(value, str):
        return _SECRET_TEXTS.sub(_keep_the_rest, value)
    if isinstance(value, Mapping):
        return {
            key: MASK if _SECRET_NAMES.search(str(key).lower().replace("-", "_")) else _masked(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    return _SECRET_TEXTS.sub(_keep_the_rest, str(value))


def _keep_the_rest(match: re.Match[str]) -> str:
    return f"{match['scheme'] or match['url'] or ''}{MASK}"
