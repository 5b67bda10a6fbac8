"""All exchanges at once, on one simulated market: the routes and streams over all of them, and the death of one.

Market time stands still unless a test moves it.
"""

import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import pytest
import trio

from actors.events import ms
from actors.exchanges.units import unit_of
from actors.feeds import interest
from actors.simulation.server import Faults, RestFault
from daemon import demo
from daemon.collecting import exchange_defaults
from daemon.settings import Config, OiVol, Server
from tests.actors.exchanges.fixtures import EXCHANGES, Venues, paths, quick, running, venues
from tests.daemon.fixtures import LOOK, MINUTE, START, TWO, Json, Stream, assets, eventually, iso
from tests.patience import WITHIN

ALL = [quick(exchange) for exchange in EXCHANGES.values()]
FIRST = {name: exchange.symbols[0] for name, exchange in EXCHANGES.items()}  # Bitcoin, as each exchange spells it
SECOND = {name: exchange.symbols[1] for name, exchange in EXCHANGES.items()}
LIQUIDATING = [name for name, exchange in EXCHANGES.items() if exchange.capabilities["liquidations"]]


async def own(w: Venues, path: str, symbols: dict[str, str], **query: Any) -> Json:
    """What each exchange's own route says."""
    return {name: await w.get(path.format(exchange=name, symbol=symbol), **query) for name, symbol in symbols.items()}


async def remembered(w: Venues, path: str) -> None:
    """Wait until every exchange's route is answered from memory: upstream may be ahead of it by a push."""
    for name, exchange in EXCHANGES.items():
        for symbol in exchange.symbols[:2]:
            asked = -1
            with trio.fail_after(WITHIN):
                while asked != w.sims[name].count():
                    asked = w.sims[name].count()
                    await w.get(f"/{name}/{path.format(symbol=symbol)}", limit=5 if "ohlc" in path else None)


# --- /multi


async def test_multi_says_what_each_exchange_says_however_the_asset_is_spelled() -> None:
    async with venues(ALL, market=assets("BTC", "ETH", "SOL")) as w:
        await remembered(w, "ohlc/{symbol}/1m")
        await remembered(w, "ohlc/{symbol}/5m")
        await remembered(w, "oi/{symbol}")
        bars = await own(w, "/{exchange}/ohlc/{symbol}/1m", FIRST, limit=5)
        five = await own(w, "/{exchange}/ohlc/{symbol}/5m", SECOND, limit=3, start_time=START - 60 * MINUTE)
        interest = await own(w, "/{exchange}/oi/{symbol}", FIRST)
        funding = await own(w, "/{exchange}/funding/{symbol}", FIRST)
        opens = [[bar["open"] for bar in rows] for rows in bars.values()]
        assert opens == [pytest.approx(opens[0], rel=1e-4)] * len(EXCHANGES), "one market, rounded differently"
        for spelling in {"BTC", "btc", "BTCUSDT", "btcusdt", *FIRST.values()}:
            assert await w.get(f"/multi/ohlc/{spelling}/1m", limit=5) == bars
            assert await w.get(f"/multi/oi/{spelling}") == interest
            assert await w.get(f"/multi/funding/{spelling}") == funding
        for spelling in {"ETH", "ETHUSDT"}:
            assert await w.get(f"/multi/ohlc/{spelling}/5m", limit=3, start_time=START - 60 * MINUTE) == five
        # Collected nowhere: asked for upstream.
        third = {name: exchange.symbols[2] for name, exchange in EXCHANGES.items()}
        rows = await own(w, "/{exchange}/ohlc/{symbol}/1h", third, limit=4, end_time=START - 60 * MINUTE)
        assert await w.get("/multi/ohlc/SOL/1h", limit=4, end_time=START - 60 * MINUTE) == rows
        assert {len(found) for found in rows.values()} == {4}


