"""What it costs to ask whether anything is traded."""

from datetime import timedelta
from typing import Any

import msgspec

from actors.events import EPOCH, ms
from actors.exchanges.hyperliquid.rest import WEIGHT, HyperliquidRest
from actors.lines.probes import Probes

NOW = EPOCH + timedelta(days=20_000, seconds=12)


class Asked:
    """A client of an exchange where nothing was traded lately."""

    def __init__(self) -> None:
        self.questions: list[Any] = []
        self.weight = 0

    async def query(self, path: str, body: bytes, *, bucket: str, weight: int) -> bytes:
        self.questions.append(msgspec.json.decode(body)["req"])
        self.weight += weight
        return b"[]"


async def test_of_what_did_not_trade_for_long_the_last_bar_is_not_searched_for() -> None:
    client: Any = Asked()
    probes = Probes({}, None, HyperliquidRest(client, lambda: NOW), lambda: NOW)  # type: ignore[arg-type]
    assert await probes._latest("THIN") == []
    [question] = client.questions
    assert question["startTime"] <= ms(NOW) - 120_000
    assert question["endTime"] >= ms(NOW)
    assert client.weight == WEIGHT + 1
