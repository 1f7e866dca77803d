"""`patchbay up`, `down` and `status` with real supervision and small programs in place of the services."""

import re
import signal
import socket

import psutil
import pytest

from patchbay.testing.eventually import wait_until
from patchbay_cli import plan

KEY = "sk-made-up-0123456789"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_starts_says_so_and_leaves_nothing_behind(machine, number):
    process = machine.up()
    said = machine.said()
    url = re.search(r"http://127\.0\.0\.1:\d+", said).group()
    for service in ("edge", "openai-worker", "claude-worker", "codebuff-ws", "valkey", "standin"):
        assert re.search(rf"^ *{service} ", said, re.MULTILINE), service
    assert re.search(r"standin-openai +not needed", said)
    assert "The stand-in provider answers" in said
    assert f"curl {url}/v1/chat/completions" in said
    assert f"curl {url}/v1/messages" in said
    # Four small programs with a child each, Valkey and the edge.
    assert len(machine.seen()) >= 10
    process.send_signal(number)
    assert process.wait(30) == 0
    assert machine.left() == []
    assert machine.said().endswith("Stopped.\n")


def test_a_backend_that_waits_for_its_sign_in_holds_up_nothing(machine):
    """It is this system that the operator signs in through."""
    process = machine.up("--backends.cli.kind=claude-cli", SMALL_UNABLE="not signed in: POST /auth/login")
    assert "no: not signed in: POST /auth/login" in machine.said()
    code, said = machine.run("status")
    assert (code, "not ready: not signed in: POST /auth/login" in said) == (1, True)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_services_stop_in_order(machine):
    process = machine.up()
    process.send_signal(signal.SIGINT)
    process.wait(30)
    log = (machine.directory / ".patchbay/logs/supervisord.log").read_text()
    stopped = re.findall(r"stopped: (\S+) ", log)
    assert stopped[0] == "edge"
    assert set(stopped[1:4]) == {"openai-worker", "claude-worker", "codebuff-ws"}
    assert stopped[4:] == ["standin", "valkey"]


def test_a_dead_service_is_started_again_and_that_is_said(machine):
    process = machine.up()
    first = machine.pid_of("patchbay-openai-worker")
    children = psutil.Process(first).children()
    psutil.Process(first).kill()
    wait_until(lambda: "openai-worker runs again" in machine.said(), what="it runs again", log=machine.said)
    assert "openai-worker has ended (terminated by SIGKILL): starting it again" in machine.said()
    assert machine.pid_of("patchbay-openai-worker") != first
    assert children
    wait_until(lambda: not any(machine.lives(child.pid) for child in children), what="its children end", seconds=10)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert machine.left() == []


def test_when_the_command_is_killed_everything_ends(machine):
    process = machine.up()
    process.kill()
    wait_until(lambda: not machine.left(), what="everything ends", log=machine.said)
    assert len(machine.seen()) >= 10


def test_when_the_supervisor_is_killed_everything_ends(machine):
    process = machine.up()
    psutil.Process(machine.supervisord()).kill()
    assert process.wait(30) == 1
    assert "supervisord has ended: everything stops" in machine.said()
    assert machine.left() == []


def test_when_both_are_killed_every_service_ends(machine):
    process = machine.up()
    services = [machine.pid_of(name) for name in ("patchbay-edge", "patchbay-openai-worker", "patchbay-claude-worker")]
    process.kill()
    psutil.Process(machine.supervisord()).kill()
    wait_until(lambda: not any(map(machine.lives, services)), what="every service ends", log=machine.said)
    assert len(set(services)) == 3


def test_a_second_signal_does_not_wait(machine):
    machine.install("patchbay-openai-worker", stop="signal.pause()")
    process = machine.up()
    process.send_signal(signal.SIGINT)
    log = machine.directory / ".patchbay/logs/supervisord.log"
    wait_until(lambda: "stopped: claude-worker" in log.read_text(), what="the others end", log=log.read_text)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert machine.left() == []


@pytest.mark.parametrize("key", ["server.port", "standin.port", "workers.openai_port", "server.metrics_port"])
def test_a_port_in_use_is_named_and_nothing_starts(machine, key):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"server.port": "0", "standin.port": "0", key: str(port)}
        status, said = machine.run("up", *(f"--{name}={value}" for name, value in ports.items()))
    variable = "PATCHBAY__" + key.upper().replace(".", "__")
    assert status == 1
    assert said == (
        f"patchbay: port {port} on 127.0.0.1 is in use: stop what uses it, "
        f"or choose another port with {variable}={port + 1} (setting {key})\n"
    )
    assert machine.seen() == set()


