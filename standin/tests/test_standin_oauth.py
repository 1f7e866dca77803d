"""The OAuth issuer: sign-in, one-time refresh tokens, the device flow, and what may go wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from patchbay_standin import Account, DeviceFlow, RefreshFault
from patchbay_standin.testing import StandinFailed, StandinProcess

CLIENT = "app_EMoamEEZ73f0CkXaXp7hrann"
REDIRECT = "http://127.0.0.1:1455/auth/callback"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def ann(standin: StandinProcess) -> Iterator[None]:
    standin.account("ann", Account(plan="pro", token_lifetime_s=600))
    yield
    standin.forget_accounts()
    standin.device_flow(DeviceFlow())


def claims(token: str) -> Any:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def authorize(call: Any, **fields: str) -> Any:
    query = {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": REDIRECT,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "state": "s t",
        "scope": "openid profile email offline_access",
        "id_token_add_organizations": "true",
        "codex_cli_simplified_flow": "true",
        "originator": "codex_cli_rs",
        **fields,
    }
    return call("GET", f"/oauth/authorize?{urlencode({k: v for k, v in query.items() if v})}")


def code_of(answer: Any) -> str:
    (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
    return code


def redeem(call: Any, code: str, **fields: str) -> Any:
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT,
        "code": code,
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
        **fields,
    }
    return call("POST", "/oauth/token", urlencode(form).encode(), FORM)


def refresh(call: Any, token: str, *, form: bool = False, **fields: str) -> Any:
    body = {"client_id": CLIENT, "grant_type": "refresh_token", "refresh_token": token, **fields}
    return call("POST", "/oauth/token", urlencode(body).encode() if form else body, FORM if form else JSON)


def test_sign_in_with_a_browser(call: Any, standin: StandinProcess) -> None:
    answer = authorize(call)
    assert answer.status == 302
    location = urlsplit(answer.headers["location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == REDIRECT
    assert parse_qs(location.query)["state"] == ["s t"]
    tokens = redeem(call, code_of(answer)).json
    assert tokens["expires_in"] == 600
    identity, access = claims(tokens["id_token"]), claims(tokens["access_token"])
    assert identity["email"] == "ann@standin.example"
    auth = identity["https://api.openai.com/auth"]
    assert (auth["chatgpt_account_id"], auth["chatgpt_plan_type"], auth["chatgpt_user_id"]) == (
        "acc-ann",
        "pro",
        "user-ann",
    )
    assert auth["organizations"][0]["is_default"]
    assert access["exp"] - time.time() == pytest.approx(600, abs=5)
    assert access["https://api.openai.com/auth"]["chatgpt_account_id"] == "acc-ann"
    assert access["https://api.openai.com/profile"]["email"] == "ann@standin.example"
    assert (identity["iss"], identity["aud"]) == (standin.url, [CLIENT])
    assert standin.account_report("ann").sign_ins == 1
    assert standin.requests()[-1].protocol == "oauth"


def test_who_sits_at_the_browser(call: Any, standin: StandinProcess) -> None:
    standin.account("bob", Account(email="bob@example.com"))

    def signed_in(**fields: str) -> str:
        tokens = redeem(call, code_of(authorize(call, **fields))).json
        return str(claims(tokens["id_token"])["email"])

    assert signed_in() == "bob@example.com"
    assert signed_in(login_hint="ann@standin.example") == "ann@standin.example"
    assert signed_in(allowed_workspace_id="acc-ann") == "ann@standin.example"
    standin.forget_accounts()
    assert signed_in() == "standin@standin.example"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"response_type": "token"}, "response_type must be code"),
        ({"code_challenge_method": "plain"}, "a code_challenge with code_challenge_method S256 is required"),
        ({"code_challenge": ""}, "a code_challenge with code_challenge_method S256 is required"),
        ({"state": ""}, "state is required"),
        ({"client_id": ""}, "client_id is required"),
        ({"scope": "email"}, "scope must have openid"),
        ({"redirect_uri": "http://127.0.0.1:1455/cb"}, "redirect_uri is not registered"),
        ({"redirect_uri": "https://example.com/auth/callback"}, "redirect_uri is not registered"),
    ],
)
def test_sign_ins_that_are_refused(fields: dict[str, str], reason: str, call: Any) -> None:
    answer = authorize(call, **fields)
    assert answer.status == 400
    assert answer.json["error_description"].startswith(reason)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"code": "nonsense"}, "the code is unknown, used or expired"),
        ({"client_id": "app_other"}, "the code was given to another client_id"),
        ({"redirect_uri": "http://localhost:1455/auth/callback"}, "redirect_uri differs"),
        ({"code_verifier": "w" * 64}, "code_verifier does not fit code_challenge"),
    ],
)
def test_codes_that_are_refused(fields: dict[str, str], reason: str, call: Any) -> None:
    code = code_of(authorize(call))
    answer = redeem(call, **{"code": code, **fields})
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")
    assert answer.json["error_description"].startswith(reason)


def test_a_code_is_good_once(call: Any) -> None:
    code = code_of(authorize(call))
    assert [redeem(call, code).status for _ in range(2)] == [200, 400]


def test_the_code_exchange_is_a_form(call: Any) -> None:
    body = {"grant_type": "authorization_code", "client_id": CLIENT, "code": code_of(authorize(call))}
    answer = call("POST", "/oauth/token", body, JSON)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    answer = call("POST", "/oauth/token", b"grant_type=password", FORM)
    assert answer.json["error"] == "unsupported_grant_type"


@pytest.mark.parametrize("form", [False, True])
def test_refresh_tokens_are_good_once(form: bool, call: Any, standin: StandinProcess) -> None:
    tokens, other = standin.sign_in("ann"), standin.sign_in("ann")
    first = refresh(call, tokens.refresh_token, form=form, refresh_reason="proactive_expiry").json
    assert first["refresh_token"] != tokens.refresh_token
    reused = refresh(call, tokens.refresh_token, form=form)
    assert (reused.status, reused.json["error"]["code"]) == (401, "refresh_token_reused")
    # Nothing else is harmed: neither what the token was used for, nor another sign-in.
    assert refresh(call, first["refresh_token"], form=form).status == 200
    assert refresh(call, other.refresh_token, form=form).status == 200
    report = standin.account_report("ann")
    assert (report.refresh_requests, report.refreshes, report.reused) == (4, 3, 1)
    assert report.refresh_reasons == ["proactive_expiry", "", "", ""]


def test_refreshes_that_are_refused(call: Any, standin: StandinProcess) -> None:
    tokens = standin.sign_in("ann")
    assert refresh(call, "nonsense").json["error"]["code"] == "refresh_token_invalidated"
    assert refresh(call, tokens.refresh_token, client_id="app_other").json["error"] == "invalid_client"
    assert refresh(call, "").json == {"error": "invalid_request", "error_description": "refresh_token is required"}
    assert call("POST", "/oauth/token", b"[]", JSON).status == 400
    revoked = call("POST", "/oauth/revoke", {"token": tokens.refresh_token, "token_type_hint": "refresh_token"}, JSON)
    assert revoked.status == 200
    assert refresh(call, tokens.refresh_token).json["error"]["code"] == "refresh_token_invalidated"
    assert call("POST", "/oauth/revoke", {"token": "nonsense"}, JSON).status == 200
    assert standin.account_report("ann").revoked == 1


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (RefreshFault(status=500, times=1), 500, "server_error"),
        (RefreshFault(status=429, times=1), 429, "server_error"),
        (RefreshFault(status=401, times=1), 401, "refresh_token_expired"),
        (RefreshFault(status=401, code="refresh_token_invalidated", times=1), 401, "refresh_token_invalidated"),
    ],
)
def test_a_refresh_that_fails_once(
    fault: RefreshFault, status: int, code: str, call: Any, standin: StandinProcess
) -> None:
    token = standin.sign_in("ann").refresh_token
    standin.on_refresh("ann", fault)
    answer = refresh(call, token)
    error = answer.json["error"]
    assert (answer.status, error if isinstance(error, str) else error["code"]) == (status, code)
    assert refresh(call, token).status == 200


def test_fields_left_out_mean_that_the_old_ones_stay(call: Any, standin: StandinProcess) -> None:
    token = standin.sign_in("ann").refresh_token
    standin.on_refresh("ann", RefreshFault(omit=["refresh_token", "id_token"]))
    assert "refresh_token" not in refresh(call, token).json
    assert set(refresh(call, token).json) == {"access_token", "token_type", "expires_in", "scope"}


def test_delayed_refreshes_all_come_in_with_a_live_token(call: Any, standin: StandinProcess) -> None:
    token = standin.sign_in("ann").refresh_token
    standin.on_refresh("ann", RefreshFault(delay_ms=200))
    with ThreadPoolExecutor() as pool:
        codes = sorted(answer.status for answer in pool.map(lambda _: refresh(call, token), range(4)))
    assert codes == [200, 401, 401, 401]
    assert standin.account_report("ann").refreshes == 1


@pytest.mark.parametrize(("hang", "next_status"), [("before", 200), ("after", 401)])
def test_a_client_that_dies_in_the_middle_of_a_refresh(
    hang: Any, next_status: int, call: Any, standin: StandinProcess
) -> None:
    token = standin.sign_in("ann").refresh_token
    standin.on_refresh("ann", RefreshFault(hang=hang, times=1))
    body = json.dumps({"client_id": CLIENT, "grant_type": "refresh_token", "refresh_token": token}).encode()
    host, port = standin.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /oauth/token HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        standin.wait_for(lambda standin: standin.account_report("ann").holding == 1)
    standin.wait_for(lambda standin: standin.account_report("ann").holding == 0)
    # Before: the token was never used. After: it was, and what it was used for is lost.
    assert refresh(call, token).status == next_status
    assert standin.account_report("ann").refreshes == 1
    assert [request.outcome for request in standin.requests()] == [
        "aborted",
        "completed" if next_status == 200 else "error",
    ]


def test_sign_in_with_a_code(call: Any, standin: StandinProcess) -> None:
    started = call("POST", "/api/accounts/deviceauth/usercode", {"client_id": CLIENT}, JSON).json
    assert started["interval"] == "5"
    ask = {"device_auth_id": started["device_auth_id"], "user_code": started["user_code"]}
    pending = call("POST", "/api/accounts/deviceauth/token", ask, JSON)
    assert (pending.status, pending.json["error"]["code"]) == (403, "deviceauth_authorization_pending")
    assert b"<form" in call("GET", "/codex/device").body
    standin.approve_device(started["user_code"])
    done = call("POST", "/api/accounts/deviceauth/token", ask, JSON).json
    code, verifier = done["authorization_code"], done["code_verifier"]
    assert done["code_challenge"] == (
        base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    )
    assert redeem(call, code, code_verifier=verifier).json["error"] == "invalid_grant"
    again = call("POST", "/api/accounts/deviceauth/token", ask, JSON)
    assert again.status == 404


def test_the_device_finishes_with_the_issuers_redirect(call: Any, standin: StandinProcess) -> None:
    standin.device_flow(DeviceFlow(interval=0.1, approve_after=1))
    started = call("POST", "/api/accounts/deviceauth/usercode", {"client_id": CLIENT}, JSON).json
    assert started["interval"] == 0.1
    ask = {"device_auth_id": started["device_auth_id"], "user_code": started["user_code"]}
    assert call("POST", "/api/accounts/deviceauth/token", ask, JSON).status == 403
    done = call("POST", "/api/accounts/deviceauth/token", ask, JSON).json
    redirect = f"{standin.url}/deviceauth/callback"
    tokens = redeem(call, done["authorization_code"], code_verifier=done["code_verifier"], redirect_uri=redirect).json
    assert claims(tokens["id_token"])["email"] == "ann@standin.example"


def test_a_device_that_is_approved_on_the_page_or_waits_too_long(call: Any, standin: StandinProcess) -> None:
    def start() -> dict[str, str]:
        return dict(call("POST", "/api/accounts/deviceauth/usercode", {"client_id": CLIENT}, JSON).json)

    def poll(started: dict[str, str], **fields: str) -> int:
        ask = {"device_auth_id": started["device_auth_id"], "user_code": started["user_code"], **fields}
        return int(call("POST", "/api/accounts/deviceauth/token", ask, JSON).status)

    started = start()
    assert call("POST", "/codex/device", urlencode({"user_code": started["user_code"]}).encode(), FORM).status == 200
    assert poll(started, user_code="XXXX-XXXXX") == 404
    assert poll(started) == 200
    assert call("GET", "/codex/device?user_code=XXXX-XXXXX").status == 404
    with pytest.raises(StandinFailed, match="No device waits"):
        standin.approve_device("XXXX-XXXXX")
    standin.device_flow(DeviceFlow(lifetime_s=0))
    assert poll(start()) == 404


def test_an_api_key_for_an_id_token(call: Any, standin: StandinProcess) -> None:
    tokens = standin.sign_in("ann")
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "client_id": CLIENT,
        "requested_token": "openai-api-key",
        "subject_token": tokens.id_token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
    }
    answer = call("POST", "/oauth/token", urlencode(form).encode(), FORM)
    assert answer.json["access_token"].startswith("sk-standin-ann-")
    for wrong in ({"subject_token": "x"}, {"requested_token": "y"}):
        assert call("POST", "/oauth/token", urlencode({**form, **wrong}).encode(), FORM).status == 400


def test_accounts_as_the_tests_see_them(standin: StandinProcess) -> None:
    standin.sign_in("ann")
    changed = standin.account("ann", Account(plan="team"))
    assert (changed.plan, changed.sign_ins) == ("team", 1)
    tokens = standin.sign_in("ann")
    assert tokens.auth_json()["tokens"] == {
        "id_token": tokens.id_token,
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "account_id": "acc-ann",
    }
    assert [report.name for report in standin.accounts()] == ["ann"]
    for wrong in (lambda: standin.sign_in("nobody"), lambda: standin.expire_access_tokens("nobody")):
        with pytest.raises(StandinFailed, match="no such account: nobody"):
            wrong()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/standin/accounts/x", {"colour": "red"}, 400),
        ("PUT", "/standin/accounts/x", {"percent_per_request": -1}, 400),
        ("PUT", "/standin/accounts/ann/refresh", {"hang": "never"}, 400),
        ("POST", "/standin/accounts/ann/nonsense", None, 405),
        ("PUT", "/standin/device", {"interval": []}, 400),
        ("GET", "/standin/device", None, 405),
    ],
)
def test_admin_requests_that_cannot_be_done(method: str, path: str, body: object, status: int, call: Any) -> None:
    assert call(method, path, body).status == status
