"""The tables and the JSON of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from patchbay_bench import paths
from patchbay_bench.claude_figures import PLAIN, ClaudeResults
from patchbay_bench.codebuff_figures import ROLES, CodebuffResults, IdleSockets
from patchbay_bench.figures import Figure, Results, percentile
from patchbay_bench.measure import FLAT_STREAMS, TURN, TURN_BYTES, slope
from patchbay_bench.targets import Verdict, added_ms, flat_cost, prompt_points

# What every ratio is to: 1 is its figure.
BASE = paths.OPENAI_TO_ANTHROPIC


def write_json(results: Results, verdicts: Sequence[Verdict], folder: Path) -> Path:
    """Writes `<folder>/<timestamp>.json`, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    document = msgspec.json.encode({"results": results, "verdicts": list(verdicts)})
    path.write_bytes(msgspec.json.format(document, indent=1) + b"\n")
    return path


def show(results: Results, verdicts: Sequence[Verdict], console: Console) -> None:
    """Prints every table."""
    facts = results.facts
    console.print(
        f"{facts['time']}  {facts['processor']}, {facts['cores']} cores, Python {facts['python']}, "
        f"load average {facts['load_average']}"
    )
    if "streams" in results.parts:
        _streams(results, console)
    if "claude-cli" in results.parts:
        console.print(_claude_cli(results.claude_cli))
    if results.codebuff.idle is not None:
        console.print(_idle_sockets(results.codebuff.idle))
    if results.codebuff.figures:
        console.print(_prompts_beside_chats(results.codebuff))
    for left_out in results.left_out:
        console.print(f"left out: {left_out.name}: {left_out.reason}", markup=False)
    for note in results.notes:
        console.print(note, markup=False)
    _failures(results, console)
    console.print(_verdicts(verdicts))


def _streams(results: Results, console: Console) -> None:
    for kind, title in (
        ("paced", "Paced: 100 deltas 5 ms apart, 64 streams at once"),
        ("burst", "Burst: 100 deltas without a pause, an HTTP chunk each, 16 streams at once"),
        ("burst, joined", "Burst in one write of the upstream's, 16 streams at once"),
    ):
        console.print(_costs(results, kind, title))
    console.print(_first_contents(results))
    console.print(_prompts(results))
    console.print(_turns(results))
    console.print(_flat(results))
    console.print(_memory(results))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else "-"


def _costs(results: Results, kind: str, title: str) -> Table:
    table = _table(
        f"{title}. CPU milliseconds per stream",
        "path",
        "edge or proxy",
        "worker",
        "sum",
        "ratio",
        "streams/s",
        "ratio",
        "standin",
        "client",
        "chunks",
        "rounds",
    )
    base = results.find(kind, BASE)
    for figure in _of(results, kind):
        front = figure.cpu_ms.get("edge", figure.cpu_ms.get("proxy"))
        worker = figure.cpu_ms.get("worker")
        table.add_row(
            figure.path,
            f"{front:.2f}" if front is not None else "-",
            f"{worker:.2f}" if worker is not None else "-",
            f"{figure.total_ms:.2f}",
            _ratio(figure.total_ms, base.total_ms if base else None),
            f"{figure.streams_per_second:.0f}",
            _ratio(figure.streams_per_second, base.streams_per_second if base else None),
            f"{figure.others_ms['standin']:.2f}",
            f"{figure.others_ms['generator']:.2f}",
            f"{figure.pieces_per_stream:.0f}",
            " ".join(f"{total:.1f}" for total in figure.totals_ms),
        )
    return table


def _first_contents(results: Results) -> Table:
    table = _table(
        "Time to first content, 16 paced streams, milliseconds", "path", "median", "p99", "added", "ratio", "CPU"
    )
    base = added_ms(results, BASE)
    for figure in _of(results, "first content"):
        added = None if figure.path.startswith("direct") else added_ms(results, figure.path)
        table.add_row(
            figure.path,
            f"{figure.first_content_median_ms:.1f}",
            f"{figure.first_content_p99_ms:.1f}",
            "-" if added is None else f"{added:.1f}",
            "-" if added is None else _ratio(added, base),
            f"{figure.total_ms:.2f}",
        )
    return table


