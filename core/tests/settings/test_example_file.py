"""The example file holds every key, with the default where there is one."""

import re
from pathlib import Path

import pytest
import yaml

from patchbay.settings import Settings, load
from patchbay.settings.claude_cli import Pool
from patchbay.settings.schema import leaves, node_of

EXAMPLE = Path(__file__).parents[3] / "config" / "patchbay.example.yaml"
ENVIRON = {
    "OPENAI_API_KEY": "sk-made-up",
    "ANTHROPIC_AUTH_TOKEN": "made-up",
    "PATCHBAY_KEY": "made-up",
    "TICKETS_TOKEN": "made-up",
    "WIKI_TOKEN": "made-up",
}


@pytest.fixture(scope="module")
def uncommented(tmp_path_factory):
    """The example with all its settings in force."""
    directory = tmp_path_factory.mktemp("example")
    (directory / "ci-key").write_text("made-up-ci")
    text = re.sub(r"^#(?=\S)|^#(?= {2,}\S)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    path = directory / "patchbay.yaml"
    (directory / "patchbay-key").write_text("00" * 32)
    path.write_text(text.replace("/run/secrets/", f"{directory}/"))
    return path


def paths_in(value, path=""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_in(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from paths_in(item, f"{path}.*")
    else:
        yield path


def test_as_it_is_it_changes_nothing():
    assert load(["--config", str(EXAMPLE)], {}) == load([], {"PATCHBAY_CONFIG": "/dev/null"})


def test_every_key_is_in_it(uncommented):
    written = set(paths_in(yaml.safe_load(uncommented.read_text())))
    for path, _ in leaves(node_of(Settings)):
        pattern = re.escape(path).replace(r"\*", r"[^.]+")
        assert any(re.fullmatch(pattern, key) for key in written), f"{path} is missing in {EXAMPLE.name}"


def test_it_loads_and_shows_the_defaults(uncommented):
    example, defaults = load(["--config", str(uncommented)], ENVIRON), Settings()
    for section in ("server", "redis", "limits", "workers", "standin", "telemetry"):
        assert getattr(example, section) == getattr(defaults, section)
    assert list(example.enabled_backends()) == [
        "openai",
        "anthropic",
        "claude-cli",
        "coder",
        "codex",
        "responses",
        "ollama",
    ]
    openai, plain = example.enabled_backends()["openai"], load([], ENVIRON).enabled_backends()["openai"]
    assert (openai.base_url, openai.timeouts) == (plain.base_url, plain.timeouts)
    assert example.enabled_backends()["claude-cli"].claude_cli.pool == Pool()
    assert [key.id for key in example.security.api_keys][1] == "ci"


def test_every_key_says_what_it_is_for():
    for path, node in leaves(node_of(Settings)):
        assert node.description or path.endswith("*"), path
