"""An engine on a Redis or Valkey server, by coredis; only this and `clients` know it, and nobody imports it unasked.

coredis repeats no command here: an answer that was lost is the caller's to ask for again, since only the caller knows
what that would do. Its failures come singly or in groups, out of its pool; outwards they are one EngineAway.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import msgspec
import structlog
import trio
from anyio import BrokenResourceError, ClosedResourceError
from coredis import Redis
from coredis.commands.script import Script
from coredis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    UnknownCommandError,
)
from coredis.retry import NoRetryPolicy

from actors.engine import scripts
from actors.engine.clients import Clients, Own
from actors.engine.words import (
    ALL,
    CLOSED_BAR,
    EPOCH,
    LOG_SECONDS,
    PRESENT,
    Burst,
    EngineAway,
    EngineFull,
    EngineUnfit,
    Entry,
    Fenced,
    Kept,
    Lease,
    Mark,
    Member,
    Present,
    Refused,
    RolledBack,
    Share,
    Told,
    has_number_within,
)

PATIENCE = 2.0  # seconds until an answer is taken for lost
PAGE = 200  # bursts of a memory that are asked for at once
OLDEST = (6, 2)  # the first servers that trim a stream by time
LOG_MS = str(int(LOG_SECONDS * 1000))

T = TypeVar("T")

log = structlog.get_logger()

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


class RemoteEngine:
    """To be had by `open_engine`. `prefix`: of every key."""

    def __init__(self, clients: Clients, prefix: str, kept: Kept, patience: float) -> None:
        self._clients = clients
        self._idle: list[Own] = []
        self._prefix = prefix
        self._patience = patience
        self._kept = str(int(kept.seconds * 1000)), str(kept.bursts), str(kept.bars)
        script = clients.current.register_script
        self._take, self._hold, self._say = map(script, (scripts.TAKE, scripts.HOLD, scripts.SAY))
        self._share = script(scripts.SHARE)
        self._renew, self._present, self._recall = map(script, (scripts.RENEW, scripts.PRESENT, scripts.RECALL))
        self._holders = script(scripts.HOLDERS)
        self._write_bars, self._want, self._refuse = map(script, (scripts.WRITE_BARS, scripts.WANT, scripts.REFUSE))
        self._bars_since = script(scripts.BARS_SINCE)

    @property
    def _client(self) -> "Redis[bytes]":
        return self._clients.current

    async def check(self, lanes: int) -> int:
        found = await self._about()
        version, policy = str(found.get("redis_version", "")), found.get("maxmemory_policy")
        if not version or policy is None:
            raise EngineUnfit("the server does not say that it is a Redis or Valkey, nor how it is set up")
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise EngineUnfit(f"the server speaks Redis {version}: 6.2 or newer is needed")
        if found.get("cluster_enabled"):  # one step may be many lanes', each of which is in a slot of its own
            raise EngineUnfit("the server is one of a cluster: one server is needed, or a primary with replicas")
        if policy != "noeviction":
            raise EngineUnfit(f"the server's maxmemory-policy is {policy}: it would lose events; set noeviction")
        if found.get("aof_enabled") == 0:
            log.warning("engine.keeps_nothing", reason="the server has no append-only file: it ends and forgets all")
        key = f"{self._prefix}:lanes"
        await self._asked(lambda: self._client.setnx(key, str(lanes)))
        return int(await self._asked(lambda: self._client.get(key)) or lanes)

    async def _about(self) -> dict[str, Any]:
        """What the server says of itself. Raises EngineAway, EngineUnfit."""
        try:
            return dict(await self._asked(lambda: self._client.info()))
        except EngineAway as error:
            if isinstance(error.__cause__, UnknownCommandError):
                raise EngineUnfit("the server is older than Redis 6: 6.2 or newer is needed") from None
            raise

    async def take(self, lane: str, name: str, seconds: float, epoch: str) -> Lease | None:
        token = await self._run(self._take, lane, name, _ms(seconds), epoch)
        return None if token is None else Lease(lane, token.decode())

    async def hold(self, lease: Lease, seconds: float) -> None:
        if not await self._run(self._hold, lease.lane, lease.token, _ms(seconds)):
            raise Fenced(f"{lease.lane} is no longer led by {lease.token}")

    async def release(self, lease: Lease) -> None:
        await self._run(self._hold, lease.lane, lease.token, "0")

    async def say(self, bursts: Mapping[Lease, Burst]) -> Mapping[Lease, Refused]:
        keys: list[str] = []
        said: list[str | bytes] = [LOG_MS, *self._kept]
        for lease, burst in bursts.items():
            keys.append(f"{self._prefix}:{{{lease.lane}}}")
            said += [lease.token, str(burst.n), *_in_topics(burst)]
        with self._owning() as own:
            answers = await self._asked(lambda: own.run(self._say, keys, said))
        refused: dict[Lease, Refused] = {}
        for (lease, burst), answer in zip(bursts.items(), answers, strict=True):
            if answer == -1:
                refused[lease] = Fenced(f"{lease.lane} is no longer led by {lease.token}")
            elif answer == -2:
                refused[lease] = RolledBack(f"{lease.lane} does not end at {burst.n - 1}")
        return refused

    async def share(self, shares: Sequence[Share], known: Mark) -> Mark:
        sources: dict[tuple[str, str], int] = {}
        said: list[str | bytes] = []
        for share in shares:
            source = sources.setdefault((share.lane, share.epoch), len(sources) + 1)
            said += [str(source), str(share.n), *_in_parts(share.entry)]
        keys = [f"{self._prefix}:{{{lane}}}" for lane in (ALL, *(lane for lane, _ in sources))]
        about = [LOG_MS, *self._kept[:2], known.epoch, str(known.n), *(epoch for _, epoch in sources)]
        with self._owning() as own:
            ours, n, agrees = await self._asked(lambda: own.run(self._share, keys, [*about, *said]))
        if not agrees:
            raise RolledBack(f"{ALL} ends at {ours.decode()}, {n}, not at {known.epoch}, {known.n}")
        return Mark(ours.decode(), n)

    async def renew(self, lane: str, old: str, new: str) -> None:
        said = _encode([Entry("", EPOCH, None, b'"%b"' % new.encode())])
        keys = [f"{self._prefix}:{{{one}}}" for one in (lane, ALL)]
        arguments: list[str | bytes] = [old, new, LOG_MS, said]
        await self._asked(lambda: self._renew(keys=keys, args=arguments, client=self._client))

    async def present(self, lane: str) -> Present:
        epoch, holder, at_ms, numbers, now, closed = await self._run(self._present, lane)
        seqs = {topic.decode(): int(seq) for topic, seq in _pairs(numbers)}
        n, ms = seqs.pop("n", 0), seqs.pop("ms", 0)
        return Present(
            *(epoch.decode(), f"{ms}-{n}", n, at_ms, holder.decode() or None, seqs),
            {topic.decode(): text for topic, text in _pairs(now)},
            {topic.decode(): int(open_ms) for topic, open_ms in _pairs(closed)},
        )

    async def holders(self, lanes: Sequence[str]) -> Mapping[str, tuple[str, float]]:
        keys = [self._key(lane, "lease") for lane in lanes]
        found: Any = await self._asked(lambda: self._holders(keys=keys, client=self._client))
        return {lane: (token.decode(), left / 1000) for lane, (token, left) in zip(lanes, found, strict=True) if token}

    async def tail(self, lane: str, behind: str = "0-0", count: int | None = None) -> Sequence[Told]:
        key = self._key(lane, "log")
        return _told(await self._asked(lambda: self._client.xrange(key, start=f"({behind}", count=count)))

    async def read(self, places: Mapping[str, str], seconds: float) -> Mapping[str, Sequence[Told]]:
        lanes = {self._key(lane, "log"): lane for lane in places}
        behind = [str(int(seconds * 1000) or 1), "STREAMS", *lanes, *places.values()]
        with self._owning() as own:
            found = await self._asked(lambda: own.ask(b"XREAD", b"BLOCK", *behind), self._patience + seconds)
        return {
            lanes[key.decode()]: [Told(id.decode(), _decode(fields[1])) for id, fields in entries]
            for key, entries in (found or {}).items()
        }

    async def recall(self, lane: str, topic: str, behind: int = 0) -> tuple[int, Sequence[Told]]:
        found: list[Told] = []
        while True:
            place = f"({found[-1].place}" if found else "+"
            at_ms, entries = await self._run(self._recall, lane, topic, place, str(PAGE))
            page = [Told(id.decode(), _decode(fields[1])) for id, fields in entries]
            found += page
            if len(page) < PAGE or has_number_within(page, behind):
                return at_ms, found[::-1]

    async def write_bars(self, lease: Lease, topic: str, bars: Mapping[int, bytes]) -> None:
        kept = sorted(bars.items())[-int(self._kept[2]) :]
        rows = [value for open_ms, text in kept for value in (str(open_ms), text)]
        if not await self._run(self._write_bars, lease.lane, lease.token, topic, *rows):
            raise Fenced(f"{lease.lane} is no longer led by {lease.token}")

    async def bars_since(self, lane: str, topics: Sequence[str]) -> Mapping[str, int]:
        found = await self._run(self._bars_since, lane, *topics)
        return {topic: int(id.partition(b"-")[0]) for topic, id in zip(topics, found, strict=True) if id}

    async def bars(self, lane: str, topic: str) -> Sequence[bytes]:
        key = self._key(lane, f"bars:{topic}")
        found: Any = await self._asked(lambda: self._client.xrange(key))
        return [entry.field_values[b"d"] for entry in found][-int(self._kept[2]) :]

    async def want(self, exchange: str, topics: Iterable[str], seconds: float) -> None:
        await self._asked(
            lambda: self._want(keys=[self._wants(exchange)], args=[_ms(seconds), *topics], client=self._client)
        )

    async def wanted(self, exchange: str) -> Sequence[str]:
        found: Any = await self._asked(
            lambda: self._want(keys=[self._wants(exchange)], args=["0"], client=self._client)
        )
        return [topic.decode() for topic in found]

    async def refuse(self, exchange: str, topic: str, reason: str, seconds: float) -> None:
        keys, arguments = [f"{self._prefix}:refused:{exchange}"], [_ms(seconds), topic, reason]
        await self._asked(lambda: self._refuse(keys=keys, args=arguments, client=self._client))

    async def refused(self, exchange: str) -> Mapping[str, str]:
        keys = [f"{self._prefix}:refused:{exchange}"]
        found: Any = await self._asked(lambda: self._refuse(keys=keys, client=self._client))
        return {topic.decode(): reason.decode() for topic, reason in _pairs(found)}

    async def write_catalogue(self, exchange: str, text: bytes) -> None:
        await self._asked(lambda: self._client.set(self._catalogue(exchange), text))

    async def catalogue(self, exchange: str) -> bytes | None:
        return await self._asked(lambda: self._client.get(self._catalogue(exchange)))

    async def announce(self, member: Member, seconds: float) -> None:
        text = msgspec.json.encode(member)
        await self._asked(lambda: self._client.set(self._node(member.name), text, px=int(seconds * 1000)))
        await self._asked(lambda: self._want(keys=[self._nodes], args=[_ms(seconds), member.name], client=self._client))

    async def withdraw(self, name: str) -> None:
        await self._asked(lambda: self._client.zrem(self._nodes, [name]))
        await self._asked(lambda: self._client.delete([self._node(name)]))

    async def members(self) -> Sequence[Member]:
        names: Any = await self._asked(lambda: self._want(keys=[self._nodes], args=["0"], client=self._client))
        if not names:
            return []
        keys = [self._node(name) for name in sorted(name.decode() for name in names)]
        texts = await self._asked(lambda: self._client.mget(keys))
        return [msgspec.json.decode(text, type=Member) for text in texts if text]

    @property
    def _nodes(self) -> str:
        return f"{self._prefix}:nodes"

    def _node(self, name: str) -> str:
        return f"{self._prefix}:node:{name}"

    def _catalogue(self, exchange: str) -> str:
        return f"{self._prefix}:catalogue:{exchange}"

    def _wants(self, exchange: str) -> str:
        return f"{self._prefix}:want:{exchange}"

    def _key(self, lane: str, what: str) -> str:
        return f"{self._prefix}:{{{lane}}}:{what}"

    async def _run(self, script: Script[bytes], lane: str, *arguments: str | bytes) -> Any:
        keys = [f"{self._prefix}:{{{lane}}}"]
        return await self._asked(lambda: script(keys=keys, args=arguments, client=self._client))

    @contextmanager
    def _owning(self) -> Iterator[Own]:
        """A connection that nobody else asks meanwhile."""
        own = self._idle.pop() if self._idle else Own(self._clients)
        try:
            yield own
        finally:
            self._idle.append(own)

    async def _asked(self, ask: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
        """The answer. Raises EngineAway."""
        try:
            with self._clients.using(), trio.fail_after(self._patience if patience is None else patience):
                return await ask()
        except* (RedisError, OSError, trio.TooSlowError, ClosedResourceError, BrokenResourceError) as group:
            failure = _first(group)
        await trio.lowlevel.checkpoint_if_cancelled()  # it is no failure that nobody waits for the answer any more
        raise _as_ours(failure) from failure


@asynccontextmanager
async def open_engine(url: str, prefix: str, kept: Kept, *, patience: float = PATIENCE) -> AsyncIterator[RemoteEngine]:
    """The engine at `url`, reachable or not. `patience`: seconds until an answer is taken for lost."""

    def make() -> "Redis[bytes]":
        return Redis.from_url(url, verify_version=False, retry_policy=NoRetryPolicy(), connect_timeout=patience)

    async with trio.open_nursery() as nursery:
        clients = Clients(make, nursery)
        await clients.open()
        try:
            yield RemoteEngine(clients, prefix, kept, patience)
        finally:
            clients.close()


def _as_ours(failure: BaseException) -> EngineAway:
    text = str(failure) or type(failure).__name__
    match failure:
        case trio.TooSlowError():
            return EngineAway("no answer in time")
        case AuthenticationError():
            return EngineAway(f"the server refuses us: {text}")
        case BusyLoadingError() | ReadOnlyError():
            return EngineAway(f"the server is not ready: {text}")
        case ResponseError() if "OOM" in text:
            return EngineFull("the server has no memory left")
        case ConnectionError() | OSError():  # whose texts name the address
            return EngineAway("no connection to the server")
    return EngineAway(text)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _in_topics(burst: Burst) -> list[str | bytes]:
    """A burst as SAY takes it: the whole, and each topic's part."""
    topics: dict[str, list[Entry]] = {}
    for entry in burst.entries:
        topics.setdefault(entry.topic, []).append(entry)
    found: list[str | bytes] = [_encode([*burst.entries]), str(len(topics))]
    for topic, entries in topics.items():
        seq, present = "", b""
        for entry in entries:
            if entry.seq is not None:
                seq = str(entry.seq)
            if entry.type in PRESENT:
                present = entry.text
        opens = burst.closed.get(topic, ())
        found += [topic, _encode(entries), seq, present, str(len(opens))]
        texts = [entry.text for entry in entries if entry.text.endswith(CLOSED_BAR)] if opens else []
        for open_ms, text in zip(opens, texts, strict=True):
            found += [str(open_ms), text]
    return found


def _in_parts(entry: Entry) -> tuple[str | bytes, ...]:
    """An entry as SHARE takes it, which packs the number between the two parts."""
    topic, type, seq, text = entry
    before = b"\x94" + _encode(topic) + _encode(type)  # a list of four
    return topic, "" if seq is None else "1", before, _encode(text)


def _told(entries: Any) -> list[Told]:
    return [Told(entry.identifier.decode(), _decode(entry.field_values[b"d"])) for entry in entries]


def _pairs(values: Any) -> list[tuple[bytes, bytes]]:
    return list(values.items()) if isinstance(values, dict) else list(zip(values[::2], values[1::2], strict=True))


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))