def _turns(results: Results) -> Table:
    table = _table(
        f"One more turn of a conversation of {TURN_BYTES // 1000} KB: milliseconds to first content",
        *("path", "median", "p99", "CPU"),
    )
    for figure in _of(results, TURN):
        table.add_row(
            figure.path,
            f"{figure.first_content_median_ms:.1f}",
            f"{figure.first_content_p99_ms:.1f}",
            f"{figure.total_ms:.2f}",
        )
    return table


def _prompts(results: Results) -> Table:
    sizes = sorted({figure.prompt_bytes for figure in results.figures if figure.kind == "prompt"})
    table = _table(
        "Prompts: CPU milliseconds per request by the size of its body (5 deltas, 8 at once)",
        "path",
        *(f"{size // 1000} KB" if size else "small" for size in sizes),
        "per 100 KB",
        "ratio",
    )
    named = dict.fromkeys(figure.path for figure in results.figures if figure.kind == "prompt")
    base_points = prompt_points(results, BASE)
    base = slope(base_points) if len(base_points) > 1 else None
    for path in named:
        if path.startswith("direct"):
            continue
        points = prompt_points(results, path)
        costs = dict(points)
        per_byte = slope(points) if len(points) > 1 else None
        table.add_row(
            path,
            *(f"{costs[size]:.2f}" if size in costs else "-" for size in sizes),
            "-" if per_byte is None else f"{per_byte * 100_000:.2f}",
            "-" if per_byte is None else _ratio(per_byte, base),
        )
    return table


def _flat(results: Results) -> Table:
    table = _table(
        "Open streams: CPU milliseconds per stream at 1, 64 and 1,000 at once, less what an idle system uses",
        "path",
        *(f"{streams:,}" for streams in FLAT_STREAMS),
        "1,000 to 1",
        "1,000 to 64",
    )
    for kind, path in dict.fromkeys((f.kind, f.path) for f in results.figures if f.kind.startswith("flat")):
        found = [results.find(kind, path, concurrency=streams) for streams in FLAT_STREAMS]
        costs = [flat_cost(results, figure) if figure and figure.completed else None for figure in found]
        last = costs[-1]
        table.add_row(
            f"{path} ({kind.removeprefix('flat, ')})",
            *("-" if cost is None else f"{cost:.2f}" for cost in costs),
            *("-" if last is None else _ratio(last, cost) for cost in costs[:2]),
        )
    return table


def _memory(results: Results) -> Table:
    table = _table(
        "Memory: resident megabytes", "process", "at rest", "ratio", "after warm-up", "per 1,000 open streams"
    )
    base = next((memory.rest.get("edge") for memory in results.memory if memory.system == "patchbay"), None)
    for memory in results.memory:
        for role, rest in memory.rest.items():
            per_thousand = memory.per_thousand(role)
            table.add_row(
                f"{memory.system} {role}",
                f"{rest:.0f}",
                _ratio(rest, base),
                f"{memory.warm[role]:.0f}" if memory.warm else "-",
                "-" if per_thousand is None else f"{per_thousand:.0f}",
            )
    return table


def _claude_cli(found: ClaudeResults) -> Table:
    spare = found.spare
    memory = f". A spare holds {spare.resident:.0f} MB, {spare.unshared:.0f} of them alone" if spare else ""
    load = f". Load average {min(found.loads):.1f} to {max(found.loads):.1f}" if found.loads else ""
    table = _table(
        f"claude-cli: milliseconds to first content, one request at a time{memory}{load}",
        "way, and what is asked",
        "requests",
        "first byte",
        "p90",
        "content: least",
        "median",
        "p90",
        "over direct",
        "growth",
        "worker's CPU",
    )
    for figure in found.figures:
        if not figure.completed:
            continue
        # An agent's turn has a body of its own: what the program asks the API for it is the program's affair.
        over = found.overhead_ms(figure.way, figure.body, over=PLAIN.label if figure.way == "agent" else "")
        grown = found.growth_ms(figure.way).get(figure.history)
        content, byte = sorted(figure.first_content_ms), sorted(figure.first_byte_ms)
        table.add_row(
            f"{figure.way}: {figure.body}",
            str(figure.completed),
            f"{statistics.median(byte):.0f}",
            f"{percentile(byte, 0.9):.0f}",
            f"{content[0]:.0f}",
            f"{figure.median_ms:.0f}",
            f"{percentile(content, 0.9):.0f}",
            "-" if over is None or figure.way == "direct" else f"{over:.0f}",
            "-" if grown is None else f"{grown:+.0f}",
            f"{statistics.median(figure.cpu_seconds):.2f} s",
        )
    return table


