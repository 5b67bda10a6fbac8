"""What the clients of several nodes were told, looked at as it comes.

Whoever is told something under one (topic, epoch, seq) is told the same bytes; numbers have no holes unless the client
was told that it came too late; trades and closed bars come once. What is missing is found in the end, from the truth.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from typing import Any, NamedTuple

import msgspec
import trio
import trio_websocket

from actors.events import from_ms, ms
from actors.relay.takeover import lane_of, topic_named
from tests.benchmarks.truth import Truth

MOMENTS = ("trade", "large_trade", "liquidation")
ALL = "all:"  # how topics over everything begin
LATE = 60_000  # ms of the market, which is faster than time
QUIET = 0.3  # seconds of silence of a lane from which on it is noted
EARLIER = 1.0  # seconds before a fault in which a lane may have been heard last
ADMITTED = 2.0  # seconds that a node is given to take a client in
HUNG = 8.0  # seconds without a word after which a client comes anew
RETRY = 0.1  # seconds before a node that refused is asked again


class Frame(msgspec.Struct):
    type: str
    topic: str = ""
    exchange: str = ""
    symbol: str = ""
    epoch: str = ""
    seq: int | None = None
    timestamp: str = ""
    trade_id: int | str = ""
    is_closed: bool = False
    start: str = msgspec.field(name="from", default="")
    end: str = msgspec.field(name="to", default="")
    reason: str | None = None
    repaired: bool = False
    state: str = ""


_decode = msgspec.json.Decoder(Frame).decode


class Silence(NamedTuple):
    """Of one lane at one client, by Trio's clock."""

    lane: str
    began: float
    ended: float


class Ledger:
    """What stands under each number, whoever was told it."""

    def __init__(self) -> None:
        self._known: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self.numbers = 0

    def agrees(self, topic: str, epoch: str, seq: int, text: bytes) -> bool:
        known = self._known[topic, epoch]
        self.numbers += seq not in known
        return known.setdefault(seq, hash(text)) == hash(text)


