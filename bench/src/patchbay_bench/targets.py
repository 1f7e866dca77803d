"""The targets, each held against what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from patchbay_bench import paths
from patchbay_bench.claude_figures import PLAIN, WITH_TOOLS, ClaudeResults
from patchbay_bench.codebuff_figures import CodebuffResults
from patchbay_bench.figures import Figure, Results
from patchbay_bench.measure import FLAT_STREAMS, TURN, TURN_BYTES, slope, without_idle

LITELLM_SHARE: Final = 1 / 10
CCPROXY_SHARE: Final = 1 / 5
BURST_SHARE: Final = 1 / 20
ADDED_FIRST_CONTENT_MS: Final = 10.0
REST_MB: Final = 120.0
# Between 1 and 1,000 open streams; a figure taken twice differs by as much.
GROWTH: Final = 1.25
PROMPT_MS_PER_100_KB: Final = 1.0
# How much more than the first half of a prompt's bytes the second may cost, and by how much two samples differ anyway.
CURVATURE: Final = 1.5
NOISE_MS_PER_100_KB: Final = 0.5
# Of a request through a `claude` process that waits, beside the same one to the API.
CLAUDE_OVERHEAD_MS: Final = 350.0
CLAUDE_HISTORY: Final = 20
CLAUDE_GROWTH_MS: Final = 500.0
# A socket of Codebuff's in the edge, and a prompt in it beside the same chat over HTTP.
SOCKET_KB: Final = 40.0
PROMPT_OVER_CHAT_MS: Final = 15.0

_TRANSLATED: Final = (paths.OPENAI_TO_ANTHROPIC, paths.ANTHROPIC_TO_OPENAI)
_NATIVE: Final = (paths.NATIVE_ANTHROPIC, paths.NATIVE_OPENAI)
_SOCKETS: Final = (
    (paths.SOCKET_RESPONSES, paths.NATIVE_RESPONSES),
    (paths.SOCKET_TO_ANTHROPIC, paths.RESPONSES_TO_ANTHROPIC),
)
_SAME_UPSTREAM: Final = (
    (paths.NATIVE_ANTHROPIC, paths.OPENAI_TO_ANTHROPIC),
    (paths.NATIVE_OPENAI, paths.ANTHROPIC_TO_OPENAI),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target. `passed` is None when what it needs was not measured."""

    target: str
    measured: str
    passed: bool | None


def judge(results: Results) -> list[Verdict]:
    """Every target of what the run was of, in the order of the report."""
    return [
        *(_streams(results) if "streams" in results.parts else []),
        *(_claude_cli(results) if "claude-cli" in results.parts else []),
        *(_codebuff(results.codebuff) if "codebuff" in results.parts else []),
    ]


def _streams(results: Results) -> list[Verdict]:
    return [
        *_shares(results, "paced", (paths.LITELLM_OPENAI, LITELLM_SHARE), (paths.CCPROXY_TRANSLATED, CCPROXY_SHARE)),
        *_native_not_dearer(results),
        *_shares(results, "burst", (paths.LITELLM_OPENAI, BURST_SHARE)),
        *_sockets_sooner(results),
        *_shares(results, "burst, joined", (paths.LITELLM_OPENAI, BURST_SHARE)),
        _first_content(results),
        *_rest(results),
        *_flat(results),
        *_prompts(results),
        _complete(results),
    ]


def _shares(results: Results, kind: str, *peers: tuple[str, float]) -> list[Verdict]:
    """The dearer of the two translated paths against a peer."""
    verdicts = []
    ours = [figure for path in _TRANSLATED if (figure := results.find(kind, path))]
    for name, share in peers:
        target = f"{kind}: translated CPU at most 1/{1 / share:.0f} of {name}"
        theirs = results.find(kind, name)
        if not ours or theirs is None or not theirs.completed:
            verdicts.append(Verdict(target, "not measured", None))
            continue
        dearest = max(figure.total_ms for figure in ours)
        ratio = theirs.total_ms / dearest if dearest else 0.0
        measured = f"{dearest:.2f} of {theirs.total_ms:.1f} ms: 1/{ratio:.1f}"
        verdicts.append(Verdict(target, measured, dearest <= theirs.total_ms * share))
    return verdicts


def _sockets_sooner(results: Results) -> list[Verdict]:
    """A turn of a long conversation begins sooner over a WebSocket than over HTTP."""
    verdicts = []
    for socket, http in _SOCKETS:
        over_socket, over_http = (results.find(TURN, path, prompt_bytes=TURN_BYTES) for path in (socket, http))
        target = f"turn: {socket} sooner than over HTTP"
        if over_socket is None or over_http is None:
            verdicts.append(Verdict(target, "not measured", None))
            continue
        found = (over_socket.first_content_median_ms, over_http.first_content_median_ms)
        verdicts.append(Verdict(target, f"{found[0]:.1f} and {found[1]:.1f} ms", found[0] < found[1]))
    return verdicts


