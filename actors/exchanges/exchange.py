"""What an exchange is to the machinery: one frozen record of facts and functions, and the two protocols behind it.

A folder beside this file is an exchange and says so by `EXCHANGE`; nothing else in the program names it.
"""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from actors import exchanges
from actors.errors import BadMessage, UnknownInterval, Unsupported
from actors.events import (
    Event,
    FundingRate,
    Instrument,
    Kind,
    Liquidation,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    Topic,
    Trade,
)
from actors.exchanges.dialect import Dialect
from actors.exchanges.facade import Facade
from actors.upstream.budget import Window
from actors.upstream.rest import Explain, RestClient

Capability = Literal["partial"] | bool


class Update(Struct, frozen=True, gc=False):
    """One event of a frame and the exchange's time at which it was pushed."""

    event: Event
    pushed_at: datetime


class Backlog(NamedTuple):
    """The recent trades of one symbol, ascending, as told at the start of a subscription: they may close a gap."""

    symbol: str
    trades: tuple[Trade, ...]


class Rejected(NamedTuple):
    """The exchange refused to send some topics; `again` were refused for their sake and may be asked for once more.

    Not `final`: the next connection may ask for them again.
    """

    topics: tuple[Topic, ...]
    reason: str
    again: tuple[Topic, ...] = ()
    final: bool = True


class Leaving(NamedTuple):
    """The exchange is about to end this connection: another one is to take its place before it does."""

    reason: str


class Notice(NamedTuple):
    """Maintenance that an exchange announces; no `end`: it does not say."""

    title: str
    start: datetime
    end: datetime | None

    def __str__(self) -> str:
        return f"maintenance: {self.title}" + ("" if self.end is None else f", until {self.end:%Y-%m-%dT%H:%M:%SZ}")


Item = Update | Backlog | Rejected | Leaving | Topic
"""What a frame may say; a topic alone: some of it did not come, and is missing before what follows."""


class BadPush(BadMessage):
    """A push of `topic` that cannot be read: what it told is missing before what follows."""

    def __init__(self, topic: Topic, detail: str) -> None:
        super().__init__(detail)
        self.topic = topic


class Session(Protocol):
    """The protocol state of one connection: no I/O, no waiting; a reconnect makes a new one."""

    def subscribe(self, topics: Sequence[Topic]) -> list[str]:
        """The frames that ask for `topics`."""
        ...

    def unsubscribe(self, topics: Sequence[Topic]) -> list[str]:
        """The frames that end `topics`."""
        ...

    def unacknowledged(self) -> Sequence[Topic]:
        """Topics that were asked for and neither confirmed nor refused, where the exchange confirms each."""
        ...

    def receive(self, frame: str | bytes, received_at: datetime) -> Sequence[Item]:
        """What a frame says; nothing for acks. Raises BadMessage for what the exchange never promised to send, BadPush
        where that told what no later frame tells again and no numbers show to be missing."""
        ...


