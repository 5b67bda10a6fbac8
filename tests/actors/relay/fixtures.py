"""A market that knows all that happened, nodes that relay it over an engine in memory, and what readers were told."""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import trio
from msgspec import structs

from actors.collection import NO_READER
from actors.engine.memory import START_MS, MemoryEngine
from actors.engine.words import Engine, EngineAway, Member
from actors.events import Event, FeedState, Gap, Liquidation, Ohlc, OiSpike, Status, Topic, Trade, from_ms, ms
from actors.exchanges.exchange import load_exchanges
from actors.mirror.everywhere import Everywhere
from actors.mirror.feed import MirrorFeed
from actors.mirror.mirror import Mirror
from actors.relay.members import Members
from actors.relay.relay import Relay
from actors.relay.saying import Saying
from actors.relayed import Relayed, Renumbered

EXCHANGE = load_exchanges()["binance"]
SYMBOLS = ("BTCUSDT", "ETHUSDT")
LANES, LEASE, COPIES = 2, 3.0, 2
CONNECTING = 0.3  # seconds from the wish to follow a symbol until it is heard
TRADES = [Topic("binance", symbol, "trades") for symbol in SYMBOLS]
BARS = [Topic("binance", symbol, "ohlc", "1m") for symbol in SYMBOLS]
LIQUIDATIONS = [Topic("binance", symbol, "liquidations") for symbol in SYMBOLS]
ALL_LIQUIDATIONS, SPIKES = Topic("all", "", "liquidations"), Topic("", "", "oi-vol")


def now() -> datetime:
    """By the engine's clock, which is the exchange's."""
    return from_ms(START_MS + int(trio.current_time() * 1000))


async def supervise(name: str, run: Callable[[], Awaitable[None]], **context: object) -> None:
    """Nothing may fail here."""
    await run()


def trade(symbol: str, number: int, at: datetime | None = None) -> Trade:
    return Trade(
        exchange="binance",
        symbol=symbol,
        timestamp=at or now(),
        side="buy",
        price=1.0,
        quantity=float(number),
        value=float(number),
        is_buyer_maker=False,
        trade_id=number,
    )


def bar(symbol: str, open_at: datetime, close: float, *, is_closed: bool) -> Ohlc:
    prices: Any = dict.fromkeys(("open", "high", "low", "close", "volume"), close)
    where: Any = {"exchange": "binance", "symbol": symbol, "timestamp": open_at, "interval": "1m"}
    return Ohlc(**where, **prices, quote_volume=None, trades_count=None, is_closed=is_closed)


def liquidation(symbol: str, number: int) -> Liquidation:
    where: Any = {"exchange": "binance", "symbol": symbol, "timestamp": now()}
    return Liquidation(**where, side="buy", price=1.0, quantity=1.0, value=float(number))


def spike(symbol: str, open_at: datetime) -> OiSpike:
    where: Any = {"exchange": "binance", "symbol": symbol, "timestamp": open_at}
    return OiSpike(**where, timeframe="1m", z_oi=4.0, z_vol=4.0, confirmed=True)


def state(symbol: str, state: FeedState, reason: str | None = None) -> Status:
    where: Any = {"exchange": "binance", "symbol": symbol, "timestamp": now()}
    return Status(**where, state=state, reason=reason, next_retry=None)


def too_old(topic: Topic) -> Gap:
    where: Any = {"exchange": topic.exchange, "symbol": topic.symbol, "timestamp": now()}
    return Gap(**where, start=from_ms(START_MS), end=now(), reason="resume_too_old", repaired=False)


class FakeFeed:
    """What a node knows of one symbol: every closed bar, the open one, and nothing that it did not hear."""

    def __init__(self, closed: list[Ohlc]) -> None:
        self.closed = list(closed)
        self.open: Ohlc | None = None

    def hear(self, said: Event | Gap) -> None:
        if isinstance(said, Ohlc):
            if said.is_closed:
                self.closed.append(said)
            self.open = None if said.is_closed else said

    def current(self, topic: Topic) -> Event | None:
        return (self.open or (self.closed[-1] if self.closed else None)) if topic.kind == "ohlc" else None

    def closed_bars(self, interval: str, count: int) -> tuple[datetime, list[Ohlc], bool] | None:
        if self.open is not None:
            return self.open.timestamp, self.closed[-count:], False
        if self.closed:
            return from_ms(ms(self.closed[-1].timestamp) + 60_000), self.closed[-count:], False
        return None


