from __future__ import annotations

import pytest

from patchbay.state import codebuff_logins
from patchbay.state.codebuff_logins import MOST_PER_MINUTE, CodebuffLogins
from patchbay.testing.valkey import ValkeyProcess


@pytest.mark.parametrize(
    ("addresses", "begun"),
    [
        (["192.0.2.{n}"], 40),
        (["2001:db8:0:{n}::1"], 40),
        # Whoever has one of these has all of them.
        (["2001:db8::{n}", "2001:db8:0:0:{n}::1", "2001:db8::{n}%eth0"], MOST_PER_MINUTE),
        (["::ffff:192.0.2.{n}"], 40),
        (["", "no address"], 2 * MOST_PER_MINUTE),
    ],
)
async def test_a_network_begins_so_many(
    valkey: ValkeyProcess, connected, monkeypatch: pytest.MonkeyPatch, addresses: list[str], begun: int
) -> None:
    monkeypatch.setattr(codebuff_logins.time, "time", lambda: 1_800_000_000.0)
    logins = CodebuffLogins(connected(valkey.url), sealer=None, timeout=5)
    names = [address.format(n=n) for address in addresses for n in range(1, 41)]
    assert sum([await logins.begin("f", name) is not None for name in names]) == begun
