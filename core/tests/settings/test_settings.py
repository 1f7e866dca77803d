"""The configuration: where it comes from, what it comes to, and what is said when it is wrong."""

import json
import re

import pytest

from patchbay.settings import SettingsError, Timeouts, embedded_socket, load, load_or_exit

KEY = "sk-made-up-key"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def written(tmp_path):
    def write(text, *argv, environ=None):
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return load(["--config", str(path), *argv], environ or {})

    return write


def test_defaults():
    settings = load([], {})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.redis.embedded
    assert settings.enabled_backends() == {}
    assert settings.default_backend is None
    assert "OPENAI_API_KEY" in settings.notices[0]


def test_flags_override_the_environment_which_overrides_the_file(written):
    text = "server: {host: 127.0.0.2, port: 1, drain_seconds: 1}"
    environ = {
        "PATCHBAY__SERVER__PORT": "2",
        "PATCHBAY__SERVER__DRAIN_SECONDS": "2",
        "PATCHBAY__LIMITS__LEASE_SECONDS": "",
    }
    settings = written(text, "--server.drain_seconds=3", environ=environ)
    assert (settings.server.host, settings.server.port, settings.server.drain_seconds) == ("127.0.0.2", 2, 3)
    assert settings.limits.lease_seconds == 30


@pytest.mark.parametrize("argv", [["--server.port", "9000"], ["--server.port=9000"], ["--Server.Port", "9000"]])
def test_spellings_of_a_flag(argv):
    assert load(argv, {}).server.port == 9000


def test_a_flag_that_is_a_yes_or_no_needs_no_value():
    assert load(["--backends.openai.strict_parameters"], {}).enabled_backends()["openai"].strict_parameters is True


@pytest.mark.parametrize("place", ["patchbay.yaml", "config/patchbay.yaml"])
def test_standard_places(tmp_path, place):
    (tmp_path / "config").mkdir()
    (tmp_path / place).write_text("server.port: 4321")
    assert load([], {}).server.port == 4321


def test_the_variable_names_the_file_and_the_flag_wins(tmp_path):
    (tmp_path / "one.yaml").write_text("server: {port: 1}")
    (tmp_path / "two.json").write_text(json.dumps({"server": {"port": 2}}))
    environ = {"PATCHBAY_CONFIG": str(tmp_path / "one.yaml")}
    assert load([], environ).server.port == 1
    assert load(["--config", str(tmp_path / "two.json")], environ).server.port == 2


@pytest.mark.parametrize(
    "text",
    [
        "backends.openai.timeout: 120\nbackends.openai.model: gpt-5",
        "backends:\n  openai.timeout: 120\n  openai.model: gpt-5",
        "backends:\n  openai:\n    timeout: 120\nbackends.openai.model: gpt-5",
        "backends: {openai: {timeout: '120', model: gpt-5}}",
        '{"backends": {"openai": {"timeout": 120}}, "backends.openai.model": "gpt-5"}',
    ],
)
def test_dotted_and_nested_keys_are_one(written, text):
    openai = written(text).enabled_backends()["openai"]
    assert openai.model == "gpt-5"
    assert openai.timeouts == Timeouts(connect=10, first_byte=120, idle=120, total=3600)


def test_every_way_to_set_a_nested_backend(written):
    text = "backends:\n  my-proxy: {kind: openai-compatible, base_url: http://10.0.0.1:8080/v1/}"
    environ = {
        "PATCHBAY__BACKENDS__MY_PROXY__TIMEOUT": "7",
        "PATCHBAY__BACKENDS__OPENAI_COMPATIBLE__BASE_URL": "http://h/v1",
    }
    settings = written(text, "--backends.my-proxy.model", "m", environ=environ)
    proxy = settings.enabled_backends()["my-proxy"]
    assert (proxy.model, proxy.timeouts.idle, proxy.timeouts.connect) == ("m", 7, 7)
    assert proxy.base_url == "http://10.0.0.1:8080/v1"
    assert settings.enabled_backends()["openai-compatible"].kind == "openai-compatible"


