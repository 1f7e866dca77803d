"""Targets are judged by the figures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from patchbay_bench import paths
from patchbay_bench.figures import Figure, Memory, Results, Sample, percentile, summarize
from patchbay_bench.profiling import read_stacks
from patchbay_bench.report import show, write_json
from patchbay_bench.targets import judge

SAMPLE = Sample(
    path=paths.OPENAI_TO_ANTHROPIC,
    kind="paced",
    concurrency=64,
    prompt_bytes=0,
    completed=10,
    failed=0,
    failures=(),
    wall=2.0,
    deltas=1000,
    received=1,
    pieces=30,
    cpu_ms={"edge": 1.0, "worker": 2.0},
    others_ms={"standin": 1.0, "generator": 1.0},
    first_content_ms=(1.0, 2.0, 3.0),
    load=0.0,
)


def figure(path: str, kind: str, total: float, **changes: object) -> Figure:
    made = summarize([replace(SAMPLE, path=path, kind=kind, cpu_ms={"edge": total / 2, "worker": total / 2})])
    return replace(made, **changes)  # type: ignore[arg-type]


def results(*figures: Figure) -> Results:
    facts: dict[str, object] = {"time": "", "processor": "", "cores": 2, "python": "3", "load_average": []}
    return Results(facts=facts, figures=list(figures))


def verdict(found: Results, start: str) -> bool | None:
    (one,) = [verdict for verdict in judge(found) if verdict.target.startswith(start)]
    return one.passed


def test_figures_are_medians_over_the_rounds() -> None:
    samples = [replace(SAMPLE, cpu_ms={"edge": edge, "worker": 2.0}) for edge in (1.0, 9.0, 2.0)]
    made = summarize(samples)
    assert made.cpu_ms == {"edge": 2.0, "worker": 2.0}
    assert (made.total_ms, made.streams_per_second, made.deltas_per_stream) == (4.0, 5.0, 100.0)
    assert (made.first_content_median_ms, made.first_content_p99_ms) == (2.0, 3.0)
    assert percentile([], 0.5) == 0.0


@pytest.mark.parametrize(("ours", "passed"), [(5.0, True), (5.1, False)])
def test_the_dearer_translated_path_is_held_against_the_peer(ours: float, passed: bool) -> None:
    found = results(
        figure(paths.OPENAI_TO_ANTHROPIC, "paced", 1.0),
        figure(paths.ANTHROPIC_TO_OPENAI, "paced", ours),
        figure(paths.LITELLM_OPENAI, "paced", 50.0),
    )
    assert verdict(found, "paced: translated CPU at most 1/10") is passed


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {one.passed for one in judge(results()) if not one.target.startswith("every one of")} == {None}


@pytest.mark.parametrize(("last", "passed"), [(6.0, True), (7.0, False)])
def test_flat_means_that_a_thousand_streams_cost_no_more_each(last: float, passed: bool) -> None:
    costs = {1: 20.0, 64: 5.0, 1000: last}
    found = results(
        *(figure(paths.OPENAI_TO_ANTHROPIC, "flat, 5 ms", cost, concurrency=n) for n, cost in costs.items())
    )
    assert verdict(found, "flat, 5 ms") is passed


@pytest.mark.parametrize(
    ("costs", "passed"), [((1.0, 1.8, 2.6), True), ((1.0, 3.2, 5.4), False), ((1.0, 1.2, 2.8), False)]
)
def test_prompts_cost_at_most_a_millisecond_per_100_kb_and_linearly(costs: tuple[float, ...], passed: bool) -> None:
    found = results(
        *(
            figure(paths.NATIVE_OPENAI, "prompt", cost, prompt_bytes=size)
            for size, cost in zip((0, 100_000, 200_000), costs, strict=True)
        )
    )
    assert verdict(found, f"prompt, {paths.NATIVE_OPENAI}") is passed


def test_a_failed_stream_of_ours_is_a_missed_target() -> None:
    found = results(figure(paths.NATIVE_OPENAI, "paced", 1.0, failed=1))
    assert verdict(found, "every one of Patchbay's answers") is False


def test_a_report_is_printed_and_written(tmp_path: Path) -> None:
    found = results(figure(paths.OPENAI_TO_ANTHROPIC, "paced", 4.0), figure(paths.LITELLM_OPENAI, "paced", 50.0))
    found.memory = [Memory("patchbay", {"edge": 80.0}, {"edge": 82.0}, {"edge": 132.0}, 500)]
    console = Console(width=150, file=io.StringIO())
    show(found, judge(found), console)
    assert "12.50" in console.file.getvalue()  # type: ignore[attr-defined]
    assert found.memory[0].per_thousand("edge") == 100.0
    assert b'"total_ms": 50.0' in write_json(found, judge(found), tmp_path / "new").read_bytes()


def test_folded_stacks_are_summed_by_function() -> None:
    own, below, samples = read_stacks("run (a.py:1);read (b.py:2) 3\nrun (a.py:9);read (b.py:7);read (b.py:2) 1\n")
    assert samples == 4
    assert own == [("read (b.py)", 1.0)]
    assert dict(below) == {"run (a.py)": 1.0, "read (b.py)": 1.0}
