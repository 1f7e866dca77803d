from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from patchbay_standin import records
from patchbay_standin.records import Records
from patchbay_standin.testing import StandinProcess


def test_what_is_recorded(standin: StandinProcess, ask: Any) -> None:
    before = time.time()
    ask("anthropic", "standin-bench-burst", headers={"Anthropic-Beta": "a"}, stream=True)
    (request,) = standin.requests()
    assert (request.method, request.path, request.query) == ("POST", "/v1/messages", "")
    assert request.headers["anthropic-beta"] == "a"
    assert request.headers["x-api-key"] == "made-up"
    assert request.body == {
        "model": "standin-bench-burst",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "max_tokens": 1000,
    }
    assert (request.protocol, request.model, request.status) == ("anthropic", "standin-bench-burst", 200)
    assert (request.outcome, request.deltas, request.paused) == ("completed", 100, 0)
    assert request.ended is not None
    assert before <= request.started <= request.ended <= time.time()


def test_order_query_and_after(standin: StandinProcess, ask: Any, call: Any) -> None:
    ask("openai", "one")
    call("GET", "/v1/models?limit=2", None, {"authorization": "Bearer k"})
    ask("openai", "two")
    one, models, two = standin.requests()
    assert (one.model, two.model) == ("one", "two")
    assert (models.path, models.query, models.body, models.outcome) == ("/v1/models", "limit=2", None, "completed")
    assert [request.id for request in standin.requests(after=one.id)] == [models.id, two.id]


def test_a_body_that_is_no_json(standin: StandinProcess, call: Any) -> None:
    call("POST", "/v1/messages", b"\xff{", {"x-api-key": "k", "anthropic-version": "2023-06-01"})
    (request,) = standin.requests()
    assert (request.body, request.body_base64) == (None, base64.b64encode(b"\xff{").decode())
    assert (request.outcome, request.status) == ("error", 400)


def test_stats(standin: StandinProcess, ask: Any) -> None:
    for model in ("standin-echo", "standin-echo", "standin-error-500"):
        ask("openai", model)
    stats = standin.stats()
    assert (stats.requests, stats.completed, stats.errors, stats.aborted, stats.cut) == (3, 2, 1, 0, 0)
    assert (stats.active, stats.max_active, stats.paused) == (0, 1, 0)
    standin.reset()
    assert standin.stats().requests == 0
    assert standin.requests() == []


def test_own_endpoints(call: Any, standin: StandinProcess) -> None:
    assert call("GET", "/standin/health").json == {"status": "ok"}
    assert "standin-echo" in call("GET", "/standin/scripts").json["names"]
    assert call("GET", "/standin/nothing").status == 404
    assert call("POST", "/standin/scripts/x").status == 405
    assert call("GET", "/standin/requests?after=x").status == 400
    assert standin.requests() == []


def test_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_REQUESTS", 3)
    monkeypatch.setattr(records, "MAX_BODY_BYTES", 100)
    kept = Records()
    for size in (10, 60, 60, 30):
        entry = kept.begin("POST", "/x", query=b"", headers=[])
        kept.keep_body(entry, b'"%b"' % (b"x" * (size - 2)))
        kept.end(entry, "completed")
    shown = kept.show()
    assert [request.id for request in shown] == [2, 3, 4]
    assert [request.body_dropped for request in shown] == [True, False, False]
    assert shown[2].body == "x" * 28
    assert kept.stats.requests == 4


def test_clearing_keeps_what_runs() -> None:
    kept = Records()
    entry = kept.begin("POST", "/x", query=b"", headers=[(b"A", b"1"), (b"a", b"2")])
    assert kept.show()[0].headers == {"a": "1, 2"}
    kept.clear()
    kept.end(entry, "aborted")
    assert (kept.stats.active, kept.stats.aborted, kept.stats.requests) == (0, 1, 0)


def test_no_records() -> None:
    kept = Records(keep=False)
    entry = kept.begin("POST", "/x", query=b"", headers=[])
    kept.keep_body(entry, b"{}")
    kept.end(entry, "completed")
    assert kept.show() == []
    assert kept.stats.completed == 1