def test_lists_from_the_environment():
    environ = {
        "PATCHBAY__SECURITY__API_KEYS": "one-key, two-key",
        "PATCHBAY__BACKENDS__OPENAI__MODELS": '["a", "b"]',
        "PATCHBAY__ROUTES": '[{"match": "x*", "backend": "openai"}]',
        "PATCHBAY__BACKENDS__OPENAI__HEADERS": '{"x-a.b": "env:SECRET"}',
        "SECRET": "hidden",
    }
    settings = load([], environ)
    assert [key.key.get_secret_value() for key in settings.security.api_keys] == ["one-key", "two-key"]
    openai = settings.enabled_backends()["openai"]
    assert openai.models == ("a", "b")
    assert {name: value.get_secret_value() for name, value in openai.headers.items()} == {"x-a.b": "hidden"}
    assert settings.enabled_routes()[0].match == ("x*",)


def test_null_takes_a_limit_away(written):
    assert written("limits: {requests_per_minute: 5}").limits.requests_per_minute == 5
    environ = {"PATCHBAY__LIMITS__REQUESTS_PER_MINUTE": "null"}
    assert written("limits: {requests_per_minute: 5}", environ=environ).limits.requests_per_minute is None


def test_empty_sections_are_fine(written):
    settings = written("server:\nbackends:\nroutes:\nsecurity:\n  api_keys:\n")
    assert settings.server.port == 8000


