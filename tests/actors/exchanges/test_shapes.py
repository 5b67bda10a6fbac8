"""Frames of a known shape are read in one step, and say what the careful reading of the same text says, to the bit."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import BadMessage
from actors.events import Instrument, Ohlc
from actors.exchanges import shapes
from actors.exchanges.exchange import Update, load_exchanges
from actors.exchanges.shapes import DIGITS, Shapes
from tests.recordings import RECORDINGS

NOW = datetime(2026, 11, 24, tzinfo=UTC)
EXCHANGES = load_exchanges()
SWAP = Instrument(
    exchange="okx",
    symbol="BTC-USDT-SWAP",
    base="BTC",
    quote="USDT",
    settle="USDT",
    status="TRADING",
    tick_size=0.1,
    step_size=0.01,
    funding_interval_hours=8.0,
    contract_size=0.01,
)
BARS = {
    "binance": '{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1786173360960,"s":"BTCUSDT","k":{"t":'
    '1786173300000,"T":1786173359999,"s":"BTCUSDT","i":"1m","f":7960920076,"L":7960920277,"o":"64970.80","c":"64969.40",'
    '"h":"64970.90","l":"64969.40","v":"9.090","n":194,"x":true,"q":"590577.96880","V":"3.460","Q":"224795.09440",'
    '"B":"0"},"st":1}}',
    "bybit": '{"topic":"kline.1.BTCUSDT","type":"snapshot","ts":1790409768441,"data":[{"start":1790409720000,'
    '"end":1790409779999,"interval":"1","open":"84045","close":"84017.8","high":"84045","low":"84017.8",'
    '"volume":"7.316","turnover":"614833.7084","confirm":false,"timestamp":1790409768441}]}',
    "hyperliquid": '{"channel":"candle","data":{"t":1790358600000,"T":1790358659999,"s":"BTC","i":"1m","o":"83765.0",'
    '"c":"83765.0","h":"83770.0","l":"83756.0","v":"0.3317","n":36}}',
    "okx": '{"arg":{"channel":"candle1m","instId":"BTC-USDT-SWAP"},"data":[["1785060300000","64472.1","64472.2",'
    '"64470","64471.3","1203.4","12.034","775872.1","0"]]}',
}
TRADES = {
    "binance": '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1791391082024,"a":3478018549,"s":"BTCUSDT",'
    '"p":"83434.40","q":"0.016","nq":"0.016","f":8154045700,"l":8154045704,"T":1791391081874,"m":true,"st":1}}',
    "bybit": '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1781415763023,"data":[{"T":1781415763021,'
    '"s":"BTCUSDT","S":"Sell","v":"0.001","p":"64345.20","L":"MinusTick","i":"35319862-77a2-5ebe-851b-3836573c4fe9",'
    '"BT":false,"RPI":false,"seq":598180439295}]}',
    "hyperliquid": '{"channel":"trades","data":[{"coin":"BTC","side":"A","px":"84143.0","sz":"0.00036",'
    '"time":1790232216193,"hash":"0x7a","tid":1045359869404765,"users":["0x9a","0x82"]}]}',
    "okx": '{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP",'
    '"tradeId":"2805987683","px":"64472.1","sz":"0.02","side":"buy","ts":"1785060302444","count":"3","source":"0",'
    '"seqId":80559459948}]}',
}
NUMBER = re.compile(r"[0-9.]+")
NUMBERS = st.one_of(
    st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,8})?", fullmatch=True),
    st.text("0123456789.", max_size=40),
    st.sampled_from(["", "0", "00", "0.0", "1.2.3", ".5", "5.", "007", "9" * 400, "1" * 20, "4.9", "253402300800000"]),
)
PIECES = st.sampled_from(
    [
        *('"', '"-', "-", "\\", " ", "_", "+", "e5", "e-400", "e400", "nan", "inf", "Infinity", "\\u0031", "\\n", "0x"),
        *("true", "null", "1", "12", ".", ",", ":", "{}", "[", "]", "}", '"1":"2",', '"o":1,', '"e":"k1line",'),
        *('"event":"5",', "\N{ARABIC-INDIC DIGIT ONE}"),
    ]
)


def new_session(name: str) -> Any:
    return EXCHANGES[name].new_session({"BTC-USDT-SWAP": SWAP})


def heard(session: Any, frame: str | bytes) -> str:
    """`repr` tells -0.0 from 0.0, a float from a whole number and any two floats from each other."""
    try:
        return repr(session.receive(frame, NOW))
    except BadMessage:
        return "refused"


class Twins:
    """Two sessions: one of them is given bytes and knows shapes, the other text, which it always reads carefully."""

    def __init__(self, name: str) -> None:
        self.quick, self.careful = new_session(name), new_session(name)

    def compare(self, frame: str) -> None:
        carefully = heard(self.careful, frame)
        assert heard(self.quick, frame.encode(errors="surrogatepass")) == carefully
        assert heard(self.quick, frame.encode(errors="surrogatepass")) == carefully  # its shape may be known now


@st.composite
def with_other_numbers(draw: st.DrawFn, frame: str) -> str:
    """A frame in which some numbers are other ones, or none."""
    found = [*NUMBER.finditer(frame)]
    chosen = draw(st.lists(st.sampled_from(found), unique=True, max_size=4))
    for match in sorted(chosen, key=re.Match.start, reverse=True):
        frame = frame[: match.start()] + draw(NUMBERS) + frame[match.end() :]
    return frame


@st.composite
def with_other_pieces(draw: st.DrawFn, frame: str) -> str:
    """A frame with something in it that does not belong there, or without something that does."""
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(frame)))
        frame = frame[:at] + draw(PIECES) + frame[at + draw(st.integers(0, 3)) :]
    return frame


@pytest.mark.parametrize("frames", [BARS, TRADES], ids=["bars", "trades"])
@pytest.mark.parametrize("name", EXCHANGES)
def test_the_quick_reading_says_what_the_careful_one_says(name: str, frames: dict[str, str]) -> None:
    twins = Twins(name)
    twins.compare(frames[name])

    @settings(max_examples=100, deadline=None)
    @given(st.one_of(with_other_numbers(frames[name]), with_other_pieces(frames[name])))
    def compare(frame: str) -> None:
        twins.compare(frame)

    compare()


def test_a_capture_of_half_a_minute_is_read_alike_both_ways() -> None:
    path = RECORDINGS / "cryptofeed" / "BINANCE_FUTURES.ws.1.0"
    if not path.exists():
        pytest.skip(f"no recordings at {path}")
    twins, bars, known = Twins("binance"), 0, 0
    for line in path.read_text().splitlines():
        stamp, found, frame = line.partition(": ")
        if found and stamp.replace(".", "").isdigit():
            if '"e":"kline"' in frame:
                bars += 1
                known += frame.encode().translate(None, DIGITS) in twins.quick._shapes.known
            twins.compare(frame)
    assert bars > 50
    assert known > bars * 0.8, known  # most look like one before


@pytest.mark.parametrize("name", EXCHANGES)
def test_broken_frames_are_read_alike_both_ways(name: str) -> None:
    twins = Twins(name)
    for frame in import_module(f"actors.exchanges.{name}.simulator").BAD_FRAMES.values():
        twins.compare(frame.decode(errors="replace"))


# Each of these msgspec's lax mode reads as a number, a time or a truth, and would be wrong about.
TAKEN_TOO_EASILY: dict[str, Sequence[tuple[str, str]]] = {
    "binance": [
        ('"64970.80"', "64970.80"),
        ('"64970.80"', "5"),
        ('"64970.80"', '"inf"'),
        ('"64970.80"', '"nan"'),
        ("1786173360960", '"1786173360960"'),
        ("194", '"194"'),
        ("194", "194.0"),
        ('"e":', '"1e":'),
        ("true", "1"),
        ("true", '"true"'),
        ('"st":1', '"st":"1"'),
    ],
    "bybit": [
        ('"84017.8"', "84017.8"),
        ('"84017.8"', '"Infinity"'),
        ("false", "0"),
        ("1790409720000", '"1790409720000"'),
    ],
    "hyperliquid": [
        ('"83756.0"', "83756.0"),
        ('"0.3317"', '"inf"'),
        ("36", '"36"'),
        ("1790358659999", "0.0"),
        ("1790358600000", '"1790358600000"'),
    ],
    "okx": [
        ('"64470"', "64470"),
        ('"12.034"', '"inf"'),
        ('"1785060300000"', "1785060300000"),
        ('"0"', "0"),
    ],
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_a_lax_decoder_takes_too_easily_is_refused(name: str) -> None:
    session = new_session(name)
    [said] = session.receive(BARS[name].encode(), NOW)
    assert isinstance(said.event, Ohlc)
    for before, after in TAKEN_TOO_EASILY[name]:
        frame = BARS[name].replace(before, after, 1)
        assert frame != BARS[name]
        assert heard(session, frame.encode()) == "refused", after
        assert heard(session, frame.encode()) == "refused", after
    negative = BARS[name].replace('"64969.40"', '"-0"').replace('"0.3317"', '"-0"').replace('"7.316"', '"-0"')
    Twins(name).compare(negative.replace('"12.034"', '"-0"'))  # a zero with a sign stays one


@pytest.mark.parametrize("name", EXCHANGES)
def test_bars_are_read_by_their_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the careful reading out of order the next bar is read all the same: it has the shape of the last one."""
    session = new_session(name)
    session.receive(BARS[name].encode(), NOW)
    monkeypatch.setattr(import_module(f"actors.exchanges.{name}.wire"), "decode_frame", None)
    frame = BARS[name].replace("64969.40", "64968.40").replace("84017.8", "84016.8").replace("83756.0", "83755.0")
    [update] = session.receive(frame.replace("64470", "64469").encode(), NOW)
    assert isinstance(update, Update)
    assert isinstance(update.event, Ohlc)
    assert update.event.low in (64968.4, 84016.8, 83755.0, 64469.0)


@pytest.mark.parametrize("frame", [b'{"o":"-1"}', b'{"o\\"":"1"}', b'{"o1":"1"}', b'{"o":"1","1a" : "1"}'])
def test_a_frame_whose_digits_may_mean_more_teaches_no_shape(frame: bytes) -> None:
    known = Shapes()
    known.learn(frame)
    assert not known.known
    known.learn(b'{"o":"1"}')
    assert b'{"o":"234"}'.translate(None, DIGITS) in known.known


def test_shapes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "MOST", 3)
    known = Shapes()
    for letter in b"abcdefgh":
        known.learn(bytes([letter]))
        assert 1 <= len(known.known) <= 3
