from __future__ import annotations

import pytest
from starlette.requests import Request

from patchbay.dispatch.callers import Callers
from patchbay.errors import AUTHENTICATION, PERMISSION, PatchbayError
from patchbay.settings import Security
from patchbay.state.admission import Limits
from patchbay_edge.operators import require_json, require_operator

LIMITS = Limits(requests_per_minute=None, concurrent_requests=None, max_connections=10)
KEYS = {"api_keys": [{"id": "boss", "key": "boss-key", "operator": True}, {"id": "dev", "key": "dev-key"}]}


def request(*, host: str = "127.0.0.1", **headers: str) -> Request:
    named = {"host": "127.0.0.1:8000", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "client": (host, 1)})


def callers(**security: object) -> Callers:
    return Callers(Security.model_validate(security), LIMITS)


def test_with_keys_only_an_operators_key_will_do() -> None:
    known = callers(**KEYS)
    assert require_operator(known, request(x_api_key="boss-key")).caller.key_id == "boss"
    for refused in (request(x_api_key="dev-key"), request()):
        with pytest.raises(PatchbayError, match="operator: true") as raised:
            require_operator(known, refused)
        assert raised.value.error.code == PERMISSION


def test_a_wrong_key_is_no_key_where_one_is_required() -> None:
    with pytest.raises(PatchbayError) as raised:
        require_operator(callers(require_api_key=True, **KEYS), request(x_api_key="guess"))
    assert raised.value.error.code == AUTHENTICATION


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_without_keys_whoever_sits_at_this_machine_is_the_operator(host: str) -> None:
    require_operator(callers(), request(host=host))


def test_a_web_page_whose_name_leads_here_is_not() -> None:
    rebound = request()
    rebound.scope["headers"] = [(b"host", b"evil.example:8000")]
    with pytest.raises(PatchbayError, match="call from this machine itself"):
        require_operator(callers(), rebound)


@pytest.mark.parametrize(
    "elsewhere",
    [
        request(host="10.0.0.7"),
        *(
            request(**{name: "10.0.0.7"})
            for name in ("x_forwarded_for", "x_forwarded_proto", "via", "cf_connecting_ip")
        ),
    ],
)
def test_without_keys_nobody_else_is(elsewhere: Request) -> None:
    with pytest.raises(PatchbayError, match="call from this machine itself"):
        require_operator(callers(), elsewhere)


def test_a_body_that_any_web_page_can_send_is_refused() -> None:
    require_json(request(content_type="application/json; charset=utf-8"))
    for refused in (request(), request(content_type="text/plain")):
        with pytest.raises(PatchbayError, match="application/json"):
            require_json(refused)