class Heard:
    """All that one client was told. Every count of `faults` is to be zero."""

    def __init__(self, name: str, ledger: Ledger, lanes: int) -> None:
        self.name = name
        self.positions: dict[str, dict[str, Any]] = {}
        self.faults: Counter[str] = Counter()
        self.notes: list[str] = []
        self.silences: list[Silence] = []
        self.states: Counter[str] = Counter()  # told, with their reasons
        self.frames = 0
        self.latest = b""
        self.is_refused = False
        self.hung: list[tuple[float, int, str]] = []  # seconds and frames since it came, and the last of those
        self.began_anew = 0  # topics that were told so
        self.closed: defaultdict[str, dict[str, str]] = defaultdict(
            dict
        )  # by topic, open times of bars, with the epoch
        self.forced: defaultdict[str, defaultdict[int, list[str]]] = defaultdict(
            lambda: defaultdict(list)
        )  # by ms, the epoch of each
        self.gaps: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)  # announced losses, in ms
        self._ids: defaultdict[str, dict[tuple[str, str, int | str], str]] = defaultdict(dict)  # with the epoch
        self._large: dict[tuple[str, str, int | str], int] = {}  # in ms
        self._first: dict[str, str] = {}  # the time of the first event
        self._latest: dict[str, str] = {}
        self._is_anew: dict[str, str] = {}  # topics whose next number may be any: the time of the last event before
        self._ledger, self._lanes = ledger, lanes
        self._lane_of: dict[str, str] = {}
        self._spoke: dict[str, float] = {}  # by lane: when it was heard last

    def _fault(self, kind: str, note: str) -> None:
        self.faults[kind] += 1
        if self.faults[kind] <= 20:
            self.notes.append(f"{self.name}: {kind}: {note}")

    def disconnected(self) -> None:
        self._spoke.clear()

    def take(self, text: bytes) -> None:
        frame, now = _decode(text), trio.current_time()
        self.frames += 1
        self.latest = text
        if frame.type == "gap":
            self._take_gap(frame)
        elif frame.type == "status":
            self.states[f"{frame.state}: {frame.reason}"] += 1
        elif frame.seq is not None:
            if not frame.topic.startswith(ALL):
                self._note_lane(frame.topic, now)
            self._take_numbered(frame, frame.seq, text)
        elif frame.type == "error" and b'"not_ready"' in text:
            self.is_refused = True  # by one that has just begun: it says when to come again
            self.faults["not_ready_announced"] += 1
        elif frame.type == "error":
            self._fault("errors", text.decode())

    def _note_lane(self, topic: str, now: float) -> None:
        lane = self._lane_of.get(topic)
        if lane is None:
            named = topic_named(topic)
            lane = self._lane_of[topic] = f"{named.exchange}.{lane_of(named.symbol, self._lanes)}"
        before = self._spoke.get(lane, now)
        self._spoke[lane] = now
        if now - before > QUIET:
            self.silences.append(Silence(lane, before, now))

    def silence(self, since: float, until: float) -> Silence:
        """The longest that began then: of no lane where there was none."""
        found = [
            silence for silence in self.silences if since - EARLIER <= silence.began <= until and silence.ended > since
        ]
        found += [Silence(lane, at, until) for lane, at in self._spoke.items() if since - EARLIER <= at < until - QUIET]
        return max(found, key=lambda one: one.ended - one.began, default=Silence("", since, since))

    def _take_gap(self, frame: Frame) -> None:
        if frame.reason == "resume_too_old":
            self.began_anew += 1
            self._is_anew.setdefault(frame.topic, self._latest.get(frame.topic, ""))
        elif not frame.repaired:
            self.gaps[frame.topic].append((_ms(frame.start), _ms(frame.end)))

    def _take_numbered(self, frame: Frame, seq: int, text: bytes) -> None:
        topic, position = frame.topic, self.positions.get(frame.topic)
        is_begin = position is None or topic in self._is_anew
        self.positions[topic] = {"epoch": frame.epoch, "seq": seq}
        if position is None:
            self._first.setdefault(topic, frame.timestamp)
        elif topic in self._is_anew:
            if left := self._is_anew.pop(topic):
                earlier = LATE if topic.startswith(ALL) else 0  # another lane's may have come before
                self.gaps[topic].append((_ms(left) - earlier, _ms(frame.timestamp)))
        elif frame.epoch != position["epoch"]:
            self._fault("epoch_changed_in_silence", f"{topic}: {position} then {frame}")
        elif seq != position["seq"] + 1:
            self._fault("not_dense", f"{topic}: {position} then {frame}")
        self._latest[topic] = frame.timestamp
        if is_begin and frame.type not in MOMENTS:
            return  # the present: told before, perhaps, and not as an event
        if not self._ledger.agrees(topic, frame.epoch, seq, text):
            self._fault("different_bytes", text.decode())
        if frame.type in ("trade", "large_trade"):
            id = frame.exchange, frame.symbol, frame.trade_id
            known = self._ids[topic].get(id)
            self._ids[topic][id] = frame.epoch
            if frame.type == "large_trade":
                self._large[id] = _ms(frame.timestamp)
            if known == frame.epoch:
                self._fault("trades_twice", text.decode())
            elif known is not None:  # the server forgot, and the client was told to begin anew
                self.faults["again_in_new_epoch_announced"] += 1
        elif frame.type == "liquidation":
            self.forced[topic][_ms(frame.timestamp)].append(frame.epoch)
        elif frame.is_closed:
            known = self.closed[topic].get(frame.timestamp)
            self.closed[topic][frame.timestamp] = frame.epoch
            if known == frame.epoch:
                self._fault("bars_twice", text.decode())
            elif known is not None:
                self.faults["again_in_new_epoch_announced"] += 1

    # --- in the end

    def _is_announced(self, topic: str, at: int) -> bool:
        return any(start <= at <= end for start, end in self.gaps[topic])

    def _miss(self, kind: str, topic: str, at: int, what: object) -> None:
        if self._is_announced(topic, at):
            self.faults[f"{kind}_announced"] += 1
        else:
            self._fault(kind, f"{topic}: {what} of {from_ms(at)}")

    def compare(self, topic: str, truth: Truth, bars: dict[str, list[dict[str, Any]]]) -> None:
        """What of a topic was not told. `bars`: closed ones of the exchange, by interval."""
        if topic not in self._first:
            self._fault("silent_topics", topic)
            return
        first, last = _ms(self._first[topic]), _ms(self._latest[topic])
        kind = topic_named(topic)
        if kind.kind == "trades":
            for id, at in truth.trades.items():
                if first < at < last and (kind.exchange, kind.symbol, id) not in self._ids[topic]:
                    self._miss("trades_lost", topic, at, id)
        elif kind.kind == "liquidations":
            for at, count in Counter(truth.liquidations).items():
                told = self.forced[topic][at]
                if first < at < last and len(told) < count:
                    self._miss("liquidations_lost", topic, at, f"{count} were told in {told}")
                elif max(Counter(told).values(), default=0) > count:
                    self._miss("liquidations_twice", topic, at, f"{count} were told in {told}")
                elif len(told) > count:
                    self.faults["again_in_new_epoch_announced"] += 1
        elif kind.interval is not None and self.closed[topic]:
            times = sorted(self.closed[topic])
            for bar in bars[kind.interval]:
                if times[0] < bar["timestamp"] < times[-1] and bar["timestamp"] not in self.closed[topic]:
                    self._miss("bars_missing", topic, _ms(bar["timestamp"]), "a bar")

    def compare_all(self, topic: str) -> None:
        """Large trades over everything are those of single symbols, where a client was told of both all the while."""
        if topic not in self._first:
            self._fault("silent_topics", topic)
            return
        for id, at in self._large.items():
            own = f"{id[0]}:{id[1]}:large_trades"
            if own not in self._first:
                continue
            first = max(_ms(self._first[topic]), _ms(self._first[own]))
            last = min(_ms(self._latest[topic]), _ms(self._latest[own]))
            if first < at < last - LATE:
                if id not in self._ids[topic]:
                    self._miss("shared_lost", topic, at, id)
                elif id not in self._ids[own]:
                    self._miss("shared_alone", own, at, id)