def _native_not_dearer(results: Results) -> list[Verdict]:
    verdicts = []
    for native, translated in _SAME_UPSTREAM:
        target = f"paced: {native} not above {translated.removeprefix('Patchbay, ')}"
        one, other = results.find("paced", native), results.find("paced", translated)
        if one is None or other is None:
            verdicts.append(Verdict(target, "not measured", None))
        else:
            measured = f"{one.total_ms:.2f} and {other.total_ms:.2f} ms"
            verdicts.append(Verdict(target, measured, one.total_ms <= other.total_ms))
    return verdicts


def _first_content(results: Results) -> Verdict:
    target = f"added time to first content, 16 paced streams: median at most {ADDED_FIRST_CONTENT_MS:g} ms"
    added = {path: value for path in (*_TRANSLATED, *_NATIVE) if (value := added_ms(results, path)) is not None}
    if not added:
        return Verdict(target, "not measured", None)
    worst = max(added, key=lambda path: added[path])
    return Verdict(target, f"{added[worst]:.1f} ms ({worst})", added[worst] <= ADDED_FIRST_CONTENT_MS)


def added_ms(results: Results, path: str) -> float | None:
    """What a path adds to the median time to first content that the stand-in has for the same client."""
    through = results.find("first content", path)
    client = "Anthropic" if path.startswith("Patchbay, Anthropic") or path.endswith(", Anthropic") else "OpenAI"
    direct = results.find("first content", paths.DIRECT_ANTHROPIC if client == "Anthropic" else paths.DIRECT_OPENAI)
    if through is None or direct is None or not through.completed:
        return None
    return through.first_content_median_ms - direct.first_content_median_ms


def _rest(results: Results) -> list[Verdict]:
    memory = next((memory for memory in results.memory if memory.system == "patchbay"), None)
    if memory is None:
        return [Verdict(f"RSS at rest at most {REST_MB:g} MB", "not measured", None)]
    return [
        Verdict(f"RSS at rest of {role} at most {REST_MB:g} MB", f"{size:.0f} MB", size <= REST_MB)
        for role, size in memory.rest.items()
        if role != "valkey"
    ]


def _flat(results: Results) -> list[Verdict]:
    verdicts = []
    kinds = sorted({(figure.kind, figure.path) for figure in results.figures if figure.kind.startswith("flat")})
    for kind, path in kinds:
        costs = [
            flat_cost(results, figure)
            for streams in FLAT_STREAMS
            if (figure := results.find(kind, path, concurrency=streams)) and figure.completed
        ]
        target = f"{kind} between deltas, {path}: flat from 1 to 1,000 streams"
        if len(costs) < len(FLAT_STREAMS):
            verdicts.append(Verdict(target, "not measured", None))
            continue
        grown = costs[-1] / min(costs[0], costs[1])
        measured = " / ".join(f"{cost:.1f}" for cost in costs) + " ms"
        verdicts.append(Verdict(target, measured, grown <= GROWTH))
    return verdicts or [Verdict("flat from 1 to 1,000 streams", "not measured", None)]


def flat_cost(results: Results, figure: Figure) -> float:
    """CPU milliseconds per stream, less what an idle system uses in that time."""
    idle = sum(value for role, value in results.idle_ms.items() if role != "valkey")
    return without_idle(figure.total_ms, idle_ms=idle, streams_per_second=figure.streams_per_second)


def _prompts(results: Results) -> list[Verdict]:
    verdicts = []
    for path in _NATIVE:
        points = prompt_points(results, path)
        target = f"prompt, {path}: at most {PROMPT_MS_PER_100_KB:g} ms per 100 KB, and linear"
        if len(points) < 3:
            verdicts.append(Verdict(target, "not measured", None))
            continue
        per_100_kb = slope(points) * 100_000
        middle = next(point for point in points if point[0] * 2 >= points[-1][0])
        first = (middle[1] - points[0][1]) / (middle[0] - points[0][0]) * 100_000
        second = (points[-1][1] - middle[1]) / (points[-1][0] - middle[0]) * 100_000
        linear = second <= max(first * CURVATURE, first + NOISE_MS_PER_100_KB)
        measured = f"{per_100_kb:.2f} ms; first half {first:.2f}, second {second:.2f}"
        verdicts.append(Verdict(target, measured, linear and per_100_kb <= PROMPT_MS_PER_100_KB))
    return verdicts


