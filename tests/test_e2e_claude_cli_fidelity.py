"""What reaches the upstream through `claude` processes: the client's own request, but for the known differences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from known_differences import DIFFERENCES, DROPPED_BETAS, PROGRAM_BETAS, expected_upstream, seen_upstream, written
from message_shapes import SHAPES, Shape
from ways import only

from patchbay.testing.cluster import Cluster
from patchbay_standin.testing import StandinProcess

pytestmark = pytest.mark.timeout(60)

DOCS = Path(__file__).parents[1] / "docs" / "clients" / "claude-cli.md"


@pytest.fixture
def client(claude_cluster: Cluster, upstream: StandinProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=claude_cluster.url, headers={"x-api-key": "made-up"}, timeout=50) as open_client:
        yield open_client


def send(client: httpx.Client, shape: Shape, **fields: object) -> httpx.Response:
    body = {**shape.body, "model": f"cli/{shape.body['model']}", **fields}
    return client.post("/v1/messages", json=body, headers={"anthropic-beta": shape.betas} if shape.betas else {})


@pytest.mark.parametrize("name", SHAPES)
def test_the_upstream_gets_what_the_client_wrote(client: httpx.Client, upstream: StandinProcess, name: str) -> None:
    shape = SHAPES[name]

    answer = send(client, shape)

    request, *again = upstream.requests()
    # An answer that was cut off at its limit the program may ask for again before it is ended.
    assert not again or name == "one token"
    assert written(seen_upstream(request.body)) == written(expected_upstream(dict(shape.body)))
    betas = request.headers["anthropic-beta"].split(",")
    clients = [beta for each in shape.betas.split(",") if (beta := each.strip()) and beta not in DROPPED_BETAS]
    assert betas[len(betas) - len(clients) :] == clients
    assert set(betas[: len(betas) - len(clients)]) <= PROGRAM_BETAS
    assert request.headers["x-api-key"] == "sk-ant-made-up"
    assert request.headers["anthropic-version"] == "2023-06-01"
    # The stand-in knows no such block; its refusal is the client's too.
    assert (answer.status_code, request.status) == ((400, 400) if "unknown type" in name else (200, 200))
    assert "x-patchbay-warnings" not in answer.headers


@pytest.mark.parametrize(
    ("alias", "model"), [("opus", "claude-opus-"), ("sonnet", "claude-sonnet-"), ("haiku", "claude-haiku-")]
)
def test_the_program_knows_its_aliases(client: httpx.Client, upstream: StandinProcess, alias: str, model: str) -> None:
    send(client, SHAPES["text"], model=f"cli/{alias}")

    assert only(upstream).model.startswith(model)


def test_every_difference_is_in_the_docs() -> None:
    words = " ".join(DOCS.read_text().split())
    said = [difference.says for difference in DIFFERENCES]
    assert [each for each in (*said, *sorted(PROGRAM_BETAS | DROPPED_BETAS)) if each not in words] == []
