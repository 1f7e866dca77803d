"""Codebuff's sockets and prompts: measured through real processes, and judged by the figures."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from patchbay_bench import codebuff
from patchbay_bench.codebuff import allowed_sockets
from patchbay_bench.codebuff_figures import ROLES, CodebuffResults, IdleSockets, PromptFigure, Way
from patchbay_bench.codebuff_prompt import prompt_data
from patchbay_bench.figures import Results
from patchbay_bench.jobs import JobResult
from patchbay_bench.load import LoadGenerator
from patchbay_bench.plan import QUICK
from patchbay_bench.report import show
from patchbay_bench.targets import judge

MET = [True, True, True, True]


def idle(*, kilobytes: float = 40.0, lost: int = 0, wanted: int = 5000) -> IdleSockets:
    rest = dict.fromkeys(ROLES, 1000)
    return IdleSockets(
        wanted=wanted,
        sockets=5000,
        lost=lost,
        seconds=10.0,
        ping_seconds=30.0,
        rest=rest,
        open={role: size + int(kilobytes * 1024 * 5000) for role, size in rest.items()},
        rest_cpu=dict.fromkeys(ROLES, 0.1),
        open_cpu=dict.fromkeys(ROLES, 1.5),
    )


def figure(way: Way, *milliseconds: float, failed: int = 0, concurrency: int = 1) -> PromptFigure:
    made = PromptFigure(way=way, concurrency=concurrency)
    result = JobResult(completed=len(milliseconds), failed=failed, duration=[value / 1000 for value in milliseconds])
    made.add(result, cpu_seconds=dict.fromkeys(ROLES, 0.25))
    return made


def results(held: IdleSockets | None, *figures: PromptFigure) -> Results:
    facts: dict[str, object] = {"time": "", "processor": "", "cores": 2, "python": "3", "load_average": []}
    return Results(facts=facts, parts=("codebuff",), codebuff=CodebuffResults(idle=held, figures=list(figures)))


def passed(found: Results) -> list[bool | None]:
    return [one.passed for one in judge(found)]


def good() -> list[PromptFigure]:
    return [figure("direct", 1.0), figure("chat", 10.0), figure("prompt", 25.0), figure("crowd", 90.0, 99.0)]


def test_everything_is_measured_through_real_processes() -> None:
    plan = replace(QUICK, codebuff_sockets=20, codebuff_idle_seconds=0.5, codebuff_rounds=1, codebuff_crowd=20)
    found = results(None)
    with LoadGenerator() as generator:
        codebuff.measure(found, generator, plan, say=lambda _: None)
    held, figures = found.codebuff.idle, {one.way: one for one in found.codebuff.figures}
    assert held is not None
    assert (held.wanted, held.sockets, held.lost, held.failures) == (20, 20, 0, [])
    assert {way: (one.completed, one.failures) for way, one in figures.items()} == {
        "direct": (10, []),
        "chat": (10, []),
        "prompt": (10, []),
        "run": (10, []),
        "crowd": (20, []),
    }
    assert all((figures["crowd"].cpu(role) or 0) > 0 for role in ROLES)
    # The direct request passes none of them.
    assert (figures["direct"].cpu("edge") or 0) < (figures["chat"].cpu("edge") or 0)
    assert found.codebuff.chat_bytes > 5000
    assert passed(found)[2:] == [True, True]


def test_a_prompt_is_as_large_as_prompts_of_a_small_project_are() -> None:
    assert 10_000 < len(json.dumps(prompt_data("key"))) < 50_000


@pytest.mark.parametrize(("kilobytes", "expected"), [(40.0, True), (40.1, False)])
def test_an_idle_socket_may_take_so_much(kilobytes: float, expected: bool) -> None:
    assert passed(results(idle(kilobytes=kilobytes), *good())) == [expected, *MET[1:]]


@pytest.mark.parametrize(("prompt", "expected"), [(24.9, True), (25.1, False)])
def test_the_median_prompt_is_held_against_the_same_chat(prompt: float, expected: bool) -> None:
    figures = [figure("chat", 10.0, 10.0, 500.0), figure("prompt", 1.0, prompt, 900.0), figure("crowd", 1.0)]
    assert passed(results(idle(), *figures)) == [True, expected, True, True]


def test_nothing_may_be_lost() -> None:
    assert passed(results(idle(lost=1), *good())) == [*MET[:3], False]
    assert passed(results(idle(), *good()[:3], figure("crowd", 90.0, failed=1))) == [*MET[:2], False, False]
    assert passed(results(idle(), *good()[:3], figure("crowd", failed=1))) == [*MET[:2], False, False]


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert passed(results(None)) == [None] * 4


def test_the_report_says_how_many_sockets_were_wanted() -> None:
    console = Console(width=150, file=io.StringIO())
    found = results(idle(wanted=9000), *good())
    found.codebuff.loads = [1.0, 2.5]
    show(found, judge(found), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "5,000 idle sockets (9,000 wanted)" in printed
    assert "Load average 1.0 to 2.5" in printed
    assert "…" not in printed


def test_sockets_are_no_more_than_the_files_that_the_system_allows() -> None:
    assert allowed_sockets(20_000) == 19_500
    assert allowed_sockets(100) == 1