async def test_multi_meets_where_exchanges_count_an_asset_in_thousands() -> None:
    """1000PEPE, kPEPE and PEPE are one; every value is in the unit of what was asked for, and exact."""
    async with venues(ALL, market=assets("BTC", "ETH", "1000PEPE")) as w:
        listed = {row["exchange"]: row for row in await w.get("/symbols") if "PEPE" in row["base"]}
        units = {name: unit_of(row["base"]).many for name, row in listed.items()}
        assert set(units.values()) == {1, 1000}
        symbols = {name: row["symbol"] for name, row in listed.items()}
        end = START - 60 * MINUTE
        own_bars = await own(w, "/{exchange}/ohlc/{symbol}/1m", symbols, limit=3, end_time=end)
        for spelling, many in {"PEPE": 1, "1000PEPE": 1000, "kPEPE": 1000, "1000PEPEUSDT": 1000}.items():
            bars = await w.get(f"/multi/ohlc/{spelling}/1m", limit=3, end_time=end)
            assert list(bars) == list(EXCHANGES)
            opens = [[bar["open"] for bar in rows] for rows in bars.values()]
            assert opens == [pytest.approx(opens[0], rel=1e-3)] * len(EXCHANGES)
            for name, rows in bars.items():
                by = Decimal(many) / units[name]
                for told, bar in zip(rows, own_bars[name], strict=True):
                    assert told["open"] == float(Decimal(str(bar["open"])) * by)
                    assert told["volume"] == float(Decimal(str(bar["volume"])) / by)
                    assert told["quote_volume"] == bar["quote_volume"]
                    assert told.get("multiplier", 1) == units[name]
            funding = await w.get(f"/multi/funding/{spelling}")
            marks = [rate["mark_price"] for rate in funding.values()]
            assert marks == [pytest.approx(marks[0], rel=1e-3)] * len(EXCHANGES)
            interest = await w.get(f"/multi/oi/{spelling}")
            counts = [oi["open_interest"] for oi in interest.values()]
            assert counts == [pytest.approx(counts[0], rel=1e-3)] * len(EXCHANGES)


async def test_multi_without_an_answer() -> None:
    async with venues(ALL) as w:
        for path in ("ohlc/{}/1m", "oi/{}", "funding/{}"):
            told = await w.problem("/multi/" + path.format("NOSUCH"), 404, "unknown_symbol")
            assert "NOSUCH" in told["detail"]
        await w.problem("/multi/oi/BTC", 422, "invalid_parameter", limit=5)
        await w.problem("/multi/ohlc/BTC/1m", 422, "invalid_parameter", limit=0)
        await w.problem("/multi/trades/BTC", 404, "not_found")


async def test_an_exchange_that_has_not_what_the_others_have_is_explained() -> None:
    only = "币安人生"  # its name keeps it off one simulated exchange
    async with venues(ALL, market=(*TWO, *assets(only))) as w:
        found = await w.get(f"/multi/ohlc/{only}/1m", limit=2)
        errors = found.pop("errors")
        assert found.keys() | errors.keys() == EXCHANGES.keys()
        assert found
        assert errors
        for name, problem in errors.items():
            assert (problem["code"], problem["status"], problem["exchange"]) == ("unknown_symbol", 404, name)
            assert problem["detail"]
        for interval in ("6h", "3d"):
            has = {name for name, exchange in EXCHANGES.items() if interval in exchange.intervals}
            found = await w.get(f"/multi/ohlc/BTC/{interval}", limit=2)
            assert found.keys() - {"errors"} == has
            assert {problem["code"] for problem in found["errors"].values()} == {"unknown_interval"}
        await w.problem("/multi/ohlc/BTC/7m", 404, "unknown_interval")


# --- the death of one


def kill(faults: Faults) -> None:
    """From now on nothing is answered and nobody admitted."""
    faults.rest.append(RestFault(hang_up=True))
    faults.rest_accept = "reset"
    faults.ws_accept = 503


def revive(faults: Faults) -> None:
    faults.rest.clear()
    faults.rest_accept = faults.ws_accept = "accept"


async def forgotten(w: Venues, name: str) -> None:
    """Wait until the last poll's open interest is no longer given."""
    with trio.fail_after(WITHIN):
        while (await w.ask(f"/{name}/oi/{FIRST[name]}")).status_code == 200:  # noqa: ASYNC110 - of another program
            await trio.sleep(LOOK)


