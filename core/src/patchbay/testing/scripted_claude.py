"""A program that speaks as much of the `claude` program's protocol as the workers use, and fails as a test wants.

    claude = ScriptedClaude(tmp_path)
    claude.plan(answer="hang")
    Backend(..., cli_path=claude.path)

It starts in a tenth of the real program's time, and does what the real one cannot be made to do. It is run by its path
and with nothing but the standard library.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "https://claude.example/oauth/authorize?code=true&state=made-up"


class ScriptedClaude:
    """The program, with its plan and a record of its starts in a directory.

    Attributes:
        path: For `cli_path`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = str(directory / "claude")
        self.plan()
        self.appear()

    def appear(self) -> None:
        """Installs the program."""
        path = Path(self.path)
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {self._directory} "$@"\n')
        path.chmod(0o755)

    def disappear(self) -> None:
        """Uninstalls it."""
        Path(self.path).unlink()

    def plan(self, *starts: dict[str, object], **every: object) -> None:
        """What the processes do that start from now on.

        Args:
            starts: For the next processes, one each; what `every` says holds for them too.
            every: `exit` (a status, at once), `start_delay`, `check` (`hang`, `die`), `checks` (answered before that),
                `settings` (`hang`: other control requests are not answered), `read` (False: never), `garbage` (lines
                that are no messages), `grow_mb`, `close` (its output, after the check), `child` (a process in a session
                of its own, with its output), `answer` (`whole`, `hang`, `die`, `break`: some of it, then nothing,
                `crash`: some of it and then its end, `flood`: more than anybody reads), `pace` (seconds between the
                pieces), `unfit` (True: it does not send what it is told), `code` (the one that `auth login` takes),
                `auth` (`hang`).
        """
        text = json.dumps({"starts": [every | start for start in starts], "every": every, "first": len(self.starts())})
        scratch = self._directory / "plan.new"
        scratch.write_text(text)
        scratch.rename(self._directory / "plan.json")

    def starts(self) -> list[dict[str, object]]:
        """Every start so far: `pid`, `arguments`, `environ`, and the `child`'s pid."""
        log = self._directory / "starts"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def running(self) -> list[int]:
        """The processes that run, their children too."""
        pids = [start[name] for start in self.starts() for name in ("pid", "child") if start.get(name)]
        return [pid for pid in pids if isinstance(pid, int) and _runs(pid)]

    def sign_in(self) -> None:
        """Makes a sign-in, as an operator does in a terminal."""
        (self._directory / "signed-in").touch()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class _Program:
    def __init__(self, directory: Path, arguments: list[str]) -> None:
        self._directory = directory
        self._arguments = arguments
        self._plan: dict[str, object] = {}

    def _start(self) -> None:
        """Takes the next place in the plan, and says so."""
        started = {"pid": os.getpid(), "arguments": self._arguments, "environ": dict(os.environ)}
        with (self._directory / "starts").open("a+") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.seek(0)
            number = len(log.readlines())
            plan = json.loads((self._directory / "plan.json").read_text())
            place = number - plan["first"]
            self._plan = plan["starts"][place] if place < len(plan["starts"]) else plan["every"]
            if self._plan.get("child"):
                # It keeps this process's output open, and is not in its group.
                started["child"] = subprocess.Popen(["sleep", "600"], start_new_session=True).pid
            log.write(json.dumps(started) + "\n")

    def run(self) -> None:
        url = os.environ.get("ANTHROPIC_BASE_URL", "")
        if url.endswith("/patchbay-probe"):
            # No start of a test's: whether it can be used is found out beside all else.
            self._be_probed(url)
            return
        self._start()
        if self._arguments[:1] == ["auth"]:
            self._auth(self._arguments[1])
        if "exit" in self._plan:
            print("no luck today", file=sys.stderr)  # noqa: T201  its output is what it is for
            sys.exit(int(str(self._plan["exit"])))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(float(str(self._plan.get("start_delay", 0))))
        if self._plan.get("read") is False:
            _hang()
        ballast = bytearray(int(str(self._plan.get("grow_mb", 0))) << 20)
        ballast[::4096] = b"x" * len(ballast[::4096])
        checks = 0
        for line in sys.stdin:
            message = json.loads(line)
            if message["type"] == "control_request":
                if message["request"]["subtype"] == "mcp_status":
                    checks += 1
                    self._fail_check(checks)
                elif self._plan.get("settings") == "hang":
                    _hang()
                for _ in range(int(str(self._plan.get("garbage", 0)))):
                    _write("Welcome! { this is no message\n{\n{}\n")
                _say(type="control_response", response={"subtype": "success", "request_id": message["request_id"]})
                if self._plan.get("close"):
                    sys.stdout.flush()
                    os.close(1)
                    # uvloop leaves its children a second handle.
                    os.closerange(3, 256)
                    _hang()
            elif message["type"] == "user":
                self._answer(str(self._plan.get("answer", "whole")))

    def _be_probed(self, url: str) -> None:
        # It is half of what a start costs, and most starts do without.
        import http.client

        body = "{}"
        for line in sys.stdin:
            message = json.loads(line)
            if message["type"] == "control_request":
                settings = message["request"].get("settings", {})
                body = settings.get("env", {}).get("CLAUDE_CODE_EXTRA_BODY", body)
                _say(type="control_response", response={"subtype": "success", "request_id": message["request_id"]})
                continue
            if json.loads((self._directory / "plan.json").read_text())["every"].get("unfit"):
                body = json.dumps({"messages": [message["message"]]})
            host = url.partition("://")[2].partition("/")
            connection = http.client.HTTPConnection(host[0])
            connection.request("POST", f"/{host[2]}/v1/messages", body)
            connection.getresponse().read()
            _say(type="result", subtype="success", is_error=True, result="only a probe")

    def _fail_check(self, number: int) -> None:
        if number <= int(str(self._plan.get("checks", 0))):
            return
        if self._plan.get("check") == "hang":
            _hang()
        elif self._plan.get("check") == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def _answer(self, how: str) -> None:
        if how == "hang":
            _hang()
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        events = list(_events())
        if how in ("break", "crash"):
            events = events[:4]
        for event in events:
            _say(type="stream_event", event=event, parent_tool_use_id=None)
            time.sleep(float(str(self._plan.get("pace", 0))))
        if how == "break":
            _hang()
        if how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "flood":
            _write("x" * (8 << 20) + "\n")
        _say(type="result", subtype="success", is_error=False, result="hello there")

    def _auth(self, command: str) -> None:
        signed_in = self._directory / "signed-in"
        if self._plan.get("auth") == "hang":
            _hang()
        if command == "status":
            _write(json.dumps({"loggedIn": signed_in.exists()}, indent=2) + "\n")
            sys.exit(not signed_in.exists())
        if command == "logout":
            signed_in.unlink(missing_ok=True)
            _write("Successfully logged out from your Anthropic account.\n")
            sys.exit(0)
        _write(f"Opening browser to sign in…\nIf the browser didn't open, visit: {URL}\nPaste code here if prompted > ")
        code = sys.stdin.readline().strip()
        if code != self._plan.get("code"):
            print(f"Couldn't log in: {code} is not valid", file=sys.stderr)  # noqa: T201
            sys.exit(1)
        signed_in.touch()
        _write("Login successful.\n")
        sys.exit(0)


def _events() -> Iterator[dict[str, object]]:
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for piece in ("hello", " ", "there"):
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}}
    yield {"type": "message_stop"}


def _say(**message: object) -> None:
    _write(json.dumps(message) + "\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _hang() -> None:
    while True:
        time.sleep(60)


if __name__ == "__main__":
    _Program(Path(sys.argv[1]), sys.argv[2:]).run()
