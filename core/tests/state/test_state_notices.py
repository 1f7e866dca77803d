from __future__ import annotations

import asyncio
import random

from patchbay.state.notices import Notices


async def test_a_listener_may_leave_at_any_moment(valkey, connected):
    """Also while the subscription connects, where redis-py forgets a cancellation now and then."""
    notices = Notices(connected(valkey.url), "pb:test:changed", timeout=0.5, retry_seconds=0.1)
    for _ in range(300):
        async with asyncio.timeout(5), notices.listening():
            await asyncio.sleep(random.uniform(0, 0.003))
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "notices"]


async def test_listeners_hear_again_after_all_have_left(valkey, connected):
    notices = Notices(connected(valkey.url), "pb:test:changed", timeout=0.5, retry_seconds=0.1)
    for _ in range(3):
        async with asyncio.timeout(5), notices.listening("7") as seven, notices.listening("8") as eight:
            await seven.wait()  # the subscription stands
            seven.clear()
            eight.clear()
            valkey.command("PUBLISH", "pb:test:changed", "resolved 7")
            await seven.wait()
            assert not eight.is_set()