@pytest.mark.parametrize("dead", EXCHANGES)
async def test_a_dead_exchange_is_explained_and_the_others_do_not_notice(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.05)  # seconds: open interest may be polled
    others = [name for name in EXCHANGES if name != dead]
    async with venues(ALL) as w, AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(w.stream(f"/ws/{name}/{symbol}/trades?status=1"))
            for name, symbol in FIRST.items()
        }
        assert (await w.ask("/health/ready")).status_code == 200
        assert w.attempts() == {name: len(paths(exchange)) for name, exchange in EXCHANGES.items()}
        kill(w.sims[dead].faults)
        w.sims[dead].drop()
        await w.health(lambda health: health["exchanges"] == {name: name != dead for name in EXCHANGES}, WITHIN)

        await forgotten(w, dead)
        for path in ("ohlc/BTC/1m", "oi/BTC", "funding/BTC"):
            found = await w.get(f"/multi/{path}")
            assert list(found) == [*others, "errors"], path
            [(name, problem)] = found["errors"].items()
            assert (name, problem["exchange"], problem["code"], problem["status"]) == (
                *(dead, dead),
                *("upstream_error", 502),
            )
            own_path = path.replace("BTC", FIRST[dead])
            assert (await w.problem(f"/{dead}/{own_path}", 502, "upstream_error"))["exchange"] == dead
        ready = await w.ask("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "not_ready"
        assert ready.json()["reasons"].keys() == {dead}
        assert ready.json()["reasons"][dead]

        await eventually(lambda: w.sims[dead].attempts >= 3 * len(paths(EXCHANGES[dead])), WITHIN, "new tries")
        heard = {name: len(clients[name].of("trade")) for name in others}
        await w.pass_time(5000)
        for name in others:
            await eventually(lambda: len(clients[name].of("trade")) > heard[name], WITHIN)  # noqa: B023 - awaited here
            assert clients[name].of("status") == []
            assert (w.sims[name].attempts, w.sims[name].connections_total) == (len(paths(EXCHANGES[name])),) * 2
        states = {(f["exchange"], f["state"], f["restarts"]) for f in (await w.get("/health"))["feeds"]}
        assert {(name, "live", 0) for name in others} < states
        assert {entry["exchange"] for entry in w.logged("line.down")} == {dead}

        revive(w.sims[dead].faults)
        await eventually(lambda: w.sims[dead].connections, WITHIN, "a connection")

        with trio.fail_after(WITHIN):
            while (await w.ask("/health/ready")).status_code != 200:
                await w.pass_time(250)
                await trio.sleep(LOOK)
        assert list(await w.get("/multi/funding/BTC")) == list(EXCHANGES)
        await eventually(lambda: [told["state"] for told in clients[dead].of("status")][-1:] == ["live"], WITHIN)
        assert all(client.closed is None for client in clients.values())


async def test_when_all_fail_nothing_is_left_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.05)  # seconds: open interest may be polled
    async with venues(ALL) as w:
        for sim in w.sims.values():
            kill(sim.faults)
            sim.drop()
        await w.health(lambda health: not any(health["exchanges"].values()), WITHIN)
        for name in EXCHANGES:
            await forgotten(w, name)
        for path in ("ohlc/BTC/1m", "oi/BTC", "funding/BTC"):
            told = await w.problem(f"/multi/{path}", 502, "upstream_error")
            assert all(name in told["detail"] for name in EXCHANGES)
        ready = await w.ask("/health/ready")
        assert (ready.status_code, set(ready.json()["reasons"])) == (503, set(EXCHANGES))
        assert (await w.ask("/health/live")).status_code == 200


async def test_an_exchange_that_was_never_there() -> None:
    dead, *others = EXCHANGES
    faults = Faults()
    kill(faults)
    async with venues(ALL, faults={dead: faults}, served={name: EXCHANGES[name].symbols[:2] for name in others}) as w:
        ready = await w.ask("/health/ready")
        assert (ready.status_code, list(ready.json()["reasons"])) == (503, [dead])
        assert "catalogue" in ready.json()["reasons"][dead]
        found = await w.get("/multi/funding/BTCUSDT")
        assert list(found) == [*others, "errors"]
        assert found["errors"][dead]["code"] == "not_ready"
        assert found["errors"][dead]["retry_after"] >= 1
        assert {row["exchange"] for row in await w.get("/symbols")} == set(others)
        assert w.attempts() == {dead: 0} | {name: len(paths(EXCHANGES[name])) for name in others}


# --- predicted funding


@pytest.mark.parametrize("name", [name for name, exchange in EXCHANGES.items() if exchange.predicted_funding])
async def test_predicted_funding_of_several_venues(name: str) -> None:
    async with venues(ALL) as w:
        every = await w.get(f"/{name}/predicted-funding")
        assert [prediction["coin"] for prediction in every] == ["BTC", "ETH"]
        for prediction in every:
            told = {venue["venue"]: venue for venue in prediction["venues"]}
            assert len(told) == len(prediction["venues"]) == 3
            for venue in told.values():
                assert venue.keys() == {"venue", "funding_rate", "next_funding_time", "funding_interval_hours"}
                assert venue["next_funding_time"] > iso(w.now), "the next one, not the last"
                rate = w.market.tapes[prediction["coin"]].funding_rate(w.now) / 1e8
                assert venue["funding_rate"] == pytest.approx(rate * venue["funding_interval_hours"] / 8, abs=1e-9)
        for coin in ("BTC", "btc", "BTCUSDT"):
            assert await w.get(f"/{name}/predicted-funding", coin=coin) == every[:1]
        await w.problem(f"/{name}/predicted-funding", 404, "unknown_symbol", coin="NOSUCH")
        await w.problem(f"/{name}/predicted-funding", 422, "invalid_parameter", symbol="BTC")
        for other in EXCHANGES.keys() - {name}:
            if not EXCHANGES[other].predicted_funding:
                await w.problem(f"/{other}/predicted-funding", 404, "unsupported")