class Market:
    """A trade every 0.4 s of each symbol, every third time a liquidation; bars of a minute, each of which ends with a
    spike. All of it is remembered."""

    def __init__(self) -> None:
        self.trades: dict[str, list[Trade]] = {symbol: [] for symbol in SYMBOLS}
        self.closed: dict[str, list[Ohlc]] = {symbol: [] for symbol in SYMBOLS}
        self.liquidations: dict[str, list[Liquidation]] = {symbol: [] for symbol in SYMBOLS}
        self.spikes: dict[str, list[OiSpike]] = {symbol: [] for symbol in SYMBOLS}
        self.nodes: list[Node] = []
        self.most = 0  # nodes that followed one symbol at once, of those that could know better
        self._opened: datetime | None = None
        self.is_over = False

    async def run(self) -> None:
        number = 0
        while not self.is_over:
            await trio.sleep(0.4)
            number += 1
            minute = from_ms(ms(now()) // 60_000 * 60_000)
            for symbol in SYMBOLS:
                if self._opened is not None and minute > self._opened:
                    closed = bar(symbol, self._opened, float(number - 1), is_closed=True)
                    self.closed[symbol].append(closed)
                    self._tell(Topic("binance", symbol, "ohlc", "1m"), closed)
                    self.spikes[symbol].append(spike(symbol, self._opened))
                    self._tell(Topic("binance", symbol, "oi-vol", "1m"), self.spikes[symbol][-1])
                one = trade(symbol, number)
                self.trades[symbol].append(one)
                self._tell(Topic("binance", symbol, "trades"), one)
                if number % 3 == 0:
                    self.liquidations[symbol].append(liquidation(symbol, number))
                    self._tell(Topic("binance", symbol, "liquidations"), self.liquidations[symbol][-1])
                self._tell(Topic("binance", symbol, "ohlc", "1m"), bar(symbol, minute, float(number), is_closed=False))
            self._opened = minute

    def _tell(self, topic: Topic, said: Event) -> None:
        following = [node for node in self.nodes if topic.symbol in node.feeds and node.way.awake.is_set()]
        self.most = max(self.most, len(following))
        for node in self.nodes:
            node.hear(topic, said)


class Way:
    """One node's way to the engine: it may be cut, and a node that sleeps asks nothing and hears no answer."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine
        self.is_dead = False
        self.refuses: set[str] = set()  # calls that are not answered
        self.awake = trio.Event()
        self.awake.set()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._engine, name)

        async def ask(*arguments: object) -> Any:
            await self._pass()
            if name in self.refuses:
                raise EngineAway(f"{name} is refused")
            try:
                return await call(*arguments)
            finally:
                await self._pass()

        return ask

    async def _pass(self) -> None:
        await self.awake.wait()
        if self.is_dead:
            raise EngineAway("this node is dead")


class Node:
    """One daemon of role `both`, as far as it relays. `latency`: seconds until it hears what happens."""

    def __init__(self, market: Market, engine: MemoryEngine, name: str, latency: float = 0.02) -> None:
        self.market, self.name, self.latency = market, name, latency
        self.way = Way(engine)
        asked: Any = self.way
        me = Member(name=name, role="both", address="")
        self.members = Members(asked, me, seconds=LEASE, ready=lambda: self.relay.claims.ready())
        self.saying = Saying(asked, seconds=LEASE, flush=0.005)
        about: Any = {"lanes": LANES, "copies": COPIES, "seconds": LEASE, "saying": self.saying, "supervise": supervise}
        self.relay = Relay("binance", asked, members=self.members, **about)
        self.relay.claims.expect(SYMBOLS)
        self.feeds: dict[str, FakeFeed] = {}
        self.scope = trio.CancelScope()
        self.deaf_since: datetime | None = None  # cut off from the exchange
        self.lag = 0.0  # seconds by which it is behind with what it hears
        self._heard: list[tuple[float, FakeFeed, Topic, Event | Gap]] = []
        self._news = trio.Event()

    def hear(self, topic: Topic, said: Event) -> None:
        feed = self.feeds.get(topic.symbol)
        if self.deaf_since is None and feed is not None:
            self._heard.append((trio.current_time() + self.latency + self.lag, feed, topic, said))
            self._news.set()

    async def run(self) -> None:
        with self.scope:
            self.market.nodes.append(self)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.members.run)
                    nursery.start_soon(self.saying.run)
                    nursery.start_soon(self.relay.run, self)
                    nursery.start_soon(self._follow)
                    await self._take()
            finally:
                self.market.nodes.remove(self)

    async def _take(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            heard, self._heard = self._heard, []
            for at, feed, topic, said in heard:
                await trio.sleep_until(at)
                await self.way.awake.wait()
                if isinstance(said, OiSpike):  # each node polls open interest at moments of its own
                    said = structs.replace(said, z_oi=4.0 + self.latency)
                if self.feeds.get(topic.symbol) is feed:
                    feed.hear(said)
                    self.relay.take(topic, said)

    async def _follow(self) -> None:
        """Hear the symbols that are this node's, as long as they are."""
        while True:
            await self.way.awake.wait()
            for symbol in SYMBOLS:
                is_ours = self.relay.claims.follows(self.relay.lane(symbol))
                if is_ours and symbol not in self.feeds and self.deaf_since is None:
                    await trio.sleep(CONNECTING)
                    self.feeds[symbol] = FakeFeed(self.market.closed[symbol])
                    self.relay.take(Topic("binance", symbol, "trades"), state(symbol, "live"))
                elif not is_ours and symbol in self.feeds:
                    del self.feeds[symbol]
                    self.relay.take(Topic("binance", symbol, "trades"), state(symbol, "failed", NO_READER))
            await trio.sleep(0.1)

    def kill(self) -> None:
        """At once: nothing is let go."""
        self.way.is_dead = True
        self.way.awake.set()
        self.scope.cancel()

    def freeze(self) -> None:
        if self.way.awake.is_set():
            self.way.awake = trio.Event()

    def cut_off(self) -> None:
        """From the exchange."""
        if self.deaf_since is None:
            self.deaf_since = now()
            for symbol in self.feeds:
                self._tell_state(symbol, "down")

    def mend(self) -> None:
        """What was closed meanwhile is known again; what happened once is announced as lost."""
        if self.deaf_since is None:
            return
        since, self.deaf_since = self.deaf_since, None
        for symbol, feed in self.feeds.items():
            feed.closed, feed.open = list(self.market.closed[symbol]), None
            self._tell_state(symbol, "live")
            for kind in ("trades", "liquidations"):
                topic = Topic("binance", symbol, kind)
                where: Any = {"exchange": "binance", "symbol": symbol, "timestamp": now()}
                lost = Gap(**where, start=since, end=now(), reason="cut off", repaired=False)
                self._heard.append((trio.current_time() + self.latency, feed, topic, lost))
        self._news.set()

    def _tell_state(self, symbol: str, told: FeedState) -> None:
        self.relay.take(Topic("binance", symbol, "trades"), state(symbol, told))

    def thaw(self) -> None:
        self.way.awake.set()


@dataclass
class Numbers:
    """What one reader of one topic was told, in its order."""

    epoch: str
    seq: int
    told: list[tuple[str, int, bytes]]
    gaps: list[Gap]
    anew: int = 0
    waited: float = 0.0  # seconds from when it happened until it was told, of whatever took longest


class Observer:
    """An edge that reads every topic from its begin on."""

    def __init__(self, engine: Engine) -> None:
        self.everywhere = Everywhere(engine, supervise=supervise)
        about: Any = {"everywhere": self.everywhere, "supervise": supervise}
        self.mirror = Mirror(EXCHANGE, engine, lanes=LANES, seconds=LEASE, **about)
        self.topics: dict[Topic, Numbers] = {}
        self.states: list[Status] = []
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                for topic in (*TRADES, *BARS, *LIQUIDATIONS):
                    nursery.start_soon(self._read, self.mirror.feed(topic.symbol), topic)
                for topic in (ALL_LIQUIDATIONS, SPIKES):
                    nursery.start_soon(self._read, self.everywhere, topic)
                nursery.start_soon(self.everywhere.run)
                await self.mirror.run()

    async def _read(self, source: MirrorFeed | Everywhere, topic: Topic) -> None:
        numbers = self.topics[topic] = Numbers(*source.numbering(topic), [], [])
        with source.subscribe(topic, 1_000_000) as reader:
            while True:
                match await reader.receive():
                    case Renumbered(numbering):
                        if numbers.epoch:  # clients are told resume_too_old
                            numbers.gaps.append(too_old(topic))
                        numbers.epoch, numbers.seq = numbering
                        numbers.anew += 1
                    case Relayed() as said:
                        assert said.seq == numbers.seq + 1, f"{said.seq} follows {numbers.seq}"
                        numbers.seq = said.seq
                        numbers.told.append((numbers.epoch, said.seq, said.text))
                        if topic.kind == "trades":
                            happened = msgspec.json.decode(said.text, type=Trade).timestamp
                            numbers.waited = max(numbers.waited, (now() - happened).total_seconds())
                    case Gap() as gap:
                        numbers.gaps.append(gap)
                    case Status() as status:
                        self.states.append(status)


def check(market: Market, observers: list[Observer], *, rolled_back: bool = False) -> None:
    """The invariants of what was told. `rolled_back`: the engine came back older: some is told in two epochs."""
    texts: dict[tuple[Topic, str, int], bytes] = {}
    for observer in observers:
        for topic, numbers in observer.topics.items():
            numbered = [(epoch, seq) for epoch, seq, _ in numbers.told]
            assert len(set(numbered)) == len(numbered), "a number is told twice"
            assert rolled_back or numbers.anew <= 1, "what was told is not continued, though nothing was lost"
            # Before anybody notices that an engine is older than what was read, a new edge may be told a number anew.
            for epoch, seq, text in numbers.told if not rolled_back else ():
                assert texts.setdefault((topic, epoch, seq), text) == text, "a number is two events"
    first = observers[0]
    for symbol in SYMBOLS:
        trades = _of(first, Topic("binance", symbol, "trades"), symbol, "trade_id")
        _check_moments(trades, {one.trade_id: one for one in market.trades[symbol]}, rolled_back)
        happened: dict[Any, Event] = {one.value: one for one in market.liquidations[symbol]}
        for topic in (Topic("binance", symbol, "liquidations"), ALL_LIQUIDATIONS):
            _check_moments(_of(first, topic, symbol, "value"), happened, rolled_back)
        bars = _of(first, SPIKES, symbol, "timestamp")[0]
        assert rolled_back or bars == sorted(set(bars)), "a spike is told twice or out of order"
    for topic in BARS:
        bars = list(map(msgspec.json.decode, _texts(first, topic)))
        closes = [one["timestamp"] for one in bars if one["is_closed"]]
        if not rolled_back:
            assert closes == sorted(set(closes)), "a bar is closed twice or out of order"
        for one in market.closed[topic.symbol]:
            at = msgspec.to_builtins(one)["timestamp"]
            gaps = first.topics[topic].gaps
            is_lost = any(not gap.repaired and gap.start <= one.timestamp < gap.end for gap in gaps)
            assert at in closes or is_lost or at < bars[0]["timestamp"], f"{at} was not closed"


def _texts(observer: Observer, topic: Topic) -> list[bytes]:
    return [text for _, _, text in observer.topics[topic].told]


def _of(observer: Observer, topic: Topic, symbol: str, field: str) -> tuple[list[Any], list[Gap]]:
    """What was told of one symbol, by what tells it from others; and the gaps that concern it."""
    events = map(msgspec.json.decode, _texts(observer, topic))
    gaps = [gap for gap in observer.topics[topic].gaps if gap.symbol in (symbol, "")]
    return [event[field] for event in events if event["symbol"] == symbol], gaps


def _check_moments(told: tuple[list[Any], list[Gap]], happened: Mapping[Any, Event], rolled_back: bool) -> None:
    """What happens once is told once, in its order, or announced as lost; from the first on that was told."""
    seen, gaps = told
    if not rolled_back:
        twice = [id for id, count in Counter(seen).items() if count > 1]
        assert twice == [], f"told twice: {twice}"
    order = list(happened)
    due = order[order.index(seen[0]) :] if seen else []
    missing = [
        id
        for id in due
        if id not in set(seen) and not any(gap.start <= happened[id].timestamp <= gap.end for gap in gaps)
    ]
    assert missing == [], f"neither told nor announced: {missing}"


def by_topic(observer: Observer) -> Mapping[Topic, list[bytes]]:
    found: dict[Topic, list[bytes]] = defaultdict(list)
    for topic in observer.topics:
        found[topic] = _texts(observer, topic)
    return found
