"""What OKX's frames mean: contracts in base units, two tiers of sockets, refusals by text. Frames are given, no I/O."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from actors.errors import BadMessage
from actors.events import FundingRate, Instrument, Liquidation, Ohlc, OpenInterest, Topic, Trade
from actors.exchanges.exchange import Item, Leaving, Rejected, Update
from actors.exchanges.okx import EXCHANGE
from actors.exchanges.okx.session import OkxSession, args_of

NOW = datetime(2026, 10, 8, 12, tzinfo=UTC)
SYMBOL = "BTC-USDT-SWAP"


def listed(symbol: str, size: float) -> Instrument:
    base = symbol.split("-")[0]
    return Instrument(
        exchange="okx",
        symbol=symbol,
        base=base,
        quote="USDT",
        settle="USDT",
        status="TRADING",
        tick_size=0.1,
        step_size=size,
        funding_interval_hours=8.0,
        contract_size=size,
    )


def session(size: float = 0.01, symbol: str = SYMBOL) -> OkxSession:
    return OkxSession({symbol: listed(symbol, size)})


def said(session: OkxSession, channel: str, *rows: Any, symbol: str = SYMBOL) -> list[Any]:
    arg = {"channel": channel, "instId": symbol} if symbol else {"channel": channel, "instType": "SWAP"}
    found = session.receive(json.dumps({"arg": arg, "data": rows}), NOW)
    return [item.event for item in found if isinstance(item, Update)]


def topic(kind: Any, interval: str | None = None, symbol: str = SYMBOL) -> Topic:
    return Topic("okx", symbol, kind, interval)


@pytest.mark.parametrize(
    ("size", "contracts", "quantity", "price", "value"),
    [
        (0.01, "0.02", 0.0002, "64472.1", 12.89442),
        (0.01, "7", 0.07, "64472.1", 4513.047),  # 7 * 0.01 is 0.07 exactly, and not 0.07000000000000001
        (0.01, "29", 0.29, "0.1", 0.029),
        (1000.0, "0.003", 3.0, "0.145", 0.435),
        (1000.0, "1.1", 1100.0, "0.1", 110.0),
        (1000.0, "4.35", 4350.0, "0.07", 304.5),
    ],
)
def test_contracts_are_told_in_base_units_without_binary_noise(
    size: float, contracts: str, quantity: float, price: str, value: float
) -> None:
    row = {
        "instId": SYMBOL,
        "tradeId": "2805987683",
        "px": price,
        "sz": contracts,
        "side": "buy",
        "ts": "1785060302444",
    }
    [trade] = said(session(size), "trades", row)
    assert isinstance(trade, Trade)
    assert (trade.quantity, trade.value, trade.trade_id) == (quantity, value, 2805987683)
    detail = {"bkLoss": "0", "bkPx": price, "ccy": "", "posSide": "net", "side": "sell", "sz": contracts}
    push = {"details": [detail | {"ts": "1791435480289"}], "instId": SYMBOL, "instType": "SWAP"}
    [forced] = said(session(size), "liquidation-orders", push, symbol="")
    assert isinstance(forced, Liquidation)
    assert (forced.quantity, forced.value, forced.side) == (quantity, value, "sell")


def test_sides_are_the_takers_and_the_orders() -> None:
    row = {"instId": SYMBOL, "tradeId": "7", "px": "1", "sz": "1", "side": "sell", "ts": "1785060302444", "count": "3"}
    [trade] = said(session(), "trades", row)
    assert (trade.side, trade.is_buyer_maker) == ("sell", True)


def test_all_liquidations_of_a_push_that_are_ours_are_told() -> None:
    def push(symbol: str, *sizes: str) -> dict[str, Any]:
        one = {"bkPx": "10", "side": "buy", "posSide": "short", "ts": "1791435480289"}
        return {"details": [one | {"sz": size} for size in sizes], "instId": symbol}

    found = said(session(), "liquidation-orders", push("BTC-USD-SWAP", "9"), push(SYMBOL, "1", "2", "0"), symbol="")
    assert [(event.symbol, event.quantity, event.side) for event in found] == [
        (SYMBOL, 0.01, "buy"),
        (SYMBOL, 0.02, "buy"),
    ]


def test_a_trade_of_a_contract_of_unknown_size_is_not_guessed() -> None:
    row = {"instId": "X", "tradeId": "7", "px": "1", "sz": "1", "side": "sell", "ts": "1785060302444"}
    with pytest.raises(BadMessage, match="how much one contract is"):
        said(session(), "trades", row, symbol="X")


def test_candles_are_told_in_base_units_and_say_when_they_are_closed() -> None:
    opened = "1774964340000"
    row = [opened, "66898.7", "66902.1", "66884.6", "66894.5", "1330.07", "13.3007", "889750.68514", "0"]
    two = said(session(), "candle1m", [*row[:8], "1"], ["1774964400000", *row[1:]])
    assert [bar.is_closed for bar in two] == [True, False]
    assert all(isinstance(bar, Ohlc) for bar in two)
    assert (two[0].volume, two[0].quote_volume, two[0].interval) == (13.3007, 889750.68514, "1m")
    assert [bar.interval for bar in said(session(), "candle1Dutc", row)] == ["1d"]
    with pytest.raises(BadMessage):
        said(session(), "candle1D", row)  # opens at UTC+8


def test_open_interest_is_what_okx_counts_in_base_units() -> None:
    row = {"instId": SYMBOL, "instType": "SWAP", "oi": "3124363.54", "oiCcy": "31243.6354", "ts": "1790165111452"}
    [without], [valued] = (
        said(session(), "open-interest", row),
        said(session(), "open-interest", row | {"oiUsd": "21.5"}),
    )
    assert isinstance(without, OpenInterest)
    assert (without.open_interest, without.open_interest_value) == (31243.6354, None)
    assert valued.open_interest_value == 21.5


FUNDING = {
    "fundingRate": "0.0001000000000000",
    "fundingTime": "1789833600000",
    "instId": SYMBOL,
    "nextFundingTime": "1789862400000",
    "prevFundingTime": "1789804800000",
    "ts": "1789824243998",
}


@pytest.mark.parametrize(
    ("changes", "hours"),
    [
        ({}, 8.0),
        ({"prevFundingTime": ""}, 8.0),
        ({"prevFundingTime": "1789819200000"}, 4.0),  # the running period; the next one is longer
        ({"prevFundingTime": "", "nextFundingTime": "1789837200000"}, 1.0),
        ({"prevFundingTime": "", "nextFundingTime": ""}, None),
    ],
)
def test_the_funding_interval_is_read_anew_from_each_row(changes: dict[str, str], hours: float | None) -> None:
    [rate] = said(session(), "funding-rate", FUNDING | changes)
    assert isinstance(rate, FundingRate)
    assert (rate.funding_rate, rate.funding_interval_hours) == (0.0001, hours)
    assert rate.funding_time == datetime(2026, 9, 19, 16, tzinfo=UTC)


def test_a_mark_price_is_told_with_the_running_rate() -> None:
    it = session()
    mark = {"instId": SYMBOL, "instType": "SWAP", "markPx": "64472.0", "ts": "1789824244000"}
    assert said(it, "mark-price", mark) == []
    [rate] = said(it, "funding-rate", FUNDING)
    assert rate.mark_price == 64472.0
    [again] = said(it, "mark-price", mark | {"markPx": "64473.5", "ts": "1789824245000"})
    assert (again.mark_price, again.funding_rate) == (64473.5, 0.0001)
    assert again.timestamp > rate.timestamp


def test_candles_have_a_socket_of_their_own() -> None:
    assert EXCHANGE.path_of("ohlc") == "/business"
    assert {EXCHANGE.path_of(kind) for kind in EXCHANGE.pushed - {"ohlc"}} == {"/public"}


def test_what_all_symbols_share_is_asked_for_once_and_ended_with_the_last() -> None:
    it = session()
    first, second = topic("liquidations"), topic("liquidations", symbol="ETH-USDT-SWAP")
    [frame] = it.subscribe([first, second])
    assert json.loads(frame)["args"] == [{"channel": "liquidation-orders", "instType": "SWAP"}]
    assert it.unsubscribe([first]) == []
    assert len(it.unsubscribe([second])) == 1
    assert it.unsubscribe([second]) == []


def refused(message: str, code: str = "60018", **more: str) -> str:
    return json.dumps({"event": "error", "code": code, "msg": message, "connId": "a4d3ae55"} | more)


@pytest.mark.parametrize("number", [{"id": "1"}, {}])
def test_who_is_refused_by_name_takes_nobody_along(number: dict[str, str]) -> None:
    it = session()
    good, bad = topic("trades"), topic("trades", symbol="NO-USDT-SWAP")
    late = topic("oi")
    it.subscribe([good, bad, late])
    ack = {"id": "1", "event": "subscribe", "arg": {"channel": "trades", "instId": SYMBOL}, "connId": "a"}
    assert it.receive(json.dumps(ack), NOW) == []
    text = "Wrong URL or channel:trades,instId:NO-USDT-SWAP doesn't exist. Please use the correct URL."
    [rejected] = it.receive(refused(text, **number), NOW)
    assert isinstance(rejected, Rejected)
    assert (rejected.topics, rejected.again, rejected.final) == ((bad,), (late,), True)
    assert "doesn't exist" in rejected.reason
    assert it.subscribe([late]) != [], "it may be asked for again"
    assert it.subscribe([good]) == [], "it was confirmed"


def test_too_many_requests_are_for_another_connection() -> None:
    it = session()
    it.subscribe([topic("oi")])
    found: list[Item] = list(it.receive(refused("Requests too frequent", "60014"), NOW))
    assert isinstance(found[0], Rejected)
    assert (found[0].topics, found[0].final) == ((topic("oi"),), False)
    assert isinstance(found[1], Leaving)


def test_a_service_upgrade_is_announced() -> None:
    text = "The connection will soon be closed for a service upgrade. Please reconnect."
    notice = {"event": "notice", "code": "64008", "msg": text, "connId": "a4d3ae55"}
    [leaving] = session().receive(json.dumps(notice), NOW)
    assert isinstance(leaving, Leaving)
    assert "service upgrade" in leaving.reason
    assert session().receive(b"pong", NOW) == []
    assert session().receive("pong", NOW) == []


def test_every_kind_that_is_pushed_has_a_channel() -> None:
    for kind in EXCHANGE.pushed:
        assert args_of(topic(kind, "1m" if kind == "ohlc" else None))
    with pytest.raises(ValueError, match="pushes no"):
        args_of(topic("large_trades"))


def pushed(session: OkxSession, *trades: tuple[int, str]) -> list[int | str]:
    """What is said of a push of trades (the id of the last fill, how many): their ids, and "missing"."""
    row = {"instId": SYMBOL, "px": "1", "sz": "1", "side": "sell", "ts": "1785060302444"}
    rows = [row | {"tradeId": str(last), "count": count} for last, count in trades]
    frame = {"arg": {"channel": "trades", "instId": SYMBOL}, "data": rows}
    found = session.receive(json.dumps(frame, separators=(",", ":")).encode(), NOW)
    ids: list[int | str] = []
    for item in found:
        if isinstance(item, Update) and isinstance(item.event, Trade):
            ids.append(item.event.trade_id)
        else:
            assert item == topic("trades")
            ids.append("missing")
    return ids


def test_a_jump_of_ids_says_that_trades_are_missing() -> None:
    it = session()
    assert pushed(it, (100, "7")) == [100], "nothing is known of what was before"
    assert pushed(it, (101, "1"), (104, "3"), (105, "")) == [101, 104, 105]
    assert pushed(it, (108, "2")) == ["missing", 108]
    assert pushed(it, (106, "1")) == [106], "it was late"
    assert pushed(it, (112, "1"), (111, "3"), (114, "1")) == [111, 112, "missing", 114], "in the order of their ids"
    it.unsubscribe([topic("trades")])
    it.subscribe([topic("trades")])
    it.unsubscribe([topic("trades")])
    assert pushed(it, (200, "1")) == [200], "of what was not subscribed to nothing is missing"


def test_ids_that_jump_all_the_time_say_nothing() -> None:
    it = session()
    said = [pushed(it, (10 * number, "1")) for number in range(100)]
    assert [len(items) for items in said] == [1, *[2] * 3, *[1] * 96]
    for number in range(1000):
        pushed(it, (1000 + number, "1"))
    assert pushed(it, (5000, "1")) == [5000], "of so many trades one in twenty may jump, and more did"
    for number in range(9000):
        pushed(it, (5001 + number, "1"))
    assert pushed(it, (20_000, "1")) == ["missing", 20_000]