# --- streams over all


MARK = "777.000"


def is_mark(trade: Json) -> bool:
    return bool(trade["quantity"] == float(MARK))


def at(event: Json) -> int:
    """When it happened, in ms."""
    return ms(datetime.fromisoformat(event["timestamp"]))


def keys(events: list[Json]) -> Iterator[bytes]:
    """Events as comparable things."""
    for event in events:
        yield msgspec.json.encode({key: value for key, value in event.items() if key != "type"}, order="sorted")


async def seen(w: Venues, kind: str) -> dict[tuple[str, str], list[Json]]:
    """What each symbol's own route says."""
    return {
        (name, symbol): await w.get(f"/{name}/{kind}/{symbol}", limit=1000)
        for name, exchange in EXCHANGES.items()
        if exchange.capabilities[kind]
        for symbol in exchange.symbols[:2]
    }


@pytest.mark.parametrize("kind", ["liquidations", "large_trades"])
async def test_everything_that_happens_anywhere_is_told_once(kind: str) -> None:
    async with venues(ALL) as w, AsyncExitStack() as stack:

        async def joined(path: str) -> Stream:
            return await stack.enter_async_context(w.stream(path))

        queries = ("", "?min_value_usd=0", "?min_value_usd=20000", "?min_value_usd=1e15")
        every, same, most, none = [await joined(f"/ws/all/{kind}{query}") for query in queries]
        exchange, symbol = LIQUIDATING[0], FIRST[LIQUIDATING[0]]
        single = await joined(f"/ws/{exchange}/{symbol}/{kind}")
        begun = w.now
        await w.pass_time(2 * MINUTE)
        settled = w.now - 2000  # what happened before then has been sent, and a mark follows on the same connection
        for name, tape in w.market.tapes.items():
            w.market.trade(name, side="buy", price=tape.asset.price, quantity=MARK)
        await w.pass_time(500)
        for name, both in ((name, each.symbols[:2]) for name, each in EXCHANGES.items()):
            for which in both:
                await w.until(f"/{name}/large_trades/{which}", lambda rows: any(map(is_mark, rows)), WITHIN, limit=1000)

        def news(events: list[Json]) -> list[Json]:
            return [event for event in events if begun < at(event)]

        expected = {where: news(rows) for where, rows in (await seen(w, kind)).items()}
        count = sum(map(len, expected.values()))
        await eventually(lambda: len(news(every.frames)) >= count, WITHIN, "all")
        told = news(every.frames)
        assert len(told) > 40
        assert sorted(keys(told)) == sorted(keys([event for rows in expected.values() for event in rows]))
        assert {(event["exchange"], event["symbol"]) for event in told} == expected.keys()
        for (name, which), rows in expected.items():
            tape = w.market.tapes["BTC" if which == FIRST[name] else "ETH"]
            if kind == "liquidations":
                times = [order.time for order in tape.liquidations]
            else:
                value = float(tape.asset.tick) * float(tape.asset.step)
                times = [trade.time for trade in tape.trades if trade.price * trade.quantity * value >= 101_000]
            happened = [time for time in times if begun < time <= settled]
            found = [at(event) for event in rows if at(event) <= settled]
            assert len(happened) > 5
            if kind == "large_trades":
                assert set(happened) <= set(found)
            elif EXCHANGES[name].capabilities[kind] is True:
                assert found == happened
            else:
                assert len(found) > 1
                assert set(found) <= set(happened)

        await eventually(lambda: len(same.frames) == len(every.frames), WITHIN)
        assert same.frames == every.frames
        worth = [event for event in every.frames if event["value"] >= 20_000]
        await eventually(lambda: len(most.frames) == len(worth), WITHIN)
        assert most.frames == worth
        assert none.frames == []
        ours = [event for event in every.frames if (event["exchange"], event["symbol"]) == (exchange, symbol)]
        await eventually(lambda: len(single.frames) == len(ours), WITHIN)
        assert single.frames == ours
        assert {event["type"] for event in every.frames} == {kind.removesuffix("s")}
        if kind == "liquidations":
            assert 0 < len(worth) < len(every.frames), "the filter had something to do"
        for bad in ("?min_value_usd=much", "?min_value_usd=-1", "?symbol=BTC"):
            frame, code, _ = await w.refused(f"/ws/all/{kind}{bad}")
            assert (frame["code"], code) == ("invalid_parameter", 1008)
        frame, code, _ = await w.refused("/ws/all/trades")
        assert (frame["code"], code) == ("not_found", 1008)


