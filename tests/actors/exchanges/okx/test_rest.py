"""OKX's REST calls against its simulator: over page limits, at the ends of ranges, beside ccxt's own reading."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec
import pytest
import trio

from actors.errors import MarketError, UnknownInterval, UnknownSymbol, UpstreamError, UpstreamLimited, UpstreamTimeout
from actors.events import Instrument, Trade, from_ms, ms
from actors.exchanges.okx import EXCHANGE, wire
from actors.exchanges.okx.missed import missed_liquidations, missed_trades
from actors.exchanges.okx.normalise import candle, funding, liquidation, open_interest, settled, trade
from actors.exchanges.okx.rest import OkxRest, explain
from actors.exchanges.okx.simulator import serve
from actors.exchanges.okx.simulator.rows import (
    candle_row,
    contract_row,
    forced_row,
    funding_row,
    interest_row,
    settled_row,
    told_orders,
    trade_row,
)
from actors.simulation.assets import ASSETS
from actors.simulation.history import HOUR, MINUTE
from actors.simulation.market import Clock, Market, Tape
from actors.simulation.server import Reply, RestFault, Simulator
from actors.upstream.budget import Budget
from actors.upstream.rest import RestClient, open_http

START = 1_794_999_977_000  # 17 s into a minute
BTC, DOGE = "BTC-USDT-SWAP", "DOGE-USDT-SWAP"
SMALL = [asset for asset in ASSETS if asset.name in ("BTC", "DOGE", "OCEAN")]


@dataclass
class World:
    sim: Simulator
    client: RestClient
    rest: OkxRest

    @property
    def tape(self) -> Tape:
        return self.sim.market.tapes["BTC"]

    async def listed(self, symbol: str = BTC) -> Instrument:
        return next(row for row in await self.rest.instruments() if row.symbol == symbol)

    def paths(self) -> set[str]:
        return {served.path.rpartition("/")[2] for served in self.sim.requests}


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    market = Market(seed=7, clock=Clock(START, rate=0), assets=SMALL)
    async with trio.open_nursery() as nursery:
        sim = await nursery.start(serve, market)
        async with open_http(sim.rest_url) as http:
            client = RestClient(http, Budget(EXCHANGE.budget), explain, caller="repair", used_header=None)
            yield World(sim, client, OkxRest(client, lambda: from_ms(market.now)))
        nursery.cancel_scope.cancel()


def ago(minutes: int) -> datetime:
    return from_ms(START - START % MINUTE - minutes * MINUTE)


async def test_the_catalogue_has_linear_swaps_their_sizes_and_intervals() -> None:
    async with running() as w:
        rows = {row.symbol: row for row in await w.rest.instruments()}
        assert rows.keys() == {BTC, DOGE, "OCEAN-USDT-SWAP"}, "no inverse one"
        assert (rows[BTC].contract_size, rows[BTC].step_size, rows[BTC].tick_size) == (0.01, 0.001, 0.1)
        assert (rows[DOGE].contract_size, rows[DOGE].step_size, rows[DOGE].base) == (1000.0, 1.0, "DOGE")
        assert (rows[BTC].funding_interval_hours, rows[BTC].quote, rows[BTC].status) == (8.0, "USDT", "TRADING")
        assert not rows["OCEAN-USDT-SWAP"].is_trading
        w.sim.faults.rest.append(RestFault(path="/api/v5/public/funding-rate", reply=Reply(body=b'{"code":"50026"}')))
        assert (await w.listed()).funding_interval_hours is None, "the catalogue is worth having without it"


async def test_a_contract_whose_end_has_come_does_not_trade_whatever_its_state() -> None:
    async with running() as w:
        row = contract_row(BTC, w.tape)
        for ends, status in (("", "TRADING"), (str(START + 1), "TRADING"), (str(START), "expired")):
            body = msgspec.json.encode({"code": "0", "msg": "", "data": [row | {"expTime": ends}]})
            w.sim.faults.rest[:] = [RestFault(path="/api/v5/public/instruments", reply=Reply(body=body))]
            assert (await w.listed()).status == status


@pytest.mark.parametrize(
    ("start", "end", "limit"), [(None, None, 1700), (2000, None, 1200), (5000, 4000, 1500), (700, 100, 5)]
)
async def test_bars_over_page_limits_follow_each_other(start: int | None, end: int | None, limit: int) -> None:
    async with running() as w:
        since, until = None if start is None else ago(start), None if end is None else ago(end)
        rows = await w.rest.ohlc(BTC, "1m", limit=limit, start=since, end=until)
        first = since or (until or ago(-1)) - limit * timedelta(minutes=1)
        count = limit if until is None or since is None else min(limit, (until - since) // timedelta(minutes=1))
        assert [row.timestamp for row in rows] == [first + n * timedelta(minutes=1) for n in range(count)]
        assert all(row.is_closed for row in rows[:-1])
        for row in (rows[0], rows[count // 2]):
            bar = w.tape.bar("1m", int(row.timestamp.timestamp()) * 1000)
            assert (row.volume, row.close) == (bar.volume / 1000, bar.close / 10)


async def test_a_range_from_before_the_listing_begins_with_it() -> None:
    async with running() as w:
        rows = await w.rest.ohlc(BTC, "1d", limit=3, start=from_ms(0))
        assert rows[0].timestamp == from_ms(w.tape.listed)
        assert len(rows) == 3
        assert await w.rest.ohlc(BTC, "1m", limit=3, start=from_ms(START + 2 * 86_400_000)) == []


async def test_funding_that_changed_its_interval_is_told_with_the_one_of_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as w:
        plain = await w.rest.funding_history(await w.listed(), limit=250, start=None, end=None)
        assert len(plain) == 250
        assert {rate.funding_interval_hours for rate in plain} == {8.0}
        change = START - 400 * HOUR
        times = [
            at for at in range(START - START % HOUR, START - 2000 * HOUR, -HOUR) if at % (8 * HOUR) == 0 or at > change
        ]
        rows = [{"fundingRate": "9", "realizedRate": "0.0001", "fundingTime": str(at)} for at in times]

        def history(query: dict[str, str]) -> Any:
            older, newer = int(query.get("after", 2**60)), int(query.get("before", 0))
            return [row for row in rows if newer < int(row["fundingTime"]) < older][: int(query["limit"])]

        w.sim.venue._rest._routes["/api/v5/public/funding-rate-history"] = (10, history)  # type: ignore[attr-defined]
        for start in (None, from_ms(change - 100 * HOUR)):
            rates = await w.rest.funding_history(await w.listed(), limit=420, start=start, end=None)
            for rate in rates:
                at = rate.timestamp.timestamp() * 1000
                assert rate.funding_rate == 0.0001, "what was paid, not what was expected"
                assert rate.funding_interval_hours == (1.0 if at - HOUR > change else rate.funding_interval_hours)
                assert at > change or rate.funding_interval_hours == 8.0
            assert len(rates) == min(420, sum(start is None or from_ms(at) >= start for at in times))
            stamps = [rate.timestamp for rate in rates]
            assert stamps == sorted(set(stamps))


async def test_open_interest_history_over_its_page_and_its_end() -> None:
    async with running() as w:
        rows = await w.rest.open_interest_history(BTC, "5m", limit=250, start=None, end=None)
        assert len(rows) == 250
        assert rows[-1].open_interest == w.tape.open_interest(int(rows[-1].timestamp.timestamp()) * 1000) / 1000
        every = await w.rest.open_interest_history(BTC, "5m", limit=2000, start=ago(100_000), end=None)
        assert len(every) == 1440, "all that OKX keeps"
        some = await w.rest.open_interest_history(BTC, "5m", limit=500, start=ago(900), end=ago(300))
        assert (len(some), some[0].timestamp >= ago(900), some[-1].timestamp < ago(300)) == (120, True, True)


async def test_missed_trades_are_those_between_two_and_no_part_of_either() -> None:
    async with running() as w:
        w.sim.market.clock.advance(20 * MINUTE)
        w.sim.market.advance()
        told = [
            trade(wire.decode_trades(_encoded(trade_row(BTC, w.tape, row)))[0], BTC, "0.01") for row in w.tape.trades
        ]
        last, first = told[-1200], told[-300]
        assert any(row.last > row.first for row in w.tape.trades[-305:-295]), "of several fills"
        found = await missed_trades(w.client, BTC, last, first)
        between = [row for row in found if int(last.trade_id) < int(row.trade_id) < int(first.trade_id)]
        assert found[0].trade_id == last.trade_id
        assert found[-1] == first
        missed = told[-1199:-300]
        total = sum(round(row.quantity * 1000) for row in missed)
        assert sum(round(row.quantity * 1000) for row in between) == total
        assert "history-trades" in w.paths()


def _encoded(row: Any) -> bytes:

    return msgspec.json.encode([row])


async def test_limits_are_counted_for_each_endpoint() -> None:
    async with running() as w:
        async with trio.open_nursery() as nursery:
            for _ in range(15):
                nursery.start_soon(w.rest.server_time)
                nursery.start_soon(w.rest.open_interest, BTC)
        assert {served.status for served in w.sim.requests} == {200}
        w.sim.venue._rest._limits.requests["/api/v5/public/mark-price"] = 0  # type: ignore[attr-defined]
        with pytest.raises(UpstreamLimited):
            await w.rest.funding(await w.listed())


async def test_what_is_unknown_is_said() -> None:
    async with running() as w:
        with pytest.raises(UnknownSymbol):
            await w.rest.ohlc("NO-USDT-SWAP", "1m", limit=1)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, b'{"code":"50011","msg":"Too Many Requests","data":[]}', UpstreamLimited),
        (503, b'{"code":"50001","msg":"Service temporarily unavailable","data":[]}', UpstreamError),
        (400, b'{"code":"50004","msg":"API endpoint request timeout","data":[]}', UpstreamTimeout),
        (400, b'{"code":"51000","msg":"Parameter bar error","data":[]}', UnknownInterval),
        (200, b'{"code":"51001","msg":"Instrument ID does not exist","data":[]}', UnknownSymbol),
        (502, b"<html>", None),
        (200, b'{"code":"0","msg":"","data":[]}', None),
    ],
)
def test_refusals_are_told_apart(status: int, body: bytes, kind: type[MarketError] | None) -> None:
    assert type(explain(status, body)) is (kind or type(None))


async def test_liquidations_are_paged_back_over_pages_and_not_further_than_a_day() -> None:
    async with running() as w:
        for _ in range(130):
            w.sim.market.clock.advance(2000)
            w.sim.market.advance()
            w.tape.liquidate(w.sim.market.now, "sell", [(840_000, 7)])
        times = [order.time for order in told_orders(w.tape)]
        assert len(times) > 130
        start, end = from_ms(times[3]), from_ms(times[-2])
        found = await missed_liquidations(w.client, BTC, start, end)
        assert [ms(event.timestamp) for event in found] == times[3:-2]
        assert {event.quantity for event in found} >= {0.007}
        assert await missed_liquidations(w.client, BTC, end, end) == []
        with pytest.raises(UpstreamError, match="last day"):
            await missed_liquidations(w.client, BTC, end - timedelta(days=2), end)


# A mark: what is skipped within an async test loses its reason.
@pytest.mark.skipif(find_spec("ccxt") is None, reason="ccxt is not installed")
async def test_ccxt_reads_the_same_from_the_same_rows() -> None:
    ccxt = import_module("ccxt")
    async with running() as w:
        okx, pro = ccxt.okx(), import_module("ccxt.pro").okx()
        for name, symbol in (("BTC", BTC), ("DOGE", DOGE)):
            tape = w.sim.market.tapes[name]
            w.sim.market.clock.advance(MINUTE)
            w.sim.market.advance()
            market = okx.parse_market(contract_row(symbol, tape))
            listed = await w.listed(symbol)
            assert market["contractSize"] == listed.contract_size
            size = Decimal(str(listed.contract_size))
            row = trade_row(symbol, tape, tape.trades[-1])
            theirs = okx.parse_trade(row, market)
            ours = wire.decode_trades(_encoded(row))
            event: Trade = trade(ours[0], symbol, repr(listed.contract_size))
            assert (theirs["price"], theirs["side"], str(theirs["id"])) == (
                event.price,
                event.side,
                str(event.trade_id),
            )
            assert theirs["amount"] * market["contractSize"] == pytest.approx(event.quantity, rel=1e-12)
            bar = tape.bar("1m", START - START % MINUTE)
            told = candle_row(tape, bar, closed=True)
            own = candle(tuple(told), symbol, "1m")  # type: ignore[arg-type]
            assert okx.parse_ohlcv(told, market)[1:] == [own.open, own.high, own.low, own.close, own.volume]
            interest = interest_row(symbol, tape, START)
            read = okx.parse_open_interest(interest, market)
            said = open_interest(wire.decode_open_interests(_encoded(interest))[0], symbol)
            assert said.open_interest_value == read["openInterestValue"]
            assert said.open_interest == float(read["info"]["oiCcy"])
            assert Decimal(str(read["openInterestAmount"])) * size == Decimal(repr(said.open_interest))

            running_rate = funding_row(symbol, tape, START)
            theirs = okx.parse_funding_rate(running_rate, market)
            rate = funding(wire.decode_fundings(_encoded(running_rate))[0], symbol, from_ms(START), None)
            assert rate is not None
            assert (theirs["fundingRate"], theirs["fundingTimestamp"]) == (rate.funding_rate, ms(rate.funding_time))
            assert theirs["interval"] == f"{rate.funding_interval_hours:g}h"
            paid = settled_row(symbol, tape, START)
            assert (
                okx.safe_number(paid, "realizedRate")
                == settled(wire.decode_settled(_encoded(paid))[0], symbol).funding_rate
            )

            order = tape.liquidate(w.sim.market.now, "sell", [(tape.trades[-1].price, 7)])
            forced = forced_row(symbol, tape, order)
            pro.set_markets([market])
            theirs = pro.parse_ws_liquidation(forced)
            mine = liquidation(wire.decode_liquidations(_encoded(forced))[0].details[0], symbol, repr(float(size)))
            assert mine is not None
            assert (
                Decimal(str(theirs["contracts"])) * size == Decimal(repr(mine.quantity)) == 7 * Decimal(tape.asset.step)
            )
            assert (theirs["price"], theirs["timestamp"]) == (mine.price, ms(mine.timestamp))
