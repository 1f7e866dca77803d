"""`patchbay permissions` as its own process, at a terminal, against a real edge."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from patchbay.testing.cluster import ServiceProcess
from patchbay.testing.eventually import wait_until
from patchbay.testing.ports import free_port
from patchbay.testing.valkey import ValkeyProcess

HOSTILE = {
    "command": "echo \x1b]0;owned\x07 \x1b[2J \x9b31m \u202etxt.exe \u200b\u2028end\U0001f600",
    "script": "first\n\tsecond\r\nAllow Bash? \x1b[1A",
    "nested": {"\x1b[31m": ["\x7f", 1.0, {}]},
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "patchbay_cli", "permissions", *arguments]


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


StartEdge = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def start_edge(valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartEdge]:
    started: list[ServiceProcess] = []

    def start(**sections: object) -> ServiceProcess:
        directory = tmp_path_factory.mktemp("edge")
        config = directory / "patchbay.json"
        database = f"{valkey.url.removesuffix('0')}{len(started)}"
        config.write_text(json.dumps({"redis": {"url": database}, "server": {"drain_seconds": 0}, **sections}))
        environ = {"PATH": os.environ["PATH"], "HOME": str(directory)}
        port = free_port()
        edge = ServiceProcess("edge", config=config, environ=environ, log=directory / "log", port=port)
        started.append(edge)
        wait_until(lambda: is_up(edge), what="the edge answers", log=edge.output)
        return edge

    yield start
    for edge in started:
        if edge.alive:
            edge.kill()


def is_up(edge: ServiceProcess) -> bool:
    try:
        return httpx.get(edge.url + "/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def edge(start_edge: StartEdge) -> ServiceProcess:
    return start_edge()


@pytest.fixture
def ask(edge: ServiceProcess) -> Iterator[Callable[..., Future[dict]]]:
    """Asks as Claude Code elsewhere does; what is still asked at the end is denied."""

    def check(tool: str, tool_input: dict, headers: dict[str, str]) -> dict:
        body = json.dumps({"tool_name": tool, "input": tool_input, "timeout_seconds": 60})
        raw = {"content-type": b"application/json"} | {name: text.encode("latin-1") for name, text in headers.items()}
        return httpx.post(edge.url + "/mcp/permission/check", content=body, headers=raw, timeout=90).json()

    with ThreadPoolExecutor() as pool:
        yield lambda tool="Bash", tool_input=None, **headers: pool.submit(check, tool, tool_input or {}, headers)
        for request in pending(edge):
            httpx.post(f"{edge.url}/permissions/{request['id']}/respond", json={"decision": "deny"})


def pending(edge: ServiceProcess) -> list[dict]:
    return httpx.get(edge.url + "/permissions").json()["data"]


def only(edge: ServiceProcess) -> str:
    """The id of the one request that is pending."""
    wait_until(lambda: pending(edge), what="a request is pending")
    (request,) = pending(edge)
    return request["id"]


class Terminal:
    """The command at a terminal of its own."""

    def __init__(self, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=side,
            stdout=side,
            stderr=side,
            env={"PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8", **(environ or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(side)
        self._output = b""
        self._read_until = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._main, 65536):
                self._output += data
        except OSError:
            pass  # the other side is closed

    @property
    def raw(self) -> bytes:
        return self._output

    def text(self) -> str:
        """What was shown, without the colours that are our own."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._output.decode(errors="replace")).replace("\r\n", "\n")

    def wait_for(self, words: str) -> str:
        """Waits until `words` are shown after what was waited for before; what was shown until then."""
        wait_until(
            lambda: words in self.text()[self._read_until :] or self.process.poll() is not None,
            what=words,
            log=self.text,
            seconds=20,
        )
        start, end = self._read_until, self.text().find(words, self._read_until)
        assert end >= 0, self.text()
        self._read_until = end + len(words)
        return self.text()[start : self._read_until]

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        os.close(self._main)


OpenTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal(edge: ServiceProcess) -> Iterator[OpenTerminal]:
    opened: list[Terminal] = []

    def start(*arguments: str, **options) -> Terminal:
        opened.append(Terminal(*(arguments or ("--url", edge.url)), **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def run(*arguments: str, stdin: str | None = None, cwd: Path | None = None, **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command(*arguments),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **environ},
    )
    return done.returncode, done.stdout, done.stderr


# -- at a terminal ----------------------------------------------------------------------------------------------------


def test_questions_are_answered_as_they_come(terminal: OpenTerminal, ask) -> None:
    live = terminal()
    live.wait_for("Ctrl-C ends.")
    for typed, answer, said in (
        ("y\n", {"behavior": "allow", "updatedInput": {"command": "make"}}, "Bash: allowed by operator."),
        ("n\n", {"behavior": "deny", "message": "permission was denied"}, "Bash: denied by operator."),
        ("n not today\n", {"behavior": "deny", "message": "not today"}, "Bash: denied by operator: not today."),
        ('e {"command": "ls"}\n', {"behavior": "allow", "updatedInput": {"command": "ls"}}, "Bash: allowed"),
    ):
        asked = ask("Bash", {"command": "make"}, **{"x-patchbay-session": "s-9"})
        shown = live.wait_for("Allow Bash? ")
        assert "command: make" in shown
        assert "mcp · session s-9" in shown
        live.type(typed)
        live.wait_for(said)
        assert asked.result(10) == answer
    live.type("\x03")
    assert live.process.wait(10) == 0
    assert "Traceback" not in live.text()


def test_what_is_not_understood_answers_nothing(terminal: OpenTerminal, ask) -> None:
    live = terminal()
    live.type("y\n")
    asked = ask("Bash", {"lines": "\n".join(map(str, range(100)))})
    shown = live.wait_for("Allow Bash? ")
    assert "| 38" in shown
    assert "[61 MORE LINES: f shows all]" in shown
    for typed, said in (
        ("yolo\n", "Not understood."),
        ("y please\n", "Not understood."),
        ("e rm\n", "must be a JSON object"),
        ("e [1]\n", "must be a JSON object"),
        ("\n", ""),
        ("f\n", "| 99"),
        ("l\n", "perm_"),
        ("s\n", "lines:"),
    ):
        live.type(typed)
        live.wait_for(said)
        live.wait_for("Allow Bash? ")
    assert not asked.done()
    live.type("yes\n")
    assert asked.result(10)["behavior"] == "allow"
    live.wait_for("waiting.")
    live.type("y\n")
    live.wait_for("Nothing is asked now.")
    live.type("\x04")
    assert live.process.wait(10) == 0


def test_several_questions_come_one_after_the_other(terminal: OpenTerminal, ask, edge: ServiceProcess) -> None:
    first = ask("First")
    only(edge)
    second = ask("Second")
    wait_until(lambda: len(pending(edge)) == 2, what="both are pending")
    live = terminal()
    live.wait_for("Allow First? ")
    live.type("s\n")
    assert "1 more waiting" in live.wait_for("Allow Second? ")
    live.type("y\n")
    live.wait_for("Allow First? ")
    live.type("n\n")
    assert (first.result(10)["behavior"], second.result(10)["behavior"]) == ("deny", "allow")


def test_an_answer_meant_for_a_question_that_is_gone_is_not_given_to_the_next(
    terminal: OpenTerminal, ask, edge: ServiceProcess
) -> None:
    first = ask("First")
    gone = only(edge)
    second = ask("Second")
    wait_until(lambda: len(pending(edge)) == 2, what="both are pending")
    live = terminal()
    live.wait_for("Allow First? ")
    live.type("y")  # not yet entered
    httpx.post(f"{edge.url}/permissions/{gone}/respond", json={"decision": "deny", "reason": "by hand"})
    live.wait_for("No longer asked: denied by operator: by hand.")
    live.type("y\n")
    live.wait_for("Allow Second? ")
    live.wait_for("please answer again.")
    assert first.result(10)["message"] == "by hand"
    assert not second.done()
    assert [request["tool_name"] for request in pending(edge)] == ["Second"]


def test_nothing_of_a_tools_input_reaches_the_terminal_as_a_command(
    terminal: OpenTerminal, ask, edge: ServiceProcess
) -> None:
    ask("Bash\x1b[2J", HOSTILE, **{"x-patchbay-session": "s\x9b31m"})
    request_id = only(edge)
    live = terminal()
    live.wait_for("Allow Bash\\x1b[2J? ")
    for output in (live.raw, "".join(run("show", request_id, "--url", edge.url)[1:]).encode()):
        text = re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).replace("\r\n", "\n")
        assert all(character.isprintable() or character == "\n" for character in text), ascii(text)
        assert "echo \\x1b]0;owned\\x07 \\x1b[2J \\x9b31m \\u202etxt.exe \\u200b\\u2028end\U0001f600" in text
        assert "  | first\n" in text
        assert "  |     second\\x0d\n" in text
        assert "  | Allow Bash? \\x1b[1A\n" in text
    own = set(re.findall(rb"\x1b\[([0-9;]*)m", live.raw))
    assert own <= {b"0", b"1", b"2", b""}, "only bold and back"
    status, listed, _ = run("list", "--url", edge.url)
    assert (status, all(character.isprintable() or character == "\n" for character in listed)) == (0, True)


def test_a_terminal_that_knows_no_unicode(terminal: OpenTerminal, ask, edge: ServiceProcess) -> None:
    ask("Bash", {"command": "écho"})
    live = terminal(environ={"PYTHONIOENCODING": "ascii"})
    live.wait_for("command: \\xe9cho")
    live.wait_for("Allow Bash? ")


