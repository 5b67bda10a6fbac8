"""What one client follows, within its limits: topics, filters, symbols that are collected for it, bytes.

A symbol that the configuration does not name is collected for a client until it has been away for as long as it may
come back. Who holds many is not waited for: else a handful of clients, one symbol after the other, has everything
collected.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from actors.collection import LINGER
from actors.errors import MarketError, RateLimited
from actors.events import Topic
from actors.feeds.everything import ALL
from web.access.account import Account, Held, Symbol
from web.problems import Denied, InvalidParameters, problem_of
from web.server.outbox import text_frame
from web.streams.fanout import Fanout, Outlet
from web.streams.fanouts import Fanouts
from web.streams.topics import Sources, Wanted, name_of

TOO_MUCH = 4429  # over a limit: come back later


@contextmanager
def following(account: Account, fanouts: Fanouts, wanted: Wanted, *, remember: bool = False) -> Iterator[Fanout]:
    """The fan-out of a topic, as `Fanouts.holding` has it, counted for a client. Raises RateLimited, too."""
    is_filtered = "?" in name_of(wanted.topic, wanted.query)
    account.check_topics(is_filtered=is_filtered)
    symbol = None if account.is_exempt else on_demand_symbol(wanted.topic, fanouts.sources)
    with (
        fanouts.holding(wanted, remember=remember)
        if symbol is None
        else _held(account, fanouts, wanted, symbol, remember) as fanout
    ):
        if remember and fanouts.followed_by.setdefault(fanout, account) is not account:
            fanouts.followed_by[fanout] = None
        account.topics += 1
        account.filtered += is_filtered
        try:
            yield fanout
        finally:
            account.topics -= 1
            account.filtered -= is_filtered


@contextmanager
def _held(account: Account, fanouts: Fanouts, wanted: Wanted, symbol: Symbol, remember: bool) -> Iterator[Fanout]:
    held = account.hold(symbol)
    lingers, end = 0.0, _nothing
    try:
        with fanouts.holding(wanted, remember=remember) as fanout:
            lingers = LINGER + (fanouts.memory.seconds if remember else 0.0)
            held.sources.add(fanout)
            end = _end_of(account, fanouts, symbol, held)
            yield fanout
    finally:
        account.leave(symbol, held, lingers=lingers, end=end)


def _nothing() -> None:
    """What was never begun has no end."""


def _end_of(account: Account, fanouts: Fanouts, symbol: Symbol, held: Held) -> Callable[[], None]:
    """Ends what is kept of a symbol for this client alone."""

    def end() -> None:
        for fanout in held.sources:
            if fanouts.followed_by.get(fanout) is account:
                fanouts.end_if_left(fanout)
        exchange, name = symbol
        fanouts.sources.connectors[exchange].end_if_unread(name)

    return end


def on_demand_symbol(topic: Topic, sources: Sources) -> Symbol | None:
    """The symbol that a topic makes the daemon collect; None where the configuration names it, or there is none."""
    if topic.exchange in ("", ALL):
        return None
    connector = sources.connectors[topic.exchange]
    if topic.symbol in connector.symbols:
        return None
    try:
        symbol = connector.catalogue.resolve(topic.symbol).symbol
    except MarketError:  # it cannot be had, as will be said
        return None
    return None if symbol in connector.symbols else (topic.exchange, symbol)


def error_frame(error: MarketError | Denied | InvalidParameters) -> bytes:
    # A problem's own `type` is a URI; a frame's says what kind of frame it is.
    return text_frame(msgspec.json.encode(msgspec.to_builtins(problem_of(error)) | {"type": "error"}))


def metered(outlet: Outlet, account: Account) -> Outlet:
    """The way out to a client, whose bytes are counted where that client has a limit of them."""
    return _Metered(outlet, account) if account.limits.egress_bytes_per_second else outlet


class _Metered:
    """A live stream cannot be slowed down: over the limit it ends, and what it missed is there when it comes back."""

    def __init__(self, outlet: Outlet, account: Account) -> None:
        self._outlet = outlet
        self._account = account

    def send(self, frame: bytes) -> None:
        self._outlet.send(frame)
        self._count(len(frame))

    async def write_texts(self, texts: Sequence[bytes]) -> None:
        await self._outlet.write_texts(texts)
        self._count(sum(map(len, texts)))

    def close(self, code: int, reason: str = "") -> None:
        self._outlet.close(code, reason)

    def _count(self, size: int) -> None:
        self._account.sent(size)
        try:
            self._account.check_egress()
        except RateLimited as error:
            self._outlet.send(error_frame(error))
            self._outlet.close(TOO_MUCH, error.code)
