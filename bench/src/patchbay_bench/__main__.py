"""`patchbay-bench`: runs the benchmark, prints its tables and writes its JSON."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from patchbay_bench import claude_cli, codebuff
from patchbay_bench.environments import NotInstalled
from patchbay_bench.figures import PARTS, Results, machine_facts
from patchbay_bench.load import LoadGenerator
from patchbay_bench.measure import Bench
from patchbay_bench.plan import FULL, QUICK, Plan
from patchbay_bench.profiling import Profile, profile
from patchbay_bench.report import show, write_json
from patchbay_bench.systems import running
from patchbay_bench.targets import judge

_HOME: Final = Path(__file__).resolve().parents[2]
_WIDTH: Final = 150


def main() -> None:
    """Runs it. Exits 0 when everything was measured, targets met or not, and 1 when a peer was left out."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.profile and arguments.only not in (None, "streams"):
        parser.error("--profile is of the streams")
    _allow_files()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    progress = Console(stderr=True)

    def say(step: str) -> None:
        progress.print(
            f"{time.strftime('%H:%M:%S')}  {step}  (load {os.getloadavg()[0]:.1f})", markup=False, style="dim"
        )

    plan = QUICK if arguments.quick else FULL
    with LoadGenerator() as generator:
        if arguments.profile:
            _profile(arguments, generator, plan, console=console, say=say)
            return
        results = Results(facts=machine_facts(), parts=(arguments.only,) if arguments.only else PARTS)
        if "streams" in results.parts:
            say("starting everything")
            with running(home=_HOME, uv=arguments.uv, peers=arguments.peers) as systems:
                results.left_out += systems.left_out
                Bench(systems, generator, plan, say=say).run(results)
        if "claude-cli" in results.parts:
            claude_cli.measure(results, generator, plan, say=say)
        if "codebuff" in results.parts:
            codebuff.measure(results, generator, plan, say=say)
    verdicts = judge(results)
    show(results, verdicts, console)
    console.print(f"written to {write_json(results, verdicts, arguments.results)}", markup=False)
    sys.exit(1 if results.left_out else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="patchbay-bench", description="Measures Patchbay, LiteLLM and CCProxy side by side against the stand-in."
    )
    parser.add_argument("--quick", action="store_true", help="few rounds of everything: about three minutes")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Patchbay and the stand-in only")
    parser.add_argument(
        "--only",
        choices=PARTS,
        help="one part: streams (Patchbay and its peers), claude-cli (`claude` processes), or codebuff (its sockets)",
    )
    parser.add_argument("--profile", action="store_true", help="record where edge and worker spend their time instead")
    parser.add_argument("--uv", help="the uv program, when it is neither on the path nor in .tools/bin")
    parser.add_argument(
        "--results", type=Path, default=_HOME / "results", help="where the JSON goes (default: %(default)s)"
    )
    return parser


def _allow_files() -> None:
    """A thousand streams need some thousand sockets in each process; what is started here inherits the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _profile(
    arguments: argparse.Namespace, generator: LoadGenerator, plan: Plan, *, console: Console, say: Callable[[str], None]
) -> None:
    say("starting everything")
    with running(home=_HOME, uv=arguments.uv, peers=False) as systems:
        bench = Bench(systems, generator, plan, say=say)
        bench.warm_up(systems.paths)
        folder = arguments.results / time.strftime("profile-%Y%m%d-%H%M%S", time.gmtime())
        try:
            profiles = profile(systems, bench, home=_HOME, uv=arguments.uv, folder=folder, say=say)
        except NotInstalled as error:
            sys.exit(f"patchbay-bench: {error}")
    _show_profiles(profiles, console)


def _show_profiles(profiles: list[Profile], console: Console) -> None:
    for each in profiles:
        console.print(f"\n{each.path}, {each.kind}: {each.role} ({each.samples} samples; {each.stacks})", markup=False)
        for name, milliseconds in sorted(each.threads.items(), key=lambda item: -item[1])[:4]:
            console.print(f"  {milliseconds:6.2f} ms per stream: thread {name}", markup=False, highlight=False)
        for title, shares in (("itself", each.own), ("with all it calls", each.below)):
            console.print(f"  {title}", markup=False)
            for name, share in shares:
                console.print(f"    {share:6.1%}  {name}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