ERRORS = {
    "codebuff: {websocket_path: /v1/responses}": "codebuff.websocket_path: must be a path of its own",
    "codebuff: {websocket_path: /team/v1/responses}": "codebuff.websocket_path: must be a path of its own",
    "codebuff: {websocket_path: /a%20b}": "websocket_path: must be a path that begins with / and has none of ?#*%",
    "codebuff: {max_kept_bytes: 1000, max_frame_bytes: 1000}": "max_kept_bytes must be more than max_frame_bytes",
    "server: {prot: 1}": "unknown key server.prot; did you mean server.port?",
    "sever: {port: 1}": "unknown key sever; did you mean server?",
    "console: {}": "unknown key console; known here: server, redis",
    "port: 1": "unknown key port; did you mean server.port?",
    "backends.openai.timout: 1": "unknown key backends.openai.timout; did you mean backends.openai.timeout?",
    "backends: {openai: {timeout: {idel: 3}}}": "timeout.idel; did you mean backends.openai.timeout.idle?",
    "server.port.x: 1": "unknown key server.port.x; server.port takes a value, not keys",
    "server: {port: {x: 1}}": "unknown key server.port.x; server.port takes a value, not keys",
    "security: {api_keys: [{kye: x}]}": "unknown key security.api_keys.0.kye; did you mean security.api_keys.0.key?",
    "routes: [{backnd: x}]": "unknown key routes.0.backnd; did you mean routes.0.backend?",
    "server: {port: many}": "server.port: input should be a valid integer",
    "server: {port: 70000}": "server.port: input should be less than or equal to 65535",
    "server: 3": "server: input should be",
    "server: {port: 1}\nserver.port: 2": "server.port is set twice",
    "server: {port: 1}\nserver: {port: 2}": "the key server is there twice",
    "server: [": "not valid YAML",
    "- a": "must hold sections",
    "redis: {url: 'http://x'}": "redis.url: must be embedded or start with one of redis://",
    "security: {require_api_key: true}": "require_api_key is true but there are no api_keys",
    "security: {api_keys: [a, a]}": "two api_keys have the same id",
    "security: {api_keys: ['']}": "api_keys.0.key: is empty",
    "backends: {proxy: {}}": "backends.proxy.kind: is missing; one of openai, anthropic, gemini",
    "backends: {a b: {kind: openai}}": "letters, digits, - and _",
    "backends: {openai: {kind: opnai}}": "backends.openai.kind: input should be 'openai', 'codebuddy'",
    "backends: {openai-compatible: {}}": "backends.openai-compatible.base_url: an openai-compatible backend needs one",
    "backends: {openai: {base_url: 'ftp://x'}}": "backends.openai.base_url: must be an http:// or https:// URL",
    "backends: {openai: {base_url: 'https://u:p@x'}}": "a credential goes in api_key",
    "backends: {openai: {credentials: signed_in}}": "backends.openai.credentials: signed_in is not possible for",
    "backends: {openai: {auth_token: x}}": "backends.openai.auth_token: kind openai takes an api_key",
    "backends: {openai: {credentials: pass_through, api_key: x}}": "api_key: with credentials: pass_through",
    "backends: {codebuddy: {api_key: sk-x}}": "codebuddy.api_key: a CodeBuddy key has the form ck_<id>.<secret>",
    "backends: {openai: {api_key: 'env:NOT_THERE'}}": "api_key is env:NOT_THERE, but the variable NOT_THERE is not",
    "backends: {openai: {api_key: 'file:not-there'}}": "openai.api_key is file:not-there, but that file cannot be",
    "backends: {openai: {timeout: 0}}": "backends.openai.timeout.connect: input should be greater than 0",
    "backends: {openai: {timeout: soon}}": "backends.openai.timeout: could not convert",
    "backends: {default_backend: mine}": "backends.default_backend: there is no enabled backend mine; there are: none",
    "routes: [{backend: mine}]": "routes.0.backend: there is no backend mine",
    "routes: [{backend: openai, fallbacks: [mine/m]}]": "routes.0.fallbacks.0: there is no backend mine",
    "routes: [{match: x}]": "routes.0.backend: is missing",
    "routes: [{prefix: sdk, backend: openai}]": "routes.0.prefix: must start with /",
    "security: {secrets_key: [short]}": "security.secrets_key: each key is 32 bytes in hex or base64, or a",
    "backends: {openai: {reasoning_format: tags}}": "backends.openai.reasoning_format: input should be 'field' or",
    "routes: [{backend: openai, reasoning_format: tags}]": "routes.0.reasoning_format: input should be 'field' or",
    "workers: {heartbeat_ttl_seconds: 0.5}": "heartbeat_ttl_seconds must be more than heartbeat_seconds",
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), ERRORS.items(), ids=list(ERRORS))
def test_what_is_wrong_is_said_in_one_line(written, text, said):
    with pytest.raises(SettingsError) as caught:
        written(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        (["--server.prot", "1"], {}, "--server.prot: unknown key server.prot; did you mean server.port?"),
        (["--config"], {}, "--config: needs the name of a file"),
        (["--config", "not-there.yaml"], {}, "not-there.yaml: cannot be read: No such file"),
        (["--server.port"], {}, "--server.port: needs a value"),
        (["serve"], {}, "serve: not a flag"),
        (
            [],
            {"PATCHBAY__SERVER__PROT": "1"},
            "PATCHBAY__SERVER__PROT: unknown key server.prot; did you mean server.port?",
        ),
        ([], {"CODEBUDDY_API_KEY": "sk-made-up"}, "CODEBUDDY_API_KEY: a CodeBuddy key has the form"),
        ([], {"PATCHBAY_CONFIG": "not-there.yaml"}, "not-there.yaml: cannot be read"),
    ],
)
def test_the_source_is_named(argv, environ, said):
    with pytest.raises(SettingsError, match="^" + said.replace("?", r"\?").replace("[", r"\[")):
        load(argv, environ)


def test_an_entry_point_says_it_without_a_stack_trace(capsys):
    with pytest.raises(SystemExit) as caught:
        load_or_exit("patchbay-edge", ["--server.prot", "1"])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.err == "patchbay-edge: --server.prot: unknown key server.prot; did you mean server.port?\n"


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        load_or_exit("patchbay-edge", ["--help"])
    assert caught.value.code == 0
    assert "--server.port" in capsys.readouterr().out


