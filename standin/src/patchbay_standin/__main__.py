"""`patchbay-standin`: the stand-in as a process."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

import uvloop

from patchbay_standin.app import Standin
from patchbay_standin.server import DEFAULT_HOST, DEFAULT_PORT, running

READY = "patchbay-standin is ready on"


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    arguments = _parser().parse_args()
    try:
        uvloop.run(_serve(arguments))
    except OSError as error:
        sys.exit(f"patchbay-standin: cannot listen on {arguments.host}:{arguments.port}: {error.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="patchbay-standin",
        description="A scripted provider that speaks the Anthropic, OpenAI, ChatGPT and CodeBuddy protocols.",
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0: a free one (default: %(default)s)"
    )
    parser.add_argument("--no-records", action="store_true", help="keep no requests, only counts (for load tests)")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when standard input closes, as when the parent dies"
    )
    return parser


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), _stop_at_end, stop)
    app = Standin(keep_records=not arguments.no_records)
    async with running(app, host=arguments.host, port=arguments.port) as url:
        sys.stdout.write(f"{READY} {url}\n")
        sys.stdout.flush()
        await stop.wait()
        if arguments.until_stdin_closes:
            loop.remove_reader(sys.stdin.fileno())


def _stop_at_end(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        stop.set()


if __name__ == "__main__":
    main()