def prompt_points(results: Results, path: str) -> Sequence[tuple[float, float]]:
    """(bytes, CPU milliseconds per stream), the shortest prompt first."""
    return sorted(
        (float(figure.prompt_bytes), figure.total_ms)
        for figure in results.figures
        if figure.kind == "prompt" and figure.path == path and figure.completed
    )


def _complete(results: Results) -> Verdict:
    ours = [figure for figure in results.figures if figure.path.startswith("Patchbay")]
    failed = sum(figure.failed for figure in ours)
    whole = sum(figure.completed for figure in ours)
    return Verdict(
        "every one of Patchbay's answers complete and correct", f"{failed} of {whole + failed} not", not failed
    )


def _claude_cli(results: Results) -> list[Verdict]:
    return [_claude_overhead(results.claude_cli), _claude_growth(results.claude_cli), _claude_complete(results)]


def _claude_overhead(found: ClaudeResults) -> Verdict:
    target = f"claude-cli: first content through a spare at most {CLAUDE_OVERHEAD_MS:g} ms after the API's, median"
    bodies = (PLAIN.label, WITH_TOOLS.label)
    added = {body: value for body in bodies if (value := found.overhead_ms("spare", body)) is not None}
    if len(added) < len(bodies):
        return Verdict(target, "not measured", None)
    measured = ", ".join(f"{value:.0f} ms ({body})" for body, value in added.items())
    return Verdict(target, measured, max(added.values()) <= CLAUDE_OVERHEAD_MS)


def _claude_growth(found: ClaudeResults) -> Verdict:
    target = f"claude-cli: a history of up to {CLAUDE_HISTORY} messages makes it at most {CLAUDE_GROWTH_MS:g} ms later"
    grown = {history: value for history, value in found.growth_ms("spare").items() if history <= CLAUDE_HISTORY}
    if CLAUDE_HISTORY not in grown:
        return Verdict(target, "not measured", None)
    measured = ", ".join(f"{value:+.0f} ms ({history})" for history, value in grown.items())
    return Verdict(target, measured, max(grown.values()) <= CLAUDE_GROWTH_MS)


def _claude_complete(results: Results) -> Verdict:
    figures = results.claude_cli.figures
    failed = sum(figure.failed for figure in figures)
    asked = failed + sum(figure.completed for figure in figures)
    return Verdict(
        "claude-cli: every answer complete and correct",
        f"{failed} of {asked} not" if asked else "not measured",
        not failed if asked else None,
    )


def _codebuff(found: CodebuffResults) -> list[Verdict]:
    return [_codebuff_memory(found), _codebuff_overhead(found), _codebuff_crowd(found), _codebuff_complete(found)]


def _codebuff_memory(found: CodebuffResults) -> Verdict:
    target = f"codebuff: an idle socket takes at most {SOCKET_KB:g} KB in the edge"
    size = found.idle.kilobytes("edge") if found.idle else None
    if found.idle is None or size is None:
        return Verdict(target, "not measured", None)
    return Verdict(target, f"{size:.1f} KB, of {found.idle.sockets:,}", size <= SOCKET_KB)


def _codebuff_overhead(found: CodebuffResults) -> Verdict:
    target = f"codebuff: a prompt takes at most {PROMPT_OVER_CHAT_MS:g} ms longer than the same chat, median"
    over = found.over_ms("prompt", "chat")
    if over is None:
        return Verdict(target, "not measured", None)
    return Verdict(target, f"{over:.1f} ms", over <= PROMPT_OVER_CHAT_MS)


def _codebuff_crowd(found: CodebuffResults) -> Verdict:
    target = "codebuff: prompts in many sockets at once are all answered"
    crowd = next((figure for figure in found.figures if figure.way == "crowd"), None)
    if crowd is None:
        return Verdict(target, "not measured", None)
    return Verdict(target, f"{crowd.failed} of {crowd.completed + crowd.failed} not", not crowd.failed)


def _codebuff_complete(found: CodebuffResults) -> Verdict:
    target = "codebuff: no idle socket lost, every answer complete and correct"
    asked = [figure for figure in found.figures if figure.way != "direct"]
    failed = sum(figure.failed for figure in asked)
    whole = sum(figure.completed for figure in asked)
    if found.idle is None or not whole:
        return Verdict(target, "not measured", None)
    measured = f"{found.idle.lost} of {found.idle.sockets} sockets, {failed} of {whole + failed} answers"
    return Verdict(target, measured, not (found.idle.lost or failed))
