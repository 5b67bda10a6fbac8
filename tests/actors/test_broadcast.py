"""One writer, many readers: everybody hears everything in order, or is ended and told so. Nobody waits."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.broadcast import Broadcast, Lagged, Reader
from tests.patience import WITHIN


def drain(reader: Reader[int]) -> list[int]:
    items = []
    while True:
        try:
            items.append(reader.receive_nowait())
        except trio.WouldBlock:
            return items


async def test_every_reader_hears_everything_in_order() -> None:
    broadcast = Broadcast[int]()
    with broadcast.subscribe(100) as one, broadcast.subscribe(100) as two:
        assert len(broadcast) == 2
        for item in range(100):
            broadcast.publish(item)
        assert drain(one) == drain(two) == list(range(100))
        for item in range(3):
            broadcast.publish(item)
            assert await one.receive() == item
    assert len(broadcast) == 0
    assert broadcast.lagged == 0


async def test_a_reader_hears_nothing_from_before_it_came() -> None:
    broadcast = Broadcast[int]()
    broadcast.publish(1)  # to nobody
    with broadcast.subscribe(10) as reader:
        broadcast.publish(2)
        assert drain(reader) == [2]


async def test_a_waiting_reader_is_woken() -> None:
    broadcast = Broadcast[int]()
    heard: list[int] = []

    async def listen(reader: Reader[int]) -> None:
        with reader:
            heard.extend([await reader.receive(), await reader.receive()])

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, broadcast.subscribe(1))
            await wait_all_tasks_blocked()
            broadcast.publish(1)
            await wait_all_tasks_blocked()
            broadcast.publish(2)
    assert heard == [1, 2]
    assert len(broadcast) == 0


async def test_a_reader_that_lags_is_ended_and_counted_and_others_notice_nothing() -> None:
    broadcast = Broadcast[int]()
    with broadcast.subscribe(3) as slow, broadcast.subscribe(10) as other, broadcast.subscribe(4) as exact:
        for item in range(4):
            broadcast.publish(item)
        assert (slow.lagged, other.lagged, exact.lagged) == (True, False, False)
        assert broadcast.lagged == 1
        assert len(broadcast) == 2
        broadcast.publish(4)  # the full reader is ended, the one already gone is not counted again
        assert broadcast.lagged == 2
        assert drain(other) == [0, 1, 2, 3, 4]
        # What had been published in time is still there, then comes the word.
        assert [slow.receive_nowait(), slow.receive_nowait(), await slow.receive()] == [0, 1, 2]
        with pytest.raises(Lagged):
            slow.receive_nowait()
        with pytest.raises(Lagged):
            await slow.receive()
    assert broadcast.lagged == 2


async def test_a_reader_that_catches_up_in_time_is_not_ended() -> None:
    broadcast = Broadcast[int]()
    with broadcast.subscribe(2) as reader:
        for item in range(10):
            broadcast.publish(item)
            broadcast.publish(item)
            assert drain(reader) == [item, item]
        assert not reader.lagged


async def test_readers_that_lag_at_once_are_all_ended() -> None:
    broadcast = Broadcast[int]()
    readers = [broadcast.subscribe(1) for _ in range(5)]
    broadcast.publish(1)
    broadcast.publish(2)
    assert broadcast.lagged == 5
    assert all(reader.lagged for reader in readers)
    assert len(broadcast) == 0
    for reader in readers:
        reader.close()


async def test_readers_may_come_and_go_between_two_items() -> None:
    broadcast = Broadcast[int]()
    heard: dict[int, list[int]] = {}

    async def listen(number: int) -> None:
        with broadcast.subscribe(10) as reader:
            heard[number] = [await reader.receive() for _ in range(number)]

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(listen, number)
            await wait_all_tasks_blocked()
            for item in range(5):
                broadcast.publish(item)
                await wait_all_tasks_blocked()
                assert len(broadcast) == 4 - item  # one has heard enough and left
    assert heard == {number: list(range(number)) for number in range(1, 6)}
    assert broadcast.lagged == 0


async def test_closing_twice_or_after_the_end_is_nothing() -> None:
    broadcast = Broadcast[int]()
    reader = broadcast.subscribe(1)
    broadcast.publish(1)
    broadcast.publish(2)
    reader.close()
    reader.close()
    broadcast.publish(3)
    assert broadcast.lagged == 1


async def test_a_closed_reader_is_not_said_to_lag() -> None:
    broadcast = Broadcast[int]()
    reader = broadcast.subscribe(1)
    reader.close()
    with pytest.raises(trio.ClosedResourceError):
        reader.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        await reader.receive()


async def test_a_reader_closed_while_it_waits_is_not_said_to_lag() -> None:
    broadcast = Broadcast[int]()
    reader = broadcast.subscribe(1)
    ended: list[BaseException] = []

    async def listen() -> None:
        try:
            await reader.receive()
        except (Lagged, trio.ClosedResourceError) as error:
            ended.append(error)

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await wait_all_tasks_blocked()
            reader.close()
    assert [type(error) for error in ended] == [trio.ClosedResourceError]
    assert broadcast.lagged == 0