def test_secrets_are_never_shown(written, tmp_path):
    (tmp_path / "secret").write_text("from-a-file\n")
    (tmp_path / "secrets-key").write_text("another, from a file\n")
    settings = written(
        "backends:\n"
        "  openai: {api_key: 'env:MY_KEY', headers: {x-team: plain-header}}\n"
        "  anthropic: {api_key: 'file:secret'}\n"
        "redis: {url: 'redis://:plain-password@h'}\n"
        "security: {api_keys: [plain-key, {key: other-key, id: ci}]}\n"
        "security.secrets_key: [file:secrets-key, plain passphrase]",
        environ={"MY_KEY": KEY},
    )
    backends = settings.enabled_backends()
    assert backends["openai"].api_key.get_secret_value() == KEY
    assert backends["anthropic"].api_key.get_secret_value() == "from-a-file"
    assert settings.redis.connect_url() == "redis://:plain-password@h"
    assert settings.security.sealing_keys() == ("another, from a file", "plain passphrase")
    shown = f"{settings!r} {settings} {backends!r} {settings.model_dump_json()}"
    for secret in (
        KEY,
        "from-a-file",
        "plain-header",
        "plain-password",
        "plain-key",
        "other-key",
        "from a file",
        "passphrase",
    ):
        assert secret not in shown


def test_an_error_never_shows_a_secret(written):
    with pytest.raises(SettingsError) as caught:
        written("backends: {openai: {api_key: [plain-secret]}}")
    assert "plain-secret" not in str(caught.value)


def test_ids_of_keys(written):
    one, two = written("security: {api_keys: [plain-key, {key: other, id: ci, user: u}]}").security.api_keys
    assert len(one.id) == 12
    assert one.id == written("security: {api_keys: [plain-key]}").security.api_keys[0].id
    assert (two.id, two.user) == ("ci", "u")


STANDARD = [
    ("openai", "OPENAI_API_KEY", "sk-1", "openai-worker"),
    ("anthropic", "ANTHROPIC_API_KEY", "sk-1", "claude-worker"),
    ("gemini", "GEMINI_API_KEY", "x-1", "openai-worker"),
    ("openrouter", "OPENROUTER_API_KEY", "x-1", "openai-worker"),
    ("codebuddy", "CODEBUDDY_API_KEY", "ck_1.2", "openai-worker"),
]


@pytest.mark.parametrize(("name", "variable", "key", "worker"), STANDARD)
def test_a_standard_variable_is_configuration_enough(name, variable, key, worker):
    settings = load([], {variable: key})
    backend = settings.enabled_backends()[name]
    assert (backend.kind, backend.worker, backend.signed_in) == (name, worker, True)
    assert backend.api_key.get_secret_value() == key
    assert backend.base_url.startswith("https://")
    assert settings.default_backend == name


def test_an_oauth_token_for_anthropic():
    anthropic = load([], {"ANTHROPIC_AUTH_TOKEN": "token"}).enabled_backends()["anthropic"]
    assert (anthropic.api_key, anthropic.auth_token.get_secret_value()) == (None, "token")
    both = load([], {"ANTHROPIC_AUTH_TOKEN": "token", "ANTHROPIC_API_KEY": "key"}).enabled_backends()["anthropic"]
    assert (both.api_key.get_secret_value(), both.auth_token) == ("key", None)


def test_a_key_is_not_sent_to_a_server_of_another_kind(written):
    text = "backends: {openai: {kind: openai-compatible, base_url: 'http://127.0.0.1:1/v1'}}"
    openai = written(text, environ={"OPENAI_API_KEY": KEY}).enabled_backends()["openai"]
    assert (openai.api_key, openai.signed_in) == (None, True)