def test_a_service_that_cannot_start_is_shown_and_nothing_is_left(machine):
    status, said = machine.run("up", "--server.port=0", "--standin.port=0", SMALL_FAILS="patchbay-claude-worker")
    assert status == 1
    assert "claude-worker does not start (exit status 1)" in said
    assert "small program: cannot start" in said
    assert machine.left() == []


def test_one_system_for_one_directory(machine):
    process = machine.up()
    status, said = machine.run("up", "--server.port=0", "--standin.port=0")
    assert (status, said) == (
        1, "patchbay: it already runs here: see `patchbay status`, or stop it with `patchbay down`\n",
    )  # fmt: skip
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_status_and_down(machine):
    assert machine.run("status") == (1, "patchbay: nothing runs here: start it with `patchbay up`\n")
    assert machine.run("down") == (0, "Nothing runs here.\n")
    process = machine.up()
    status, said = machine.run("status")
    assert status == 0
    assert re.search(r"openai-worker +(running|starting) +\d+", said)
    assert re.search(r"standin-anthropic +1 +yes", said)
    assert machine.run("down") == (0, "Stopped.\n")
    assert process.wait(30) == 0
    assert machine.left() == []


def planned(machine, *argv):
    """The services of a system, by name, without starting them."""
    state = machine.directory / ".patchbay"
    environ = {"PATCHBAY_CONFIG": "/dev/null"}
    flags = ["--server.port=0", "--standin.port=0", *argv]
    made = plan.make(flags, environ, state=state, programs=machine.programs)
    return {service.name: service.command for service in made.services}


def test_the_embedded_valkey_writes_to_disk_where_sign_ins_are_kept_in_it(machine):
    for argv, kept in (((), "no"), ((f"--security.secrets_key={'00' * 32}",), "yes")):
        command = planned(machine, *argv)["valkey"]
        assert command[command.index("--appendonly") + 1] == kept


def test_a_worker_that_only_some_need_starts_where_it_is_needed(machine):
    machine.install("patchbay-codex-worker")
    assert "codex-worker" not in planned(machine)
    services = planned(machine, "--backends.codex.credentials=signed_in")
    assert services["codex-worker"][0] == str(machine.programs / "patchbay-codex-worker")
    assert {"openai-worker", "claude-worker"} <= set(services)


def test_what_serves_codebuff_starts_unless_it_is_switched_off(machine):
    assert "codebuff-ws" in planned(machine)
    assert "codebuff-ws" not in planned(machine, "--codebuff.enabled=false")


def test_secrets_are_in_no_file_and_no_command_line(machine):
    process = machine.up(f"--security.api_keys={KEY}-flag", OPENAI_API_KEY=f"{KEY}-variable")
    said = machine.said()
    assert re.search(r"openai +yes", said)
    assert "stand-in" not in said
    written = b"".join(path.read_bytes() for path in machine.directory.rglob("*") if path.is_file())
    assert KEY.encode() not in written
    for pid in filter(machine.lives, machine.seen()):
        assert KEY not in " ".join(psutil.Process(pid).cmdline())
    assert KEY not in said
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_the_named_file_is_used_and_services_run_under_their_own_names(machine):
    file = machine.directory / "mine.yaml"
    file.write_text("backends.local: {kind: openai-compatible, base_url: 'http://127.0.0.1:9/v1'}")
    process = machine.up(PATCHBAY_CONFIG=str(file))
    assert re.search(r"local +yes", machine.said())
    assert "local/default" in machine.said()
    command = psutil.Process(machine.pid_of("patchbay-edge")).cmdline()
    assert command[1:] == [str(machine.programs / "patchbay-edge"), "--config", str(file)]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--server.prot", "1"), 2, "patchbay: --server.prot: unknown key server.prot; did you mean server.port?\n"),
        (("--config", "none.yaml"), 2, "patchbay: none.yaml: cannot be read: No such file or directory\n"),
        (("--standin.enabled", "false"), 1, "patchbay: there is no backend to talk to: set OPENAI_API_KEY"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(machine, arguments, status, said):
    got, text = machine.run("up", *arguments)
    assert got == status
    assert text.startswith(said)
    assert text.count("\n") == 1


def test_a_missing_program_is_named(machine):
    (machine.programs / "patchbay-edge").unlink()
    status, said = machine.run("up", "--server.port=0", "--standin.port=0")
    assert status == 1
    assert said.startswith(f"patchbay: {machine.programs / 'patchbay-edge'} is missing")
