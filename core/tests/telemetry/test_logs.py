import io
import json
import logging
import time

import pytest
import structlog

from patchbay.settings import Telemetry
from patchbay.telemetry import logs

SECRET = "sk-made-up-0123456789abcdef"


@pytest.fixture
def lines():
    stream = io.StringIO()
    logs.configure(Telemetry(log_level="info", log_format="json"), service="patchbay-test", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)


def test_both_kinds_of_logger_come_out_alike(lines):
    structlog.get_logger("one").info("started", port=8000)
    logging.getLogger("two").warning("slow: %s", "disk", extra={"seconds": 3})
    logging.getLogger("two").debug("not at this level")
    one, two = lines()
    assert (one["event"], one["level"], one["logger"], one["service"], one["port"]) == (
        "started", "info", "one", "patchbay-test", 8000,
    )  # fmt: skip
    assert (two["event"], two["level"], two["service"], two["seconds"]) == ("slow: disk", "warning", "patchbay-test", 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": "plain-words"},
        {"x-api-key": "plain-words"},
        {"headers": {"Authorization": "plain-words"}},
        {"note": f"sent {SECRET} upstream"},
        {"note": f"Bearer {SECRET}"},
        {"url": "redis://user:plain-words@host:6379/0"},
        {"items": [f"Bearer {SECRET}"]},
        {"error": ValueError(f"refused {SECRET}")},
    ],
)
def test_secrets_are_masked(lines, fields):
    structlog.get_logger("x").info("event", **fields)
    logged = json.dumps(lines())
    assert SECRET not in logged
    assert "plain-words" not in logged
    assert logs.MASK in logged


@pytest.mark.parametrize(
    "text", ["a+" * 100_000, "a://" * 50_000, "bearer " * 50_000, "sk-" * 50_000, "a://:" * 50_000]
)
def test_no_text_takes_long_to_mask(lines, text):
    began = time.thread_time()
    structlog.get_logger("x").info("event", note=text)
    assert time.thread_time() - began < 1
    assert len(lines()) == 1


def test_counts_of_tokens_are_not_secrets(lines):
    structlog.get_logger("x").info("answered", output_tokens=12, key_id="abc")
    (line,) = lines()
    assert (line["output_tokens"], line["key_id"]) == (12, "abc")


def test_a_traceback_holds_no_secret(lines):
    try:
        raise RuntimeError(f"upstream said no to Bearer {SECRET}")
    except RuntimeError:
        structlog.get_logger("x").exception("failed")
    (line,) = lines()
    assert "RuntimeError" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_lines_for_people():
    stream = io.StringIO()
    logs.configure(Telemetry(log_format="console"), service="patchbay-test", stream=stream)
    structlog.get_logger("x").info("started", port=8000)
    structlog.reset_defaults()
    assert "started" in stream.getvalue()
    assert "port=8000" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