def test_it_comes_back_when_the_edge_does(start_edge: StartEdge, terminal: OpenTerminal) -> None:
    edge = start_edge()
    live = terminal("--url", edge.url)
    live.wait_for("Ctrl-C ends.")
    edge.kill()
    live.wait_for("The edge is away")
    edge.start()
    live.wait_for("Ctrl-C ends.")
    with ThreadPoolExecutor() as pool:
        body = {"tool_name": "Bash", "input": {}, "timeout_seconds": 30}
        asked = pool.submit(httpx.post, edge.url + "/mcp/permission/check", json=body, timeout=60)
        live.wait_for("Allow Bash? ")
        live.type("y\n")
        assert asked.result(20).json()["behavior"] == "allow"
    edge.terminate()
    live.wait_for("The edge is away")
    live.process.send_signal(signal.SIGINT)
    assert live.process.wait(10) == 0


def test_a_key_is_wanted(start_edge: StartEdge, terminal: OpenTerminal) -> None:
    keys = {"require_api_key": True, "api_keys": [{"key": "boss-key", "id": "boss", "operator": True}]}
    edge = start_edge(security=keys)
    refused = terminal("--url", edge.url)
    assert refused.process.wait(20) == 1
    refused.wait_for("patchbay: an API key is required")
    live = terminal("--url", edge.url, environ={"PATCHBAY_KEY": "boss-key"})
    live.wait_for("Ctrl-C ends.")
    assert run("list", "--url", edge.url)[0] == 1
    assert run("list", "--url", edge.url, "--key", "boss-key") == (0, "Nothing is asked now.\n", "")
    assert run("--key", "boss-key", "--url", edge.url, "list")[0] == 0


# -- one command at a time --------------------------------------------------------------------------------------------


def test_list_show_allow_and_deny(ask, edge: ServiceProcess) -> None:
    url = ("--url", edge.url)
    assert run("list", *url) == (0, "Nothing is asked now.\n", "")
    asked = ask("Bash", {"command": "make"}, **{"x-patchbay-session": "s-9"})
    request_id = only(edge)
    status, listed, _ = run("list", *url)
    assert status == 0
    assert re.search(rf"{request_id} +Bash +mcp +s-9 +\d+ s +command: make", listed)
    status, shown, _ = run("show", request_id, *url)
    assert status == 0
    assert "tool:    Bash\n" in shown
    assert "  command: make\n" in shown
    status, said, _ = run("allow", request_id, "--input", '{"command": "ls"}', "--reason", "safer", *url)
    assert (status, said) == (0, f"{request_id} allowed by operator: safer\n")
    assert asked.result(10) == {"behavior": "allow", "updatedInput": {"command": "ls"}}
    assert "allowed by operator: safer\nwith the input changed to:\n  command: ls\n" in run("show", request_id, *url)[1]
    status, _, error = run("deny", request_id, *url)
    assert (status, error) == (1, "patchbay: already resolved: allow by operator (safer)\n")

    asked = ask("Bash")
    request_id = only(edge)
    assert run("deny", request_id, "--reason", "no", *url)[:2] == (0, f"{request_id} denied by operator: no\n")
    assert asked.result(10) == {"behavior": "deny", "message": "no"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "perm_none"), "there is no permission request perm_none"),
        (("show", "../health"), "is no id of a permission request"),
        (("allow", "perm_none", "--input", "ls"), "--input must be a JSON object"),
        (("allow", "perm_none", "--input", "[]"), "--input must be a JSON object"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(edge: ServiceProcess, arguments: tuple[str, ...], said: str) -> None:
    status, _, error = run(*arguments, "--url", edge.url)
    assert status == 1
    assert said in error
    assert error.count("\n") == 1


def test_without_a_terminal_it_lists_and_says_how_to_answer(ask, edge: ServiceProcess) -> None:
    ask("Bash")
    request_id = only(edge)
    status, listed, error = run("--url", edge.url, stdin="y\n")
    assert status == 1
    assert request_id in listed
    assert "patchbay permissions allow ID" in error
    assert only(edge) == request_id


def test_the_system_that_runs_here_is_asked(tmp_path: Path, edge: ServiceProcess) -> None:
    status, _, error = run("list", cwd=tmp_path, HOME=str(tmp_path))
    assert (status, "nothing runs here" in error) == (1, True)
    state = tmp_path / ".patchbay"
    state.mkdir()
    with (state / "running.json").open("w") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        running.write(json.dumps({"pid": 1, "url": edge.url}))
        running.flush()
        assert run("list", cwd=tmp_path, HOME=str(tmp_path))[0] == 0


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:9"])
def test_a_url_where_no_edge_is(url: str) -> None:
    status, _, error = run("list", "--url", url)
    assert status == 1
    assert error.startswith("patchbay: ")
    assert error.count("\n") == 1
