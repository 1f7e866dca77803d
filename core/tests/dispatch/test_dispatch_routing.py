from __future__ import annotations

import json

import pytest

from patchbay.dispatch.routing import Router
from patchbay.errors import NOT_FOUND, PatchbayError
from patchbay.settings import load

BACKENDS = {
    "default_backend": "last",
    **{
        name: {"kind": "openai-compatible", "base_url": f"http://{name}.test", **more}
        for name, more in {"one": {}, "two": {"model": "two-own"}, "last": {}}.items()
    },
}
ROUTES = [
    {"match": "only-sdk", "prefix": "/sdk", "backend": "one", "model": "sdk-model"},
    {"match": ["claude-*", "opus"], "backend": "one", "fallbacks": ["two", "last/spare"]},
    {"match": "claude-3", "backend": "two"},
    {"match": "exact", "backend": "two", "model": "override"},
    {"match": "own", "backend": "two"},
    {"match": "[ab]?-x", "backend": "one"},
    {"prefix": "/two", "backend": "two"},
]


def router(routes: list[dict[str, object]] | None = None, backends: dict[str, object] | None = None) -> Router:
    flags = [f"--routes={json.dumps(ROUTES if routes is None else routes)}"]
    for name, value in (BACKENDS if backends is None else backends).items():
        flags.append(f"--backends.{name}={value if isinstance(value, str) else json.dumps(value)}")
    settings = load(flags, {})
    return Router(settings.enabled_routes(), settings.enabled_backends(), settings.default_backend)


@pytest.mark.parametrize(
    ("prefix", "model", "targets"),
    [
        # The first route that fits, with its fallbacks in order.
        ("", "claude-3", [("one", "claude-3"), ("two", "two-own"), ("last", "spare")]),
        ("", "opus", [("one", "opus"), ("two", "two-own"), ("last", "spare")]),
        ("/api", "claude-x", [("one", "claude-x"), ("two", "two-own"), ("last", "spare")]),
        # The route's model, else the backend's, else the client's.
        ("", "exact", [("two", "override")]),
        ("", "own", [("two", "two-own")]),
        ("", "ax-x", [("one", "ax-x")]),
        # A prefix of a route is for requests with this prefix only.
        ("/sdk", "only-sdk", [("one", "sdk-model")]),
        ("", "only-sdk", [("last", "only-sdk")]),
        ("/api", "only-sdk", [("last", "only-sdk")]),
        ("/two", "whatever", [("two", "two-own")]),
        # Nothing fits.
        ("", "unknown", [("last", "unknown")]),
        ("", "CLAUDE-3", [("last", "CLAUDE-3")]),
        ("", "", [("last", "")]),
        # A backend's name before a slash beats every route, and its own model.
        ("", "two/claude-3", [("two", "claude-3")]),
        ("/two", "one/a/b", [("one", "a/b")]),
        ("", "three/x", [("last", "three/x")]),
        ("", "two/", [("last", "two/")]),
        ("", "/two", [("last", "/two")]),
    ],
)  # fmt: skip
def test_finds_the_backends_to_try(prefix: str, model: str, targets: list[tuple[str, str]]) -> None:
    found = router().targets(prefix, model)
    assert [(target.backend.name, target.model) for target in found] == targets


def test_without_any_backend_no_model_is_known() -> None:
    with pytest.raises(PatchbayError) as caught:
        router([], {}).targets("", "m")
    error = caught.value.error
    assert (error.code, error.parameter, error.upstream_code) == (NOT_FOUND, "model", "model_not_found")
    assert error.message == "no backend takes the model `m` (backends here: none)"


@pytest.mark.parametrize(
    ("prefix", "aliases"),
    [("", ["opus", "claude-3", "exact", "own"]), ("/sdk", ["only-sdk"])],
)
def test_lists_what_routes_name_exactly(prefix: str, aliases: list[str]) -> None:
    assert router().aliases(prefix) == aliases


# -- /sdk -------------------------------------------------------------------------------------------------------------

MODEL = {"kind": "claude-cli"}
AGENT = {"kind": "claude-cli", "mode": "agent", "cwd": "/work"}
OTHER = {"kind": "openai-compatible", "base_url": "http://other.test"}


@pytest.mark.parametrize(
    ("backends", "found"),
    [
        ({"other": OTHER, "model": MODEL, "agent": AGENT, "default_backend": "model"}, "model"),
        ({"other": OTHER, "model": MODEL, "agent": AGENT, "second": AGENT, "default_backend": "other"}, "agent"),
        ({"other": OTHER, "model": MODEL, "second": MODEL, "default_backend": "other"}, "model"),
    ],
)
def test_under_sdk_a_claude_cli_backend_answers(backends: dict[str, object], found: str) -> None:
    # Routes without a prefix are for the other paths.
    known = router([{"match": "*", "backend": "other"}], backends)
    assert [target.backend.name for target in known.targets("/sdk", "m")] == [found]
    assert [target.backend.name for target in known.targets("/sdk", "other/m")] == ["other"]
    assert [target.backend.name for target in known.targets("/api", "m")] == ["other"]
    assert [backend.kind for backend in known.offered("/sdk")] == ["claude-cli"] * (len(backends) - 2)


def test_a_route_of_the_prefix_decides_under_sdk() -> None:
    backends = {"other": OTHER, "model": MODEL, "agent": AGENT, "default_backend": "other"}
    known = router([{"match": "m", "prefix": "/sdk", "backend": "other", "fallbacks": ["model"]}], backends)
    assert [target.backend.name for target in known.targets("/sdk", "m")] == ["other", "model"]
    assert [target.backend.name for target in known.targets("/sdk", "n")] == ["agent"]
    assert [backend.name for backend in known.offered("/sdk")] == ["other", "model", "agent"]


def test_without_a_claude_cli_backend_sdk_says_how_to_have_one() -> None:
    known = router([{"match": "*", "backend": "other"}], {"other": OTHER, "default_backend": "other"})
    for ask in (lambda: known.targets("/sdk", "m"), lambda: known.offered("/sdk")):
        with pytest.raises(PatchbayError, match="kind: claude-cli, mode: agent") as caught:
            ask()
        assert caught.value.error.code == NOT_FOUND
    assert [target.backend.name for target in known.targets("/sdk", "other/m")] == ["other"]
