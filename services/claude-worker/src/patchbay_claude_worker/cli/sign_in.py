"""An operator's own sign-in of the `claude` program: whether it is there, making it, and forgetting it.

The program keeps it in its CLAUDE_CONFIG_DIR and renews it there; what runs already finds a new one by itself. Codes
pass through here and are kept and logged nowhere; tokens do not come here at all.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import shlex
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from patchbay.errors import AUTHENTICATION, INVALID_REQUEST, UNAVAILABLE, UPSTREAM, Code, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay_claude_worker.cli.process import CliProcess, Guardian, ProcessDied, ProcessHangs
from patchbay_claude_worker.cli.program import Command, ProgramMissing, environment, find_program
from patchbay_proto.v1.provider_pb2 import LoginResponse, LogoutResponse

log = structlog.get_logger(__name__)

_ASK_AGAIN_SECONDS = 600.0
# Somebody may sign in by hand, and wants to see it work.
_ASK_AGAIN_SIGNED_OUT_SECONDS = 60.0
_COMMAND_SECONDS = 30.0
# With the provider's answer to the code.
_FINISH_SECONDS = 60.0
_LOGIN_SECONDS = 600.0
_URL = re.compile(rb"visit:\s*(https?://\S+)\s")
_CODE = re.compile(r"[\x21-\x7e]{1,4096}\Z")


class _Status(msgspec.Struct):
    logged_in: bool = msgspec.field(name="loggedIn")


_decode_status = msgspec.json.Decoder(_Status).decode


@dataclass(slots=True)
class _Login:
    """A login that waits for its code."""

    id: str
    process: CliProcess
    expiry: asyncio.TimerHandle


class CliSignIn:
    """The sign-in of one backend with `credentials: signed_in`, through the `claude auth` commands.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        assert backend.claude_cli is not None
        assert backend.claude_cli.config_dir is not None
        self._backend = backend
        self._cli_path = backend.claude_cli.cli_path
        self._guardian: Guardian | None = None
        # None: not known yet, or not to be found out.
        self._known: bool | None = None
        self._trouble = ""
        self._asked = asyncio.Event()
        self._asking = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._login: _Login | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        directory = shlex.quote(backend.claude_cli.config_dir)
        # What to say, and how to mend it, where nobody is signed in.
        self.missing = (
            f"not signed in: POST /auth/login, or run `CLAUDE_CONFIG_DIR={directory} claude auth login` "
            "as the worker's user"
        )

    @property
    def signed_in(self) -> bool:
        """Whether a sign-in is there; presence, not validity."""
        return bool(self._known)

    @property
    def detail(self) -> str:
        """What is missing and how to mend it; empty: nothing."""
        return self._trouble or ("" if self._known is not False else self.missing)

    async def start(self, guardian: Guardian) -> None:
        """Asks from now on, until `aclose`.

        Args:
            guardian: Has the directory for the commands' homes, and clears up behind them.
        """
        self._guardian = guardian
        self._run(self._watch(), "sign-in-watch")

    async def aclose(self) -> None:
        """Ends a login that waits for its code, and whatever runs."""
        self._end_login()
        for task in self._tasks:
            if task.get_name() != _CLEAR:
                task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def require(self) -> None:
        """Passes where somebody is signed in, and where that cannot be found out.

        Raises:
            PatchbayError: AUTHENTICATION, with how to sign in.
        """
        await self._asked.wait()
        if self._known is False:
            raise _error(AUTHENTICATION, self.missing)

    async def begin(self, *, device: bool = False, account: str = "") -> LoginResponse:
        """Starts a login, in place of one that waits for its code. Raises PatchbayError."""
        if device:
            raise _error(INVALID_REQUEST, "device: this provider has no such login", parameter="device")
        _check_single(account)
        async with self._changing:
            self._end_login()
            process = await self._spawn("login", "--claudeai")
            try:
                url = await self._read_url(process)
            except BaseException:
                self._run(process.clear(), _CLEAR)
                raise
            expiry = asyncio.get_running_loop().call_later(_LOGIN_SECONDS, self._end_login)
            self._login = _Login(secrets.token_urlsafe(16), process, expiry)
        detail = "visit the page, sign in, and send the code it shows with this login_id"
        return LoginResponse(login_id=self._login.id, url=url, signed_in=self.signed_in, detail=detail)

    async def finish(self, login_id: str, code: str) -> LoginResponse:
        """Ends a login with the code that the page showed. One code is all that a login takes. Raises PatchbayError."""
        code = code.strip()
        login = self._login
        if login is None or not hmac.compare_digest(login.id.encode(), login_id.encode()):
            message = "no such login waits here: it has ended, or took longer than 10 minutes; begin another one"
            raise _error(INVALID_REQUEST, message, parameter="login_id")
        if not _CODE.match(code):
            raise _error(INVALID_REQUEST, "code: must be what the page showed at the end", parameter="code")
        self._login = None
        login.expiry.cancel()
        try:
            await login.process.send([code.encode() + b"\n"], seconds=_COMMAND_SECONDS)
            status, said = await self._read_to_end(login.process, _FINISH_SECONDS)
        except (ProcessDied, ProcessHangs) as error:
            raise _error(UPSTREAM, f"the login failed: {_without(code, str(error))}") from None
        finally:
            self._run(login.process.clear(), _CLEAR)
        if status != 0:
            raise _error(UPSTREAM, _without(code, said) or f"the login ended with status {status}")
        await self._ask()
        if not self.signed_in:
            raise _error(UPSTREAM, "the login has ended, and left nobody signed in")
        return LoginResponse(signed_in=True, detail="signed in")

    async def take(self, sign_in: bytes, *, account: str = "") -> LoginResponse:
        """Refuses: the program keeps its sign-in to itself. Raises PatchbayError."""
        message = "a sign-in of this backend is made by logging in, and cannot be taken from elsewhere"
        raise _error(INVALID_REQUEST, message, parameter="sign_in")

    async def forget(self, account: str = "") -> LogoutResponse:
        """Signs out, and ends a login that waits for its code. Raises PatchbayError."""
        _check_single(account)
        async with self._changing:
            self._end_login()
            try:
                status, said = await self._command("logout")
            except (ProcessDied, ProcessHangs) as error:
                raise _error(UPSTREAM, f"the logout failed: {error}") from error
            await self._ask()
        if status != 0:
            raise _error(UPSTREAM, said or f"the logout ended with status {status}")
        return LogoutResponse(signed_in=self.signed_in, detail="signed out")

    async def _watch(self) -> None:
        while True:
            try:
                await self._ask()
            except Exception:
                # Chats wait for the first answer: it must come, whatever happens.
                self._trouble = "whether somebody is signed in cannot be found out; the worker's log has the details"
                log.exception("claude_sign_in_crashed", backend=self._backend.name)
            finally:
                self._asked.set()
            await asyncio.sleep(_ASK_AGAIN_SECONDS if self._known else _ASK_AGAIN_SIGNED_OUT_SECONDS)

    async def _ask(self) -> None:
        """Finds out whether somebody is signed in."""
        async with self._asking:
            try:
                _, said = await self._command("status", "--json", whole=True)
                known: bool | None = _decode_status(said).logged_in
                trouble = ""
            except PatchbayError as error:
                known, trouble = None, error.error.message
            except (ProcessDied, ProcessHangs, msgspec.DecodeError) as error:
                known, trouble = None, f"whether somebody is signed in cannot be found out: {error}"
        if (known, trouble) != (self._known, self._trouble):
            log.info("claude_sign_in", backend=self._backend.name, signed_in=known, trouble=trouble)
        self._known, self._trouble = known, trouble
        self._asked.set()

    async def _command(self, *arguments: str, whole: bool = False) -> tuple[int, str]:
        process = await self._spawn(*arguments)
        try:
            return await self._read_to_end(process, _COMMAND_SECONDS, whole=whole)
        finally:
            self._run(process.clear(), _CLEAR)

    async def _spawn(self, *arguments: str) -> CliProcess:
        """A `claude auth` command."""
        assert self._guardian is not None

        def command(home: Path) -> Command:
            environ = environment(self._backend, home)
            # Nobody sits at the worker.
            environ["BROWSER"] = shutil.which("true") or "true"
            return Command((find_program(self._cli_path), "auth", *arguments), environ, str(home))

        try:
            return await CliProcess.spawn(command, directory=self._guardian.directory, marker=self._guardian.marker)
        except (OSError, ProgramMissing) as error:
            raise _error(UNAVAILABLE, str(error)) from error

    async def _read_url(self, process: CliProcess) -> str:
        said = b""
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                while (found := _URL.search(said)) is None:
                    piece = await process.read_output()
                    if not piece:
                        raise _error(UPSTREAM, f"the login did not begin: {await process.death()}")
                    said += piece
        except TimeoutError as error:
            raise _error(UPSTREAM, "the login did not begin: the claude program names no page to visit") from error
        return found[1].decode()

    async def _read_to_end(self, process: CliProcess, seconds: float, *, whole: bool = False) -> tuple[int, str]:
        """Its exit status, and what it said: all of its output, or the last line of that and its errors."""
        said = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await process.read_output():
                    said += piece
        except TimeoutError as error:
            raise ProcessHangs(f"the claude process did not end within {seconds:g} s") from error
        died = await process.death()
        output = said.decode(errors="replace")
        if not whole:
            lines = [line.strip() for line in (output + "\n" + died.stderr).splitlines() if line.strip()]
            output = lines[-1].removeprefix("Paste code here if prompted >").strip()[:300] if lines else ""
        return died.status or 0, output

    def _end_login(self) -> None:
        login, self._login = self._login, None
        if login is not None:
            login.expiry.cancel()
            self._run(login.process.clear(), _CLEAR)

    def _run(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_CLEAR = "sign-in-clear"


def _without(code: str, words: str) -> str:
    """What the program said, which may repeat the code or a half of it."""
    for part in (code, *code.split("#")):
        words = words.replace(part, "<code>") if part else words
    return words


def _check_single(account: str) -> None:
    if account:
        raise _error(INVALID_REQUEST, "account: this backend has one account, without a name", parameter="account")


def _error(code: Code, message: str, *, parameter: str | None = None) -> PatchbayError:
    return PatchbayError(make_error(code, message, parameter=parameter, retryable=code == UNAVAILABLE))
