"""The client of the benchmarks over several nodes: what it does not hear must be the nodes' fault."""

from functools import partial

import pytest
import trio

from tests.benchmarks import heard
from tests.benchmarks.heard import Heard, Ledger, follow


async def test_a_client_whose_node_is_frozen_while_it_comes_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heard, "ADMITTED", 0.05)
    frozen, came_again = trio.Event(), trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        """Connected by the system, and not answered: neither the first time nor any other."""
        (came_again if frozen.is_set() else frozen).set()
        await trio.sleep_forever()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.start_soon(follow, lambda: url, ["okx:BTC-USDT-SWAP:trades"], Heard("here", Ledger(), 1))
            await came_again.wait()
            nursery.cancel_scope.cancel()