def test_what_is_missing_is_said(written):
    openai = written("backends.openai.model: gpt-5").enabled_backends()["openai"]
    assert (openai.signed_in, openai.detail) == (False, "no credential: set OPENAI_API_KEY or backends.openai.api_key")
    through = written("backends.anthropic.credentials: pass_through", environ={"ANTHROPIC_API_KEY": KEY})
    assert (through.enabled_backends()["anthropic"].api_key, through.enabled_backends()["anthropic"].signed_in) == (
        None,
        True,
    )


def test_enabled_false_takes_a_backend_out(written):
    settings = written(
        "backends: {openai: {enabled: false}}\nroutes: [{backend: openai}]", environ={"OPENAI_API_KEY": KEY}
    )
    assert settings.enabled_backends() == {}
    assert settings.enabled_routes() == ()
    assert settings.notices[0] == "routes.0 is left out: openai is not enabled or has no credential"


def test_the_default_backend_is_the_first_with_a_credential(written):
    text = "backends: {openai: {}, gemini: {}, openrouter: {}}"
    assert written(text, environ={"GEMINI_API_KEY": "x", "OPENROUTER_API_KEY": "x"}).default_backend == "gemini"
    assert written(text).default_backend == "openai"
    assert written(text + "\nbackends.default_backend: openrouter").default_backend == "openrouter"


def test_routes(written):
    text = """
    routes:
      - {match: [claude-*, opus], prefix: /sdk/, backend: openai, model: gpt-5, fallbacks: [gemini/g/2, anthropic]}
      - {backend: gemini}
    """
    one, two = written(text, environ={"OPENAI_API_KEY": KEY}).enabled_routes()
    assert (one.match, one.prefix) == (("claude-*", "opus"), "/sdk")
    assert [(target.backend, target.model) for target in one.targets] == [
        ("openai", "gpt-5"),
        ("gemini", "g/2"),
        ("anthropic", None),
    ]
    assert (two.match, two.prefix) == (("*",), None)


def test_default_routes():
    settings = load([], {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY})
    assert {route.match[0]: route.targets[0].backend for route in settings.enabled_routes()} == {
        "claude-*": "anthropic",
        "gpt-*": "openai",
    }
    assert settings.default_backend == "openai"


def test_the_stand_in_answers_for_what_has_no_credential(written):
    text = (
        "standin: {enabled: true, port: 8111}\n"
        "routes: [{match: claude-*, backend: anthropic, fallbacks: [gemini]}]\n"
        "backends.default_backend: openai"
    )
    settings = written(text)
    backends = settings.enabled_backends()
    assert (backends["standin-openai"].base_url, backends["standin-anthropic"].base_url) == (
        "http://127.0.0.1:8111/v1",
        "http://127.0.0.1:8111",
    )
    assert (backends["standin-openai"].kind, backends["standin-anthropic"].kind) == ("openai-compatible", "anthropic")
    assert (backends["standin-openai"].worker, backends["standin-anthropic"].worker) == (
        "openai-worker",
        "claude-worker",
    )
    assert settings.default_backend == "standin-openai"
    assert [(route.match, route.targets[0].backend) for route in settings.enabled_routes()] == [
        (("claude-*",), "standin-anthropic")
    ]
    with_key = written(text, environ={"GEMINI_API_KEY": "x", "OPENAI_API_KEY": KEY})
    assert with_key.default_backend == "openai"
    assert [route.targets[0].backend for route in with_key.enabled_routes()] == ["gemini", "standin-anthropic"]


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::", True), ("localhost", False), ("::1", False)])
def test_an_open_door_is_pointed_out(host, warned):
    notices = load([f"--server.host={host}"], {"OPENAI_API_KEY": KEY}).notices
    assert bool(notices) is warned


