"""`auth.json`: shared with the Codex CLI, which may have anything in it and may be writing it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from patchbay.codex.auth_file import AuthFile
from patchbay.codex.login import Login, NotKept, PlaceBusy, SignInMissing


def written(login: Login, **more: object) -> dict[str, object]:
    tokens = {name: getattr(login, name) for name in ("id_token", "access_token", "refresh_token", "account_id")}
    return {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {**tokens, "login_owner_id": "o-1", "from_the_future": [1]},
        "last_refresh": "2030-03-17T17:46:40.123456789Z",
        **more,
    }


def content(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found


def put(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def is_there(path: Path) -> bool:
    return path.exists()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def path(tmp_path: Path, login: Login) -> Path:
    path = tmp_path / "auth.json"
    put(path, written(login, agent_identity={"id": "a"}))
    path.chmod(0o644)
    return path


def test_reads_what_the_cli_wrote(path: Path, login: Login) -> None:
    read = asyncio.run(AuthFile(path).load())
    assert read == msgspec.structs.replace(login, last_refresh=read.last_refresh)
    assert round(read.last_refresh, 3) == 1_900_000_000.123


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not there"),
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        (
            '{"auth_mode": "apikey", "OPENAI_API_KEY": "sk-made-up", "tokens": {"access_token": "x"}}',
            "no ChatGPT tokens",
        ),
        ('{"auth_mode": "chatgpt", "tokens": null}', "keyring"),
        ('{"tokens": {"access_token": 7}}', "holds no ChatGPT tokens"),
        ('{"tokens": "made-up-secret"}', "holds no ChatGPT tokens"),
    ],
)
def test_what_holds_no_sign_in_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "auth.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SignInMissing, match=said) as caught:
        asyncio.run(AuthFile(path).load())
    assert str(path) in str(caught.value)
    assert "made-up" not in str(caught.value)


async def test_tokens_alone_are_a_sign_in(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text('{"tokens": {"access_token": "opaque", "refresh_token": "r"}, "last_refresh": "yesterday"}')
    assert await AuthFile(path).load() == Login(access_token="opaque", refresh_token="r")


async def test_a_renewal_changes_the_tokens_and_keeps_all_else(path: Path, login: Login) -> None:
    file = AuthFile(path)
    new = msgspec.structs.replace(login, access_token="new", refresh_token="rt-2", last_refresh=1_900_000_100.0)
    before = content(path)
    assert await file.save(new, replacing=(await file.load()).fingerprint) == new
    after = content(path)
    changed = {"access_token": "new", "refresh_token": "rt-2"}
    assert after == {**before, "tokens": {**before["tokens"], **changed}, "last_refresh": "2030-03-17T17:48:20Z"}
    assert list(after) == list(before)
    assert mode(path) == 0o600
    assert os.listdir(path.parent) == ["auth.json"]


async def test_a_newer_token_is_never_destroyed(path: Path, login: Login) -> None:
    file = AuthFile(path)
    newer = msgspec.structs.replace(login, refresh_token="rt-of-the-cli")
    put(path, written(newer))
    there = await file.save(msgspec.structs.replace(login, refresh_token="rt-2"), replacing=login.fingerprint)
    assert there.refresh_token == "rt-of-the-cli"
    assert content(path) == written(newer)
    os.unlink(path)
    with pytest.raises(SignInMissing):
        await file.save(newer, replacing=login.fingerprint)
    assert not is_there(path)


async def test_another_sign_in_takes_the_place_of_whatever_is_there(path: Path, login: Login) -> None:
    file = AuthFile(path)
    put(path, written(login, auth_mode="apikey", OPENAI_API_KEY="sk-made-up"))
    await file.save(msgspec.structs.replace(login, account_id="acc-9"), replacing=None)
    after = content(path)
    assert (after["auth_mode"], after["OPENAI_API_KEY"]) == ("chatgpt", "sk-made-up")
    assert set(after["tokens"]) == {"id_token", "access_token", "refresh_token", "account_id"}
    elsewhere = AuthFile(path.parent / "new" / "auth.json")
    async with elsewhere.exclusive(1):
        await elsewhere.save(login, replacing=None)
    assert (await elsewhere.load()).fingerprint == login.fingerprint
    assert mode(elsewhere.path.parent) == 0o700


async def test_a_link_leads_to_what_is_replaced(path: Path, login: Login, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    await AuthFile(link).save(msgspec.structs.replace(login, refresh_token="rt-2"), replacing=login.fingerprint)
    assert link.is_symlink()
    assert content(path)["tokens"]["refresh_token"] == "rt-2"


async def test_by_whatever_name_one_file_has_one_lock(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.json"
    link.parent.mkdir()
    link.symlink_to(path)
    async with AuthFile(link).exclusive(1):
        with pytest.raises(PlaceBusy):
            async with AuthFile(path).exclusive(0.05):
                raise AssertionError("another one holds it")


async def test_signing_out_by_a_link_leaves_no_tokens_behind(path: Path, login: Login, tmp_path: Path) -> None:
    put(path, written(login))
    link = tmp_path / "link.json"
    link.symlink_to(path)
    await AuthFile(link).forget()
    assert not is_there(path)


async def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(link)
    with pytest.raises(SignInMissing, match="cannot be read"):
        await AuthFile(link).load()
    with pytest.raises(NotKept, match="cannot be written"):
        async with AuthFile(link).exclusive(1):
            raise AssertionError("there is nothing to hold")


async def test_where_nothing_can_be_locked_nothing_is_renewed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system without locks."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(NotKept, match="cannot be locked: No locks available"):
        async with AuthFile(path).exclusive(1):
            raise AssertionError("nobody holds it")


async def test_the_file_stays_its_owners(path: Path, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that runs as root must not lock the CLI's user out. Only root can really give a file away."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr("os.fchown", lambda _, uid, gid: given.append((uid, gid)))
    owner = os.stat(path)
    await AuthFile(path).save(msgspec.structs.replace(login, refresh_token="rt-2"), replacing=login.fingerprint)
    assert given == [(owner.st_uid, owner.st_gid)]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_where_a_file_cannot_be_given_away_the_token_is_kept(
    path: Path, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.fchown", refuse)
    renewed = msgspec.structs.replace(login, refresh_token="rt-2")
    await AuthFile(path).save(renewed, replacing=login.fingerprint)
    assert (await AuthFile(path).load()).refresh_token == "rt-2"


async def test_signing_out_takes_the_tokens_alone(path: Path, login: Login) -> None:
    await AuthFile(path).forget()
    assert content(path) == {"OPENAI_API_KEY": None, "agent_identity": {"id": "a"}}
    put(path, written(login))
    await AuthFile(path).forget()
    assert not is_there(path)
    await AuthFile(path).forget()


async def test_what_cannot_be_written_is_said_and_left_as_it_was(path: Path, login: Login) -> None:
    blocked = AuthFile(path.parent / "auth.json" / "below")
    with pytest.raises(NotKept, match="cannot be written"):
        async with blocked.exclusive(1):
            raise AssertionError("a file has no files below it")
    directory = AuthFile(path.with_name("a-directory"))
    (directory.path / "full").mkdir(parents=True)
    with pytest.raises(NotKept, match="cannot be written"):
        await directory.save(login, replacing=None)
    assert sorted(os.listdir(path.parent)) == ["a-directory", "auth.json"]


HOLDER = """
import asyncio, sys
from pathlib import Path
from patchbay.codex.auth_file import AuthFile

async def main():
    async with AuthFile(Path(sys.argv[1])).exclusive(5):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def start_holder(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], env={}, stdout=subprocess.PIPE)


async def test_one_process_at_a_time_and_a_killed_one_holds_nothing(path: Path) -> None:
    file = AuthFile(path)
    holder = start_holder(path)
    try:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"
        with pytest.raises(PlaceBusy):
            async with file.exclusive(0.05):
                raise AssertionError("another one holds it")
    finally:
        holder.kill()
        holder.communicate()
    async with file.exclusive(5):
        assert (await file.load()).refresh_token == "rt-made-up-1"
