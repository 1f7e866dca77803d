from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from patchbay_standin import SCENARIOS, Standin, running
from patchbay_standin.testing import StandinFailed, StandinProcess

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_also_in_a_silence(number: signal.Signals) -> None:
    standin = StandinProcess()
    standin.start()
    process = psutil.Process(standin.pid)
    assert "patchbay-standin" in " ".join(process.cmdline())
    host, port = standin.url.removeprefix("http://").split(":")
    body = b'{"model":"standin-silence","messages":[{"role":"user","content":"x"}],"stream":true}'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        connection.recv(100)
        os.kill(standin.pid, number)
        assert standin.stop() == 0
    assert not process.is_running()


def test_it_ends_with_its_parent() -> None:
    code = (
        "from patchbay_standin.testing import StandinProcess; import os, sys\n"
        "standin = StandinProcess(); standin.start(); print(standin.pid, flush=True); os._exit(1)"
    )
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=30)
    pid = int(parent.stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=5)
    assert not psutil.pid_exists(pid)


def test_a_taken_port_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StandinFailed):
        StandinProcess(port=taken.getsockname()[1]).start()
    assert "cannot listen on 127.0.0.1" in capfd.readouterr().err


def test_without_records() -> None:
    with StandinProcess(arguments=["--no-records"]) as standin:
        assert httpx.get(f"{standin.url}/v1/models", headers={"authorization": "Bearer k"}).status_code == 200
        assert (standin.stats().completed, standin.requests()) == (1, [])


async def test_inside_an_event_loop() -> None:
    app = Standin()
    async with running(app) as url, httpx.AsyncClient() as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        answer = await client.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": "Bearer k"})
        assert answer.status_code == 200
        assert app.records.stats.completed == 1
        listening = url
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(listening)


async def test_as_an_asgi_application() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Standin()), base_url="http://standin") as client:
        body = {"model": "standin-bench-burst", "messages": [{"role": "user", "content": "x"}], "stream": True}
        answer = await client.post("/v1/chat/completions", json=body, headers={"authorization": "Bearer k"})
    assert answer.text.endswith("data: [DONE]\n\n")


def test_the_readme_names_every_scenario() -> None:
    text = README.read_text()
    for name in SCENARIOS:
        stem, _, status = name.rpartition("-")
        assert f"`{name}`" in text or (stem == "standin-error" and f"`{status}`" in text)


def test_it_imports_nothing_of_patchbay() -> None:
    code = (
        "import sys, patchbay_standin, patchbay_standin.testing\n"
        "print({name.partition('.')[0] for name in sys.modules if name.startswith('patchbay')})"
    )
    assert subprocess.check_output([sys.executable, "-c", code]).decode().strip() == "{'patchbay_standin'}"
