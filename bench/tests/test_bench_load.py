"""The load generator against the real stand-in over loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import msgspec
import pytest

from patchbay_bench.jobs import ClientDialect, Job
from patchbay_bench.load import LoadGenerator
from patchbay_bench.meters import all_cpu_seconds, cpu_seconds, resident_bytes
from patchbay_bench.wire import PATHS, VERSION_HEADER, request_body
from patchbay_standin import Script
from patchbay_standin.testing import StandinProcess

TEXT = "one two three"


@pytest.fixture(scope="module")
def standin() -> Iterator[StandinProcess]:
    with StandinProcess() as process:
        process.script("bench-test", Script(text=TEXT))
        process.script("bench-test-paced", Script(text=TEXT, delta_delay_ms=20))
        process.script("bench-test-cut", Script(text=TEXT, cut_after=2))
        process.script("bench-test-silent", Script(text=TEXT, silence_after=1))
        yield process


@pytest.fixture(scope="module")
def generator() -> Iterator[LoadGenerator]:
    with LoadGenerator() as process:
        yield process


def job(
    standin: StandinProcess, model: str, changes: Mapping[str, object], *, dialect: ClientDialect = "anthropic"
) -> Job:
    built = Job(
        host="127.0.0.1",
        port=urlsplit(standin.url).port or 0,
        path=PATHS[dialect],
        dialect=dialect,
        headers={"x-api-key": "any", "authorization": "Bearer any", **VERSION_HEADER},
        body=request_body(dialect, model),
        expected=TEXT,
        concurrency=3,
        streams=9,
        most=9,
        patience=10.0,
    )
    return msgspec.structs.replace(built, **changes)


@pytest.mark.parametrize(
    ("dialect", "websocket"), [("anthropic", False), ("openai", False), ("responses", False), ("responses", True)]
)
def test_whole_answers_are_counted(
    standin: StandinProcess, generator: LoadGenerator, dialect: ClientDialect, websocket: bool
) -> None:
    result = generator.run(job(standin, "bench-test", {"websocket": websocket}, dialect=dialect))
    assert (result.completed, result.failed, result.failures, result.deltas) == (9, 0, [], 27)
    assert len(result.first_content) == len(result.duration) == 9
    assert all(byte <= content for byte, content in zip(result.first_byte, result.first_content, strict=True))
    assert result.wall > 0


def test_a_turn_goes_on_from_the_one_before(standin: StandinProcess, generator: LoadGenerator) -> None:
    first = request_body("responses", "bench-test", prompt_bytes=5000)
    going_on = job(standin, "bench-test", {"websocket": True, "before": first, "concurrency": 1}, dialect="responses")
    result = generator.run(going_on)
    assert (result.completed, result.failures) == (9, [])
    last = standin.requests()[-1].body
    assert isinstance(last, dict)
    assert last["previous_response_id"].startswith("resp_")


def test_the_first_content_comes_long_before_a_paced_answers_end(
    standin: StandinProcess, generator: LoadGenerator
) -> None:
    result = generator.run(job(standin, "bench-test-paced", {"streams": 3, "most": 3}))
    assert all(whole - first > 0.03 for first, whole in zip(result.first_content, result.duration, strict=True))


@pytest.mark.parametrize(
    ("model", "changes", "failure"),
    [
        ("bench-test", {"expected": "something else"}, "the answer's text is not the stand-in's"),
        ("bench-test", {"path": "/nowhere"}, "HTTP 404"),
        ("bench-test-cut", {}, "the connection ended early"),
        ("bench-test-silent", {"patience": 0.3}, "no end within 0.3 s"),
    ],
)
def test_anything_less_than_a_whole_answer_is_a_failure(
    standin: StandinProcess, generator: LoadGenerator, model: str, changes: dict[str, object], failure: str
) -> None:
    result = generator.run(job(standin, model, changes))
    assert result.completed == 0
    assert result.failed > 0
    assert [text for text in result.failures if not text.startswith(failure)] == []


def test_held_streams_stay_open_until_they_are_dropped(standin: StandinProcess, generator: LoadGenerator) -> None:
    # Those that a test before has dropped.
    assert standin.wait_for(lambda it: it.stats().active == 0)
    standin.reset()
    standin.script("bench-test-silent", Script(text=TEXT, silence_after=1))
    with generator.held(job(standin, "bench-test-silent", {"concurrency": 5})) as opened:
        assert (opened.completed, opened.failures) == (5, [])
        assert standin.stats().aborted == 0
    assert standin.wait_for(lambda it: it.stats().aborted == 5)


def test_a_process_at_work_has_cpu_time_and_memory(standin: StandinProcess, generator: LoadGenerator) -> None:
    roles = {"standin": [standin.pid], "gone": [2**22 + 1]}
    before = cpu_seconds(roles)
    generator.run(job(standin, "bench-test", {"streams": 200, "most": 200}))
    used = cpu_seconds(roles)["standin"] - before["standin"]
    assert 0 < used < 5
    assert resident_bytes(roles)["standin"] > 10_000_000
    assert cpu_seconds(roles)["gone"] == resident_bytes(roles)["gone"] == 0


def test_what_has_ended_still_counts_with_who_started_it() -> None:
    before = all_cpu_seconds(os.getpid())
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert 0.4 < all_cpu_seconds(os.getpid()) - before < 10
    assert all_cpu_seconds(2**22 + 1) == 0