def test_the_embedded_socket_fits_into_a_socket_address(tmp_path, monkeypatch):
    assert load([], {}).redis.connect_url() == f"unix://{tmp_path}/.patchbay/valkey.sock"
    monkeypatch.setenv("PATCHBAY_STATE_DIR", str(tmp_path / "state"))
    assert load([], {}).redis.connect_url() == f"unix://{tmp_path}/state/valkey.sock"
    deep = tmp_path / ("d" * 120)
    assert len(str(embedded_socket(deep))) <= 100
    assert embedded_socket(deep) == embedded_socket(deep)


def claude_cli(**config):
    return load(["--backends.cli=" + json.dumps({"kind": "claude-cli", **config})], {})


def test_a_claude_cli_backend_takes_the_keys_of_its_mode():
    backend = claude_cli(api_key="k", pool={"min_spare": 1}).enabled_backends()["cli"]
    assert (backend.worker, backend.base_url, backend.signed_in) == ("claude-worker", "https://api.anthropic.com", True)
    assert (backend.claude_cli.mode, backend.claude_cli.pool.min_spare) == ("model", 1)
    agent = claude_cli(mode="agent", cwd="/srv", credentials="signed_in", config_dir="/c").enabled_backends()["cli"]
    assert (agent.claude_cli.cwd, agent.claude_cli.permission_mode, agent.signed_in) == ("/srv", "default", True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"kind": "openai", "pool": {}}, "backends.cli.pool: only a backend of kind claude-cli takes it"),
        ({"credentials": "signed_in"}, "backends.cli.config_dir: is missing"),
        ({"credentials": "signed_in", "config_dir": "/c", "api_key": "k"}, "no key is used; leave it out"),
        ({"credentials": "pass_through"}, "pass_through is not possible for kind claude-cli"),
        ({"mode": "agent"}, "backends.cli.cwd: is missing"),
        ({"tools": ["Read"]}, "backends.cli.tools: only with mode: agent"),
        ({"pool": {"min_spare": 3, "max_processes": 2}}, "min_spare is more than max_processes"),
        ({"mode": "agent", "cwd": "/", "mcp_servers": {"a": {"type": "http"}}}, "a server of type http needs a url"),
        ({"mode": "agent", "cwd": "/", "permission_mode": "ask"}, "permission_mode"),
    ],
)
def test_what_does_not_fit_a_claude_cli_backend_is_named(config, said):
    with pytest.raises(SettingsError, match=re.escape(said)):
        claude_cli(**config)


def test_a_key_alone_makes_no_claude_cli_backend_but_is_used_by_one():
    assert list(load([], {"ANTHROPIC_API_KEY": "k"}).enabled_backends()) == ["anthropic"]
    backends = load(["--backends.claude-cli.mode=model"], {"ANTHROPIC_API_KEY": "k"}).enabled_backends()
    assert backends["claude-cli"].api_key.get_secret_value() == "k"


def test_claude_models_go_to_a_claude_cli_backend_where_there_is_no_api():
    [route] = claude_cli(api_key="k").enabled_routes()
    assert (route.match, route.targets[0].backend) == (("claude-*",), "cli")


def test_an_operators_own_sign_in_is_noticed_at_start():
    assert any("own sign-in" in notice for notice in claude_cli(credentials="signed_in", config_dir="/c").notices)


# -- codex ------------------------------------------------------------------------------------------------------------


def codex(environ=None, **config):
    text = json.dumps({"kind": "codex", "credentials": "signed_in", **config})
    return load([f"--backends.c={text}"], environ or {})