def _idle_sockets(idle: IdleSockets) -> Table:
    wanted = f" ({idle.wanted:,} wanted)" if idle.wanted > idle.sockets else ""
    table = _table(
        f"Codebuff: {idle.sockets:,} idle sockets{wanted} for {idle.seconds:g} s, each client pinging every "
        f"{idle.ping_seconds:g} s",
        *("process", "MB without", "MB with", "KB per socket", "CPU without", "CPU with"),
    )
    for role in ROLES:
        size = idle.kilobytes(role)
        if size is None:
            continue
        table.add_row(
            role,
            f"{idle.rest[role] / 2**20:.0f}",
            f"{idle.open[role] / 2**20:.0f}",
            f"{size:.1f}",
            f"{idle.rest_cpu[role]:.1f} %",
            f"{idle.open_cpu[role]:.1f} %",
        )
    return table


def _prompts_beside_chats(found: CodebuffResults) -> Table:
    words = {
        "direct": "direct",
        "chat": "chat over HTTP",
        "prompt": "prompt",
        "run": "prompt and new socket",
        "crowd": "prompt",
    }
    load = f". Load average {min(found.loads):.1f} to {max(found.loads):.1f}" if found.loads else ""
    table = _table(
        f"Codebuff: a prompt of one step ({found.prompt_bytes / 1000:.0f} KB) beside what it asks of its model "
        f"({found.chat_bytes / 1000:.0f} KB): milliseconds to the end{load}",
        *("way", "requests", "at once", "least", "median", "p99", "over chat", "direct"),
        *("CPU: edge", "codebuff-ws", "worker", "valkey"),
    )
    for figure in found.figures:
        if not figure.completed:
            continue
        durations = sorted(figure.duration_ms)
        over_chat, over_direct = found.over_ms(figure.way, "chat"), found.over_ms(figure.way, "direct")
        alone = figure.concurrency == 1
        table.add_row(
            words[figure.way],
            str(figure.completed),
            str(figure.concurrency),
            f"{durations[0]:.1f}",
            f"{figure.median_ms:.1f}",
            f"{percentile(durations, 0.99):.1f}",
            "-" if over_chat is None or not alone or figure.way in ("direct", "chat") else f"{over_chat:.1f}",
            "-" if over_direct is None or not alone or figure.way == "direct" else f"{over_direct:.1f}",
            *("-" if (cpu := figure.cpu(role)) is None else f"{cpu:.2f}" for role in ROLES),
        )
    return table


def _failures(results: Results, console: Console) -> None:
    for figure in results.figures:
        if figure.failed:
            console.print(
                f"{figure.path}, {figure.kind}: {figure.failed} of {figure.completed + figure.failed} streams failed: "
                f"{'; '.join(figure.failures)}",
                markup=False,
            )
    for asked in results.claude_cli.figures:
        if asked.failed:
            console.print(
                f"claude-cli, {asked.way}, {asked.body}: {asked.failed} of {asked.completed + asked.failed} requests "
                f"failed: {'; '.join(asked.failures)}",
                markup=False,
            )
    for prompt in results.codebuff.figures:
        if prompt.failed:
            console.print(
                f"codebuff, {prompt.way}: {prompt.failed} of {prompt.completed + prompt.failed} failed: "
                f"{'; '.join(prompt.failures)}",
                markup=False,
            )
    if results.codebuff.idle is not None and results.codebuff.idle.failures:
        console.print(f"codebuff, idle sockets: {'; '.join(results.codebuff.idle.failures)}", markup=False)


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="Targets", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("target")
    table.add_column("measured", justify="right")
    table.add_column("", no_wrap=True)
    for verdict in verdicts:
        word = "-" if verdict.passed is None else "[green]passed[/]" if verdict.passed else "[red bold]missed[/]"
        table.add_row(verdict.target, verdict.measured, word)
    return table


def _of(results: Results, kind: str) -> list[Figure]:
    return [figure for figure in results.figures if figure.kind == kind]
