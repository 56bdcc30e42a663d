"""The work queue: one look per key at a time, none lost, delays and backoff."""

from __future__ import annotations

import asyncio
import random

import pytest

from controller.runtime.queue import Closed, ObjectKey, WorkQueue, backoff

A: ObjectKey = ("XenVM", "default", "a")
B: ObjectKey = ("XenVM", "default", "b")


async def test_a_key_added_twice_is_given_once() -> None:
    queue = WorkQueue()
    queue.add(A)
    queue.add(A)
    queue.add(B)
    assert [await queue.get(), await queue.get()] == [A, B]
    assert len(queue) == 0


async def test_a_key_added_while_active_is_given_again_after_done_and_not_before() -> None:
    queue = WorkQueue()
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    queue.add(A)
    second = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not second.done()
    queue.done(A)
    assert await second == A
    queue.done(A)
    assert len(queue) == 0
    assert queue.active == 0


async def test_never_two_workers_on_one_key_and_every_add_is_followed_by_a_look() -> None:
    queue, rng = WorkQueue(), random.Random(1)
    keys: list[ObjectKey] = [("XenVM", "default", str(n)) for n in range(5)]
    version, seen, active = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0), set[ObjectKey]()

    async def look(key: ObjectKey) -> None:
        assert key not in active
        active.add(key)
        observed = version[key]
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        seen[key] = observed
        active.remove(key)

    workers = [asyncio.create_task(queue.work(look)) for _ in range(3)]
    for _ in range(2000):
        key = rng.choice(keys)
        version[key] += 1
        queue.add(key)
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    await queue.until_idle()
    assert seen == version
    await queue.drain()
    await asyncio.gather(*workers)


async def test_the_shortest_delay_counts_and_an_add_supersedes_it() -> None:
    queue = WorkQueue()
    queue.add_after(A, 3600)
    queue.add_after(A, 0.01)
    assert await asyncio.wait_for(queue.get(), 5) == A
    queue.done(A)
    assert queue.delayed == 0
    queue.add_after(B, 3600)
    assert queue.delayed == 1
    queue.add(B)
    assert queue.delayed == 0
    assert await queue.get() == B


async def test_delays_ring_in_their_order() -> None:
    queue = WorkQueue()
    keys: list[ObjectKey] = [("XenVM", "", str(n)) for n in range(20)]
    for n in reversed(range(20)):
        queue.add_after(keys[n], 0.03 * (n + 1))
    assert [await asyncio.wait_for(queue.get(), 5) for _ in keys] == keys


async def test_the_backoff_grows_to_its_cap_and_is_forgotten() -> None:
    queue = WorkQueue(base=1.0, cap=8.0, rand=lambda: 1.0)
    assert [queue.add_failed(A) for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    queue.forget(A)
    assert queue.add_failed(A) == 1.0
    assert backoff(10_000, 1.0, 8.0, lambda: 0.0) == 4.0


async def test_close_forgets_what_waits_and_drain_waits_for_what_is_active() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    queue.add(B)
    draining = asyncio.create_task(queue.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    queue.done(A)
    await asyncio.wait_for(draining, 5)
    queue.add(B)
    assert len(queue) == 0
    with pytest.raises(Closed):
        await queue.get()


async def test_close_ends_the_workers_that_wait() -> None:
    queue = WorkQueue()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert [type(r) for r in await asyncio.gather(*waiting, return_exceptions=True)] == [Closed] * 3


async def test_a_cancelled_waiter_passes_its_wake_up_on() -> None:
    queue = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(A)  # wakes the first
    first.cancel()
    assert await asyncio.wait_for(second, 5) == A
