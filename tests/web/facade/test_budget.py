"""Ten programs that together want more than the address may ask: refused with the time before the exchange would."""

from typing import Any

import pytest
import trio

from tests.daemon.fixtures import eventually
from tests.patience import WITHIN
from tests.web.facade.fixtures import venue
from tests.web.facade.test_followed import until
from tests.web.facade.test_limits import distinct
from tests.web.facade.test_streams import TRADES, connected, trade_ids

CLIENTS, EACH, WEIGHT = 10, 15, 20  # 3000 of Binance's 2400 a minute


async def test_past_the_budget_feeds_stay_live_and_repairs_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.facade.passing.PATIENCE", 0.5)
    async with venue("binance", rate=1.0, symbols=("BTCUSDT",)) as world, connected(world) as socket:
        await socket.say(TRADES["binance"])
        heard = trade_ids("binance", await until(socket, lambda frame: bool(trade_ids("binance", frame))))
        answers: list[Any] = []

        async def ask(client: int) -> None:
            for number in range(EACH):
                answers.append(await world.ours(**distinct("binance", client * EACH + number)))

        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(ask, client)
            await eventually(lambda: any(answer.status_code == 429 for answer in answers), 30, what="a refusal")
            before = world.sim.connections_total
            world.sim.drop()
            await eventually(lambda: world.sim.connections_total > before, what="another connection")
            with trio.fail_after(WITHIN):
                while len(heard) < 30:
                    heard += trade_ids("binance", await socket.hear())
        assert heard == list(range(heard[0], heard[0] + len(heard))), "missed trades were had, whoever asks what"
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert all(1 <= int(answer.headers["retry-after"]) <= 61 for answer in refused)
        assert all(answer.json()["code"] == -1003 for answer in refused)
        assert (len(answers) - len(refused)) * WEIGHT <= 1200
        assert {served.status for served in world.sim.requests} == {200}
        health = (await world.client.get("/health")).json()
        assert [feed["state"] for feed in health["feeds"]] == ["live"], health