def _ms(timestamp: str) -> int:
    return ms(datetime.fromisoformat(timestamp))


async def follow(url: Callable[[], str], topics: Sequence[str], heard: Heard, stay: float | None = None) -> None:
    """A client that comes back with `since` whenever it is cut off. `stay`: seconds until it leaves by itself."""
    while True:
        try:
            with trio.move_on_after(stay or inf), trio.move_on_after(ADMITTED) as admission:
                # The library's own limit waits for the end of a connection that it gave up (0.12): a node that thaws
                # shakes hands late, and then holds a client that asks for nothing for a minute.
                async with trio_websocket.open_websocket_url(
                    f"{url()}/ws", message_queue_size=10_000, connect_timeout=inf, disconnect_timeout=0.1
                ) as socket:
                    admission.deadline = inf
                    await _listen(socket, topics, heard)
        except (OSError, trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
            await trio.sleep(RETRY)
        heard.disconnected()


async def _listen(socket: trio_websocket.WebSocketConnection, topics: Sequence[str], heard: Heard) -> None:
    """Until nothing comes, or we are told to come again."""
    command = {"op": "subscribe", "topics": topics, "since": heard.positions}
    await socket.send_message(msgspec.json.encode(command).decode())
    begun, since = trio.current_time(), heard.frames
    while True:
        with trio.move_on_after(HUNG) as waiting:
            text = await socket.get_message()
        if waiting.cancelled_caught:
            lasted = round(trio.current_time() - begun, 1)
            heard.hung.append((lasted, heard.frames - since, heard.latest[-300:].decode()))
            return
        heard.take(text.encode() if isinstance(text, str) else text)
        if heard.is_refused:
            heard.is_refused = False
            await trio.sleep(RETRY)
            return
