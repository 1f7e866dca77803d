"""docker-compose.yml is sound by construction: what scales has no host port and no state and waits for its needs."""

import re
from pathlib import Path

import pytest
import yaml

from patchbay.settings import load

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SCALED = ("edge", "openai-worker", "claude-worker", "codex-worker")


def environment(service, **variables):
    """The service's environment after interpolation of `${NAME:+text}`."""
    values = {}
    for name, text in service.get("environment", {}).items():
        values[name] = re.sub(
            r"\$\{(\w+):\+(\w+)\}", lambda found: found[2] if variables.get(found[1]) else "", str(text)
        )
    return values


@pytest.mark.parametrize("name", SCALED)
def test_replicas_share_nothing_on_the_host(name):
    service = SERVICES[name]
    assert not {"ports", "container_name", "hostname", "network_mode"} & set(service)
    assert all(volume.endswith(":ro") for volume in service.get("volumes", ()))
    assert not re.search(r"^VOLUME", dockerfile(service), re.MULTILINE)


def test_one_port_is_published_on_loopback_by_default():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"gateway": ["${PATCHBAY_ADDRESS:-127.0.0.1}:${PATCHBAY_PORT:-8000}:8000"]}


def dockerfile(service):
    return (ROOT / service["build"]["dockerfile"]).read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_says_how_it_is(name):
    service = SERVICES[name]
    assert "healthcheck" in service or "HEALTHCHECK" in dockerfile(service)
    for other, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert other in SERVICES


@pytest.mark.parametrize("name", OURS)
def test_images_are_small_and_not_root(name):
    text = dockerfile(OURS[name])
    assert text.count("\nFROM ") + text.startswith("FROM ") == 2
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert "--package patchbay-" in text
    assert "--frozen" in text


@pytest.mark.parametrize("name", SCALED)
def test_settings_of_each_service_are_settings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = dict(re.findall(r"\b(PATCHBAY__\w+)=(\S+)", dockerfile(OURS[name])))
    settings = load([], {**image, **environment(OURS[name])})
    assert settings.redis.connect_url() == "redis://redis:6379/0"
    assert settings.standin.enabled == "auto"
    with_standin = load([], {**image, **environment(OURS[name], COMPOSE_PROFILES="standin")})
    assert with_standin.enabled_backends()["standin-openai"].base_url == "http://standin:8010/v1"
    grace = int(OURS[name]["stop_grace_period"].removesuffix("s"))
    assert grace > max(settings.server.drain_seconds, settings.workers.drain_seconds)


def test_workers_and_redis_are_not_reachable_from_outside():
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert SERVICES["redis"]["networks"] == ["inside"]