def test_a_codex_backend_says_where_its_accounts_are():
    environ = {"HOME": "/home/me"}
    plain = codex(environ).enabled_backends()["c"]
    assert (plain.worker, plain.base_url) == ("codex-worker", "https://chatgpt.com/backend-api")
    assert (plain.api_key, plain.credentials, plain.signed_in) == (None, "signed_in", True)
    assert (str(plain.codex.auth_file), plain.codex.accounts) == ("/home/me/.codex/auth.json", ())
    assert plain.codex.refresh_url == "https://auth.openai.com/oauth/token"
    assert plain.codex.revoke_url == "https://auth.openai.com/oauth/revoke"
    environ |= {"CODEX_HOME": "/c", "CODEX_REFRESH_TOKEN_URL_OVERRIDE": "http://127.0.0.1:9/t"}
    other = codex(
        environ, oauth_issuer="http://127.0.0.1:1/", accounts=["me@x.test", "~/a.json"], inject_instructions="~/i.md"
    ).enabled_backends()["c"]
    assert (str(other.codex.home), other.codex.issuer) == ("/c", "http://127.0.0.1:1")
    assert other.codex.accounts == ("me@x.test", "/home/me/a.json")
    assert other.codex.refresh_url == "http://127.0.0.1:9/t"
    assert other.codex.revoke_url == "http://127.0.0.1:1/oauth/revoke"
    assert str(other.codex.inject_instructions) == "/home/me/i.md"
    assert str(codex(environ, codex_home="/mine").enabled_backends()["c"].codex.home) == "/mine"


@pytest.mark.parametrize(
    ("config", "environ", "said"),
    [
        (
            {"kind": "openai", "credentials": "api_key", "accounts": []},
            {},
            "accounts: only a backend of kind codex takes",
        ),
        ({"credentials": "api_key"}, {}, "backends.c.credentials: a backend of kind codex uses the operator's own"),
        (
            {"credentials": "pass_through"},
            {},
            "backends.c.credentials: a backend of kind codex uses the operator's own",
        ),
        ({"api_key": "k"}, {}, "no key is used; leave it out"),
        ({"pool": {}}, {}, "backends.c.pool: only a backend of kind claude-cli takes it"),
        ({"accounts": ["my account"]}, {}, "'my account' is neither an account's name"),
        ({"oauth_issuer": "auth.test"}, {}, "backends.c.oauth_issuer: must be an http:// or https:// URL"),
        ({}, {"CODEX_REFRESH_TOKEN_URL_OVERRIDE": "x"}, "CODEX_REFRESH_TOKEN_URL_OVERRIDE: must be an http:// or"),
    ],
)
def test_what_does_not_fit_a_codex_backend_is_named(config, environ, said):
    with pytest.raises(SettingsError, match=re.escape(said)):
        codex(environ, **config)


def test_a_key_alone_makes_no_responses_backend_but_is_used_by_one():
    environ = {"OPENAI_API_KEY": KEY}
    assert list(load([], environ).enabled_backends()) == ["openai"]
    backend = load(["--backends.openai-responses.model=m"], environ).enabled_backends()["openai-responses"]
    assert (backend.worker, backend.base_url) == ("codex-worker", "https://api.openai.com/v1")
    assert (backend.api_key.get_secret_value(), backend.signed_in, backend.codex) == (KEY, True, None)
    through = load(["--backends.openai-responses.credentials=pass_through"], environ)
    assert through.enabled_backends()["openai-responses"].api_key is None


def test_gpt_models_go_to_a_codex_backend_where_there_is_no_api():
    [route] = codex().enabled_routes()
    assert (route.match[0], route.targets[0].backend) == ("gpt-*", "c")
    assert any("own sign-in" in notice for notice in codex().notices)


def test_reasoning_is_formatted_as_the_backend_and_the_route_say(written):
    text = (
        "backends: {openai: {reasoning_format: xml}, gemini: {}}\nroutes: [{backend: openai, reasoning_format: field}]"
    )
    settings = written(text, environ={"OPENAI_API_KEY": KEY})
    backends = settings.enabled_backends()
    assert (backends["openai"].reasoning_format, backends["gemini"].reasoning_format) == ("xml", "field")
    assert settings.enabled_routes()[0].reasoning_format == "field"
    assert written("routes: [{backend: openai}]").enabled_routes()[0].reasoning_format is None