class Rest(Protocol):
    """An exchange's REST calls, normalised. Ranges are half-open; lists ascend by time; errors are MarketError."""

    async def server_time(self) -> datetime: ...

    async def instruments(self) -> list[Instrument]: ...

    async def ohlc(
        self,
        symbol: str,
        interval: str,
        *,
        limit: int,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Ohlc]: ...

    async def open_interest(self, symbol: str) -> OpenInterest: ...

    async def open_interest_history(
        self, symbol: str, period: str, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[OpenInterest]: ...

    async def funding(self, instrument: Instrument) -> FundingRate: ...

    async def funding_history(
        self, instrument: Instrument, *, limit: int, start: datetime | None, end: datetime | None
    ) -> list[FundingRate]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LineLimits:
    """What one connection may carry and how fast; below the exchange's own limits where it is known to be strict."""

    topics: int  # per connection
    topics_per_frame: int
    frames_per_second: float  # client to exchange
    connect_spacing: float  # seconds between two connection attempts of this program
    silence: float = 15.0  # seconds without market data after which a connection counts as dead
    ping_every: float = 30.0  # seconds between WebSocket pings
    pong_within: float = 10.0  # seconds
    heartbeat_every: float = 20.0  # seconds between the exchange's own heartbeats, where it has one
    lifetime: float | None = None  # seconds after which a connection is replaced, before the exchange would cut it
    subscriptions: int | None = None  # of all connections together, where the exchange counts them


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One exchange: facts first, then the functions that speak its dialect."""

    name: str
    rest_url: str
    ws_url: str
    ws_path: str  # appended to ws_url
    symbols: tuple[str, ...]  # collected where the configuration does not say
    intervals: tuple[str, ...]
    open_interest_periods: tuple[str, ...]
    capabilities: Mapping[str, Capability]
    pushed: frozenset[Kind]  # kinds that lines carry; open interest is polled where it is not among them
    # Pushed kinds that speak within seconds whatever the market does; others' silence is judged by their own rate.
    prompt: frozenset[Kind]
    contiguous_trade_ids: bool  # every trade's id is the previous one's plus one
    closes_bars: bool  # the stream says when a bar is final; else the next bar or the clock does
    says_closed: bool = False  # REST says which bars are final, too; else the clock does
    has_empty_bars: bool  # an interval without trades has a bar too
    history: int  # bars that a feed holds per interval
    limits: LineLimits
    budget: Mapping[str, Window]
    used_header: tuple[str, str] | None  # (header, bucket): the exchange's own count, of all at an address
    explain: Explain
    new_session: Callable[[Mapping[str, Instrument]], Session]
    open_rest: Callable[[RestClient, Callable[[], datetime]], Rest]  # (client, the exchange's clock)
    predicted_funding: Callable[[RestClient], Awaitable[list[PredictedFunding]]] | None = None
    # Trades between two that are known, ascending, as many as one request gives: (client, symbol, last, first). Where
    # trade ids count up: those that follow `last`. Elsewhere: the most recent ones, which may hold both.
    missed_trades: Callable[[RestClient, str, Trade, Trade], Awaitable[list[Trade]]] | None = None
    # Liquidations of `[start, end)` of one symbol, ascending, where an exchange tells them afterwards, too: (client,
    # symbol, start, end). Raises MarketError where it cannot tell them all.
    missed_liquidations: Callable[[RestClient, str, datetime, datetime], Awaitable[list[Liquidation]]] | None = None
    notices: Callable[[RestClient], Awaitable[list[Notice]]] | None = None  # of maintenance, not over yet
    subscription_of: Callable[[Topic], Hashable] = lambda topic: topic  # what is subscribed to; topics may share one
    unstamped: frozenset[Kind] = frozenset()  # pushed kinds whose frames do not say when they were pushed
    slow: Mapping[Kind, float] = field(default_factory=dict)  # seconds for which a pushed kind may have nothing to say
    open_interest_kept: timedelta | None = None  # older history is refused; None: it may be asked for at any age
    heartbeat: str | None = None  # a frame that the exchange wants regularly beside WebSocket pings
    facade: Facade | None = None  # its REST dialect, where programs written for it may ask here instead
    dialect: Dialect | None = None  # and that of its streams
    aliases: Callable[[Instrument], Sequence[str]] = lambda instrument: ()  # other spellings that clients may use
    full_name: str = ""  # for people: "Binance USD-M futures"
    share: float = 1.0  # of what the exchange allows an address, which `budget` and `limits` say; others use the rest
    ws_paths: Mapping[Kind, str] = field(default_factory=dict)  # of kinds that another socket than ws_path's carries

    def check_interval(self, interval: str | None) -> None:
        """Raises UnknownInterval where it has none such. None: there is nothing to check."""
        if interval is not None and interval not in self.intervals:
            raise UnknownInterval(f"{self.name} has no interval {interval!r}: {', '.join(self.intervals)}")

    def check_capability(self, capability: str) -> None:
        """Raises Unsupported where it has none of it."""
        if not self.capabilities.get(capability):
            raise Unsupported(f"{self.name} has no {capability.replace('_', ' ')}")

    def within(self, share: float) -> "Exchange":
        """The same, asked for no more than a share of what it allows an address."""
        if share == 1.0:
            return self
        budget = {
            name: window._replace(limit=max(1, int(window.limit * share))) for name, window in self.budget.items()
        }
        limits = self.limits
        subscriptions = None if limits.subscriptions is None else int(limits.subscriptions * share)
        limits = replace(limits, connect_spacing=limits.connect_spacing / share, subscriptions=subscriptions)
        return replace(self, share=share, budget=budget, limits=limits)

    def path_of(self, kind: Kind) -> str:
        """The path of the sockets that carry a kind; appended to ws_url."""
        return self.ws_paths.get(kind, self.ws_path)

    @property
    def with_liquidations(self) -> frozenset[Kind]:
        """Kinds whose subscription brings the liquidations, too, of the same symbol."""
        if "liquidations" not in self.pushed:
            return frozenset()
        theirs = self.subscription_of(Topic(self.name, "", "liquidations"))
        others = self.pushed - {"ohlc", "liquidations"}
        return frozenset(kind for kind in others if self.subscription_of(Topic(self.name, "", kind)) == theirs)

    @property
    def title(self) -> str:
        """What people call it."""
        return self.full_name or self.name.capitalize()


class Change(Protocol):
    """What a supervisor says when a run ended."""

    @property
    def state(self) -> Literal["down", "failed"]: ...
    @property
    def reason(self) -> str: ...
    @property
    def delay(self) -> float | None: ...


class Supervise(Protocol):
    """The daemon's restart loop, handed to whatever starts actors: they may not import the daemon."""

    def __call__(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        on_change: Callable[[Any], None] | None = None,
        **context: object,
    ) -> Awaitable[None]: ...


def load_exchanges() -> dict[str, Exchange]:
    """Every exchange folder's record, by name."""
    found = {}
    for module in pkgutil.iter_modules(exchanges.__path__):
        if module.ispkg:
            exchange = importlib.import_module(f"actors.exchanges.{module.name}").EXCHANGE
            found[exchange.name] = exchange
    return found