async def test_a_spike_of_open_interest_and_volume_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.05)  # seconds; as often as the budget allows
    can = {name for name, e in EXCHANGES.items() if "5m" in e.open_interest_periods}
    assert can
    start = START + 4 * MINUTE  # 42 s before the end of five minutes
    watch = OiVol(timeframes=("5m", "15m"), window=30, z_threshold=3.0)
    async with (
        venues(ALL, start=start, oi_vol=watch, intervals=("1m", "5m", "15m")) as w,
        w.stream("/ws/oi-vol?timeframes=5m") as five,
        w.stream("/ws/oi-vol") as every,
        w.stream("/ws/oi-vol?timeframes=15m") as fifteen,
    ):
        for bad in ("7m", "5m,7m", "1h", "5m;15m"):
            frame, code, _ = await w.refused(f"/ws/oi-vol?timeframes={bad}")
            assert (frame["type"], frame["code"], code) == ("error", "invalid_parameter", 1008), bad
        for name in can:  # history, of each symbol and timeframe
            sim = w.sims[name]
            await eventually(lambda: _histories(sim) >= 4, WITHIN, f"history of {name}")  # noqa: B023 - awaited here

        tape = w.market.tapes["BTC"]
        usual = tape.open_interest(w.now)
        monkeypatch.setattr(tape, "open_interest", lambda at: usual * 3 // 2)
        w.market.trade("BTC", side="buy", price="84000.00", quantity="9000.000")
        await w.pass_time(36_000)
        amount = usual * 3 // 2 * float(tape.asset.step)
        for name in can:
            await w.until(
                f"/{name}/oi/{FIRST[name]}", lambda oi: bool(oi["open_interest"] == pytest.approx(amount)), WITHIN
            )
        assert every.frames == []
        await w.pass_time(10_000)
        await eventually(lambda: len(five.frames) == len(can), WITHIN, "spikes")
        assert sorted(event["exchange"] for event in five.frames) == sorted(can)
        for event in five.frames:
            assert event.keys() == {
                *("type", "exchange", "symbol", "timestamp"),
                *("timeframe", "z_oi", "z_vol", "confirmed"),
            }
            assert (event["type"], event["timeframe"], event["confirmed"]) == ("oi_spike", "5m", True)
            assert event["symbol"] == FIRST[event["exchange"]]
            assert event["timestamp"] == iso(start - start % (5 * MINUTE))
            assert event["z_oi"] > 3
            assert event["z_vol"] > 3
        await eventually(lambda: every.frames == five.frames, WITHIN, "the same for all")
        assert fifteen.frames == []


def _histories(sim: Any) -> int:
    known = ("/futures/data/openInterestHist", "/v5/market/open-interest", "/contracts/open-interest-history")
    return sum(served.path.endswith(known) for served in sim.requests)


# --- the demo


async def demonstrated(config: Config) -> str:
    """Run the demo, follow every URL of its welcome, and return the welcome."""
    said: list[str] = []
    async with running(partial(demo.run, config, EXCHANGES, announce=said.append)) as served:
        [text] = said
        with trio.fail_after(WITHIN):
            while (await served.ask("/health/ready")).status_code != 200:  # noqa: ASYNC110 - of another program
                await trio.sleep(LOOK)
        found = re.findall(r"(http|ws)(://[^/\s]+)(/[^\s']*)", text)
        assert len(found) >= 8
        for scheme, host, path in found:
            assert f"http{host}" == served.url
            if scheme == "http":
                assert (await served.client.get(path)).status_code == 200, path
                continue
            async with served.stream(path) as client:
                await served.client.get("/health/live")
                assert client.of("error") == [], path
                assert client.closed is None, path
                if "ohlc" in path or "trades" in path.split("/"):
                    await client.at_least(1, WITHIN)
        return text


async def test_the_demo_works_as_its_welcome_says() -> None:
    text = await demonstrated(Config(server=Server(port=0), exchanges=exchange_defaults(EXCHANGES)))
    assert "Ctrl-C" in text


@pytest.mark.parametrize("name", EXCHANGES)
async def test_the_demo_of_one_exchange_welcomes_with_that_one(name: str) -> None:
    settings = {
        other: msgspec.structs.replace(default, enabled=other == name)
        for other, default in exchange_defaults(EXCHANGES).items()
    }
    await demonstrated(Config(server=Server(port=0), exchanges=settings))
