"""The stand-in for tests: as a process of its own, or inside the test's event loop.

with StandinProcess() as standin:
    client = openai.OpenAI(base_url=f"{standin.url}/v1", api_key="any")
    ...
    assert standin.requests()[-1].outcome == "completed"
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from patchbay_standin.__main__ import READY
from patchbay_standin.oauth import Account, AccountReport, DeviceFlow, RefreshFault, Tokens
from patchbay_standin.records import RecordedRequest, Stats
from patchbay_standin.script import Script, write_script

_START_SECONDS: Final = 20
_STOP_SECONDS: Final = 10
_POLL_SECONDS: Final = 0.01

Value = TypeVar("Value")


class StandinFailed(Exception):
    """The stand-in did not start, or refused a request of the test's."""


class StandinProcess:
    """A stand-in process on a free port of the loopback, which ends with the `with` block or the test's process.

    Args:
        port: A port of its own choosing when 0.
        arguments: More command-line arguments, for example `["--no-records"]`.
    """

    def __init__(self, *, port: int = 0, arguments: Sequence[str] = ()) -> None:
        self._port = port
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        # The base URL, once started: `http://127.0.0.1:<port>`.
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running.pid

    def start(self) -> None:
        """Starts the process and waits until it is ready. Raises StandinFailed."""
        self._process = process = subprocess.Popen(
            [*_command(), f"--port={self._port}", "--until-stdin-closes", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        watchdog = threading.Timer(_START_SECONDS, process.kill)
        watchdog.start()
        line = process.stdout.readline().decode()
        watchdog.cancel()
        if not line.startswith(READY):
            self.stop()
            raise StandinFailed(f"no ready line, but {line!r}")
        self.url = line.removeprefix(READY).strip()

    def stop(self) -> int:
        """Ends the process with SIGTERM; its exit status."""
        process = self._running
        self._process = None
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def requests(self, *, after: int = 0) -> list[RecordedRequest]:
        """The recorded requests with an id above `after`, newest last."""
        return msgspec.json.decode(self._call("GET", f"requests?after={after}"), type=list[RecordedRequest])

    def stats(self) -> Stats:
        """The counts since the start or the last reset."""
        return msgspec.json.decode(self._call("GET", "stats"), type=Stats)

    def script(self, name: str, script: Script) -> str:
        """Makes a script known under a model name, which is returned."""
        self._call("PUT", f"scripts/{quote(name, safe='')}", write_script(script))
        return name

    def reset(self) -> None:
        """Forgets all requests, counts, attempts, stored responses and registered scripts; accounts stay."""
        self._call("DELETE", "requests")
        self._call("DELETE", "scripts")

    def account(self, name: str, account: Account | None = None) -> AccountReport:
        """Makes an account of the ChatGPT backend, or changes it: sign-ins and counts stay."""
        body = msgspec.json.encode(Account() if account is None else account)
        return msgspec.json.decode(self._call("PUT", f"accounts/{name}", body), type=AccountReport)

    def sign_in(self, name: str) -> Tokens:
        """The tokens of a new sign-in to an account; those there are stay as they are."""
        return msgspec.json.decode(self._call("POST", f"accounts/{name}/sign-in"), type=Tokens)

    def account_report(self, name: str) -> AccountReport:
        """What happened to an account: refreshes, requests, quotas."""
        return msgspec.json.decode(self._call("GET", f"accounts/{name}"), type=AccountReport)

    def accounts(self) -> list[AccountReport]:
        """What happened to all accounts."""
        return msgspec.json.decode(self._call("GET", "accounts"), type=list[AccountReport])

    def expire_access_tokens(self, name: str) -> None:
        """Refuses all access tokens issued so far with 401, though they say that they are good."""
        self._call("POST", f"accounts/{name}/expire")

    def on_refresh(self, name: str, fault: RefreshFault | None) -> None:
        """Says what happens to an account's refreshes from now on; None: they are answered."""
        self._call("PUT", f"accounts/{name}/refresh", msgspec.json.encode(fault))

    def forget_accounts(self) -> None:
        """Forgets all accounts, their tokens, and sign-ins under way."""
        self._call("DELETE", "accounts")

    def device_flow(self, flow: DeviceFlow) -> None:
        """Says how sign-in with a code on another device goes."""
        self._call("PUT", "device", msgspec.json.encode(flow))

    def approve_device(self, user_code: str) -> None:
        """Approves the device that shows this code, as its user would on the issuer's page."""
        self._call("POST", f"device/{user_code}")

    def wait_for(self, probe: Callable[[StandinProcess], Value], *, seconds: float = 5) -> Value:
        """Asks again and again until the answer is true, and returns it.

        Raises:
            StandinFailed: When it is not true in time; the message has the last answer and the counts.
        """
        deadline = time.monotonic() + seconds
        while not (value := probe(self)):
            if time.monotonic() > deadline:
                raise StandinFailed(f"still {value!r} after {seconds} s; {self.stats()}")
            time.sleep(_POLL_SECONDS)
        return value

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StandinFailed("not running")
        return self._process

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        host = urlsplit(self.url).netloc
        with contextlib.closing(http.client.HTTPConnection(host, timeout=10)) as connection:
            connection.request(method, f"/standin/{path}", body)
            answer = connection.getresponse()
            data = answer.read()
        if answer.status != 200:
            raise StandinFailed(f"{method} /standin/{path}: {answer.status} {data.decode()}")
        return data


def _command() -> list[str]:
    """The installed script, by which an operator knows it in `ps`; else the module."""
    script = Path(sysconfig.get_path("scripts")) / "patchbay-standin"
    return [sys.executable, str(script)] if script.exists() else [sys.executable, "-m", "patchbay_standin"]
