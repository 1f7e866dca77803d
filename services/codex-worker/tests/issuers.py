"""A small OAuth issuer and ChatGPT backend in a thread: refresh tokens that are good once, codes, a page of usage."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

from patchbay.codex.login import Login

AUTH = "https://api.openai.com/auth"


def token(**claims: object) -> str:
    """A made-up JWT."""
    head, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, claims)
    )
    return f"{head}.{payload}.c2ln"


@dataclass
class Spent:
    """A renewal that was asked for."""

    refresh_token: str
    reason: str
    granted: bool


@dataclass
class Issuer:
    """Serves while the context is open.

    Attributes:
        spent: The renewals so far.
        hold: While it is cleared, renewals wait; one whose client has gone meanwhile spends nothing.
        answers: Answers (status, body) for the next renewals, in place of tokens.
        rotates: Whether a renewal gives a new refresh token.
        seconds: How long access tokens are good for.
        typed: Whether somebody has typed the device code.
        usage: The page of usage, by account.
        check: What `accounts/check` says, by account.
        asked: The headers of each request for one of these.
        refused: Access tokens that the backend refuses.
    """

    spent: list[Spent] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    waiting: int = 0
    answers: list[tuple[int, object]] = field(default_factory=list)
    rotates: bool = True
    seconds: float = 3600.0
    typed: bool = False
    usage: dict[str, object] = field(default_factory=dict)
    asked_usage: list[str] = field(default_factory=list)
    check: dict[str, object] = field(default_factory=dict)
    asked_check: list[str] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.hold.set()
        self._lock = threading.Lock()
        # Refresh token -> account, and code -> (account, challenge, redirect).
        self._good: dict[str, str] = {}
        self._codes: dict[str, tuple[str, str, str]] = {}

    def login(self, account: str = "acc-1", *, seconds: float | None = None, age: float = 600.0) -> Login:
        """A sign-in of an account, made `age` seconds ago, whose access token is good for `seconds`."""
        made = self._grant(account, seconds)
        now = time.time()
        return Login(
            access_token=made["access_token"],
            refresh_token=made["refresh_token"],
            id_token=made["id_token"],
            account_id=account,
            last_refresh=now - age,
        )

    @property
    def granted(self) -> int:
        return sum(one.granted for one in self.spent)

    def is_good(self, refresh_token: str) -> bool:
        """Whether a refresh token can still be spent."""
        return refresh_token in self._good

    def end(self, login: Login) -> None:
        """Ends a sign-in, as when its owner changes the password."""
        self._good.pop(login.refresh_token, None)

    def authorize(self, url: str, account: str = "acc-1") -> str:
        """What a browser does at the page to sign in at: the address that it is sent back to."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = f"code-{secrets.token_hex(8)}"
        self._codes[code] = (account, query["code_challenge"], query["redirect_uri"])
        return f"{query['redirect_uri']}?code={code}&state={query['state']}"

    def _grant(self, account: str, seconds: float | None = None, refresh_token: str = "") -> dict[str, str]:
        refresh_token = refresh_token or f"rt-{secrets.token_hex(16)}"
        self._good[refresh_token] = account
        now = time.time()
        said = {AUTH: {"chatgpt_account_id": account, "chatgpt_plan_type": "plus"}}
        good_for = self.seconds if seconds is None else seconds
        return {
            "access_token": token(exp=now + good_for, iat=now, jti=secrets.token_hex(8), **said),
            "id_token": token(email=f"{account}@x.test", **said),
            "refresh_token": refresh_token,
        }

    def renew(self, body: Mapping[str, str], is_gone: object) -> tuple[int, object]:
        with self._lock:
            self.waiting += 1
        self.hold.wait(20)
        with self._lock:
            self.waiting -= 1
            if callable(is_gone) and is_gone():
                return 499, {}
            spent = Spent(body["refresh_token"], body["refresh_reason"], granted=False)
            self.spent.append(spent)
            if self.answers:
                return self.answers.pop(0)
            account = self._good.get(spent.refresh_token)
            if account is None:
                return 401, {"error": {"code": "refresh_token_reused", "message": "it was spent before"}}
            if self.rotates:
                del self._good[spent.refresh_token]
            spent.granted = True
            made = self._grant(account, refresh_token="" if self.rotates else spent.refresh_token)
            if not self.rotates:
                del made["refresh_token"]
            return 200, made

    def exchange(self, form: Mapping[str, str]) -> tuple[int, object]:
        account, challenge, redirect = self._codes.pop(form.get("code", ""), ("", "", ""))
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        fits = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
        if not account or not fits or redirect != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant", "error_description": "the code is wrong"}
        return 200, self._grant(account)

    def device(self, path: str, body: Mapping[str, str]) -> tuple[int, object]:
        if path.endswith("/usercode"):
            return 200, {"device_auth_id": "dev-1", "user_code": "ABCD-1234", "interval": "0.01"}
        if body != {"device_auth_id": "dev-1", "user_code": "ABCD-1234"} or not self.typed:
            return 403, {"error": "authorization_pending"}
        verifier, code = secrets.token_urlsafe(32), f"code-{secrets.token_hex(8)}"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        self._codes[code] = ("acc-1", challenge, f"{self.url}/deviceauth/callback")
        return 200, {"authorization_code": code, "code_challenge": challenge, "code_verifier": verifier}

    def __enter__(self) -> Self:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                path = urlsplit(self.path).path
                if self.headers["content-type"].startswith("application/x-www-form-urlencoded"):
                    form = {name: values[0] for name, values in parse_qs(raw.decode()).items()}
                    self._say(*issuer.exchange(form))
                    return
                body = json.loads(raw)
                if path == "/oauth/revoke":
                    issuer.revoked.append(body["token"])
                    self._say(200, {})
                elif path.startswith("/api/accounts/deviceauth/"):
                    self._say(*issuer.device(path, body))
                else:
                    self._say(*issuer.renew(body, self._is_gone))

            def do_GET(self) -> None:
                account = self.headers.get("chatgpt-account-id", "")
                issuer.asked.append({name.lower(): value for name, value in self.headers.items()})
                issuer.hold.wait(20)
                page = None
                if self.path == "/wham/usage":
                    issuer.asked_usage.append(account)
                    page = issuer.usage.get(account)
                elif self.path == "/wham/accounts/check":
                    issuer.asked_check.append(account)
                    page = issuer.check.get(account)
                self._say(200 if page else 404, page or {"detail": "not here"})

            def _is_gone(self) -> bool:
                self.connection.setblocking(False)
                try:
                    return self.connection.recv(1) == b""
                except BlockingIOError:
                    return False
                except OSError:
                    return True
                finally:
                    self.connection.setblocking(True)

            def _say(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
