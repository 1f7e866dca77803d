"""Requests through `claude` processes: what is sent, when, and what the figures say."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import replace

import pytest
from rich.console import Console

from patchbay_bench import claude_cli
from patchbay_bench.claude_bodies import Body
from patchbay_bench.claude_cli import AGENT_TURN, BODIES, HISTORIES, is_ready
from patchbay_bench.claude_figures import PLAIN, WITH_TOOLS, ClaudeFigure, ClaudeResults, SpareMemory, Way
from patchbay_bench.figures import Results
from patchbay_bench.jobs import JobResult
from patchbay_bench.load import LoadGenerator
from patchbay_bench.plan import QUICK
from patchbay_bench.report import show
from patchbay_bench.targets import judge


def figure(way: Way, body: Body, *milliseconds: float, failed: int = 0) -> ClaudeFigure:
    made = ClaudeFigure(way=way, body=body.label, history=body.history)
    seconds = [value / 1000 for value in milliseconds]
    result = JobResult(completed=len(seconds), failed=failed, first_byte=seconds, first_content=seconds)
    made.add(result, cpu_seconds=1.0)
    return made


def with_history(messages: int) -> Body:
    return Body(tools=True, history=messages)


def results(*figures: ClaudeFigure) -> Results:
    facts: dict[str, object] = {"time": "", "processor": "", "cores": 2, "python": "3", "load_average": []}
    return Results(facts=facts, parts=("claude-cli",), claude_cli=ClaudeResults(list(figures)))


def passed(found: Results) -> list[bool | None]:
    return [one.passed for one in judge(found)]


@pytest.mark.parametrize("body", BODIES)
def test_every_call_in_a_history_has_its_result_in_the_next_message(body: Body) -> None:
    sent = json.loads(body.write("spare/m"))
    messages = sent["messages"]
    assert len(messages) == body.history + 1
    assert [message["role"] for message in messages] == ["user", "assistant"] * (body.history // 2) + ["user"]
    names = {tool["name"] for tool in sent.get("tools", [])}
    assert len(names) == (20 if body.tools else 0)
    for said, answer in itertools.pairwise(messages):
        if said["role"] == "assistant":
            (call,) = [block for block in said["content"] if block["type"] == "tool_use"]
            (result,) = answer["content"]
            assert (result["type"], result["tool_use_id"]) == ("tool_result", call["id"])
            assert call["name"] in names
            assert 2000 < len(result["content"]) < 5000


def test_tools_are_as_long_as_tools_are() -> None:
    tools = json.loads(WITH_TOOLS.write("m"))["tools"]
    assert 500 < len(json.dumps(tools)) / len(tools) < 2000
    assert all(set(tool["input_schema"]["required"]) <= set(tool["input_schema"]["properties"]) for tool in tools)


@pytest.mark.parametrize(
    ("backend", "changes", "ready"),
    [
        ("spare", {}, True),
        ("spare", {"spare": 1}, False),
        ("spare", {"starting": 1}, False),
        ("agent", {"busy": 1}, False),
        ("agent", {"idle": 1}, True),
        ("cold", {"waiting": 1}, False),
    ],
)
def test_a_request_waits_until_nothing_else_is_going_on(backend: str, changes: dict[str, int], ready: bool) -> None:
    pool = {"spare": 2, "busy": 0, "idle": 0, "starting": 0, "waiting": 0}
    status: dict[str, object] = {name: {"workers": [{"pool": pool}]} for name in ("spare", "alone", "cold", "agent")}
    status[backend] = {"workers": [{"pool": {**pool, **changes}}]}
    assert is_ready(status) is ready


def test_nothing_is_ready_before_the_worker_is() -> None:
    assert not is_ready({name: {"workers": []} for name in ("spare", "alone", "cold", "agent")})


@pytest.mark.parametrize(
    ("plain", "with_tools", "expected"), [(355.0, 360.0, True), (355.0, 361.0, False), (361.0, 355.0, False)]
)
def test_the_slower_of_both_spares_is_held_against_the_api(plain: float, with_tools: float, expected: bool) -> None:
    found = results(
        *(figure("direct", body, 1.0, 10.0, 99.0) for body in (PLAIN, WITH_TOOLS)),
        figure("spare", PLAIN, plain, plain, 9000.0),
        figure("spare", WITH_TOOLS, with_tools),
    )
    assert passed(found)[0] is expected


@pytest.mark.parametrize(
    ("longest", "middle", "expected"), [(700.0, 300.0, True), (701.0, 300.0, False), (0, 800, False)]
)
def test_no_history_may_make_the_first_content_much_later(longest: float, middle: float, expected: bool) -> None:
    found = results(
        figure("spare", PLAIN, 1.0),
        figure("spare", WITH_TOOLS, 200.0),
        figure("spare", with_history(10), middle),
        figure("spare", with_history(20), longest),
    )
    assert passed(found)[1] is expected


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert passed(results()) == [None, None, None]
    failed_only = results(figure("direct", PLAIN, 1.0), figure("spare", PLAIN, failed=2))
    assert passed(failed_only) == [None, None, False]
    assert passed(results(figure("spare", WITH_TOOLS, 1.0), figure("spare", with_history(10), 1.0)))[1] is None


def test_only_the_parts_of_the_run_are_judged() -> None:
    both = replace(results(), parts=("streams", "claude-cli"))
    streams = replace(results(), parts=("streams",))
    assert len(judge(both)) == len(judge(streams)) + len(judge(results()))


def test_a_report_has_every_way_beside_the_direct_one() -> None:
    agent = replace(figure("agent", PLAIN, 95.0), body=AGENT_TURN)
    found = results(figure("direct", PLAIN, 10.0), figure("spare", PLAIN, 250.0, failed=1), agent)
    found.claude_cli.spare = SpareMemory(150.0, 80.0)
    console = Console(width=150, file=io.StringIO())
    show(found, judge(found), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    (spare,) = [line.split() for line in printed.splitlines() if "spare: no tools" in line]
    (turn,) = [line.split() for line in printed.splitlines() if AGENT_TURN in line]
    assert "240" in spare
    assert "85" in turn
    assert "A spare holds 150 MB" in printed
    assert "1 of 2 requests failed" in printed
    assert "Paced" not in printed


def test_without_a_program_the_report_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = claude_cli.configuration

    def without_program(backends: dict[str, dict[str, object]]) -> dict[str, object]:
        for backend in backends.values():
            if backend["kind"] == "claude-cli":
                backend["cli_path"] = "/nowhere/claude"
        return configuration({**backends})

    monkeypatch.setattr(claude_cli, "configuration", without_program)
    monkeypatch.setattr(claude_cli, "_READY_SECONDS", 2.0)
    found = results()
    with LoadGenerator() as generator:
        claude_cli.measure(found, generator, QUICK, say=lambda _: None)
    (left_out,) = found.left_out
    assert left_out.name == "claude-cli"
    assert left_out.reason.count("there is no claude program at cli_path: /nowhere/claude") == 1
    assert passed(found) == [None, None, None]


@pytest.mark.timeout(240)
def test_a_round_against_the_real_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_cli, "BODIES", (PLAIN, with_history(HISTORIES[-1])))
    found = results()
    with LoadGenerator() as generator:
        claude_cli.measure(found, generator, replace(QUICK, claude_rounds=1), say=lambda _: None)
    assert (found.left_out, found.notes) == ([], [])
    figures = found.claude_cli.figures
    assert [(one.way, one.completed, one.failures) for one in figures] == [
        ("direct", 3, []),
        ("spare", 1, []),
        ("direct", 3, []),
        ("spare", 1, []),
        ("alone", 1, []),
        ("cold", 1, []),
        ("agent", 1, []),
    ]
    used = {one.way: one.cpu_seconds[-1] for one in figures}
    # A process was started for each but the direct ones and the conversation that has one.
    assert min(used["spare"], used["alone"], used["cold"]) > 3 * max(used["direct"], 0.1)
    assert used["agent"] < used["cold"]
    assert found.claude_cli.spare is not None
    assert 20 < found.claude_cli.spare.unshared < found.claude_cli.spare.resident < 800
