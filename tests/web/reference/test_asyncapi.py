"""The AsyncAPI document says what the tables say, and what the running daemon really sends is what it describes."""

import re
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trio
import trio_websocket
from asyncapi3.models.asyncapi import AsyncAPI3
from jsonschema import Draft7Validator, FormatChecker
from pydantic import ValidationError
from quart_trio import QuartTrio
from referencing import Registry
from referencing.jsonschema import DRAFT7
from werkzeug.datastructures import MultiDict

from actors.connector import Connector
from actors.exchanges.binance import EXCHANGE
from actors.feeds import interest
from actors.feeds.everything import Everything
from actors.spikes import Spikes
from daemon.settings import OiVol, Streams
from tests.daemon.fixtures import MINUTE, START, World, eventually, world
from tests.patience import WITHIN
from tests.web.reference.test_openapi import get, never, resolve, within
from web.app import create_app
from web.reference import stream_words as words
from web.reference.asyncapi import COMMANDS, STREAM_OF, build_document, tag_of
from web.reference.words import CODES, FIELDS
from web.streams.commands import Ping, Subscribe, Unsubscribe
from web.streams.fanouts import Fanouts
from web.streams.memory import Memory
from web.streams.multiplex import ClientLimits
from web.streams.paths import catalog
from web.streams.topics import Sources, find_by_name, find_by_path

Json = dict[str, Any]
LIMITS, MEMORY = ClientLimits(topics=77, commands_per_second=11), Memory(frames=333, seconds=44)
KEYWORDS = {"type", "title", "description", "properties", "required", "additionalProperties", "not"}  # of an object


def sources(*, symbols: Iterable[str] = ("BTCUSDT",)) -> Sources:
    made = Connector(
        EXCHANGE,
        symbols=list(symbols),
        on_demand=True,
        rest_url="http://127.0.0.1:9",
        ws_url="ws://127.0.0.1:9",
        intervals=("1m", "1h"),
        large_trade_threshold_usd=100_000,
        supervise=never,
    )
    return sources_of({"binance": made} if symbols else {})


def sources_of(connectors: dict[str, Connector]) -> Sources:
    spikes = Spikes(connectors, timeframes=["5m", "1h"], window=96, threshold=3.0, symbols=(), supervise=never)
    return Sources(connectors, Everything(), spikes)


@pytest.fixture(scope="module")
def document() -> Json:
    built = build_document(sources(), LIMITS, MEMORY)
    return msgspec.json.decode(msgspec.json.encode(built), type=Json)


@pytest.fixture
async def app(nursery: trio.Nursery) -> QuartTrio:
    return create_app(Fanouts(nursery, never, sources(), MEMORY), cors_origins=[], client_limits=LIMITS)


def served(document: Json) -> Json:
    return document | {"servers": {"marketd": {"host": "localhost", "protocol": "ws"}}}


class Schemas:
    """The payload schemas of a document's messages."""

    def __init__(self, document: Json) -> None:
        self.document = document
        registry: Registry[Any] = Registry().with_resource("urn:document", DRAFT7.create_resource(document))
        self._validators = {
            name: Draft7Validator(
                {"$ref": f"urn:document#/components/messages/{name}/payload"},
                registry=registry,
                format_checker=FormatChecker(["date-time"]),
            )
            for name in document["components"]["messages"]
        }

    def payload(self, name: str) -> Json:
        found: Json = self.document["components"]["messages"][name]["payload"]
        return found

    def errors(self, name: str, frame: object) -> list[str]:
        return [error.message for error in self._validators[name].iter_errors(frame)]

    def name(self, operation: str, frame: Json) -> str:
        """The one message of an operation that a frame is, with no member that is not described."""
        refs = [ref["$ref"] for ref in self.document["operations"][operation]["messages"]]
        names: list[str] = [resolve(self.document, ref)["$ref"].rpartition("/")[2] for ref in refs]
        fitting = [name for name in names if not self.errors(name, frame)]
        told = {name: self.errors(name, frame) for name in names if name.endswith(str(frame.get("type")))}
        assert len(fitting) == 1, (operation, frame, fitting, told)
        assert frame.keys() <= self.payload(fitting[0])["properties"].keys(), (operation, frame)
        return fitting[0]


@pytest.fixture(scope="module")
def schemas(document: Json) -> Schemas:
    return Schemas(document)


# --- the document ---


@pytest.mark.parametrize("host", ["localhost:8000", "data.example", "[::1]:8000"])
async def test_it_is_served_and_names_the_server_that_was_asked(app: QuartTrio, document: Json, host: str) -> None:
    response = await app.test_client().get("/asyncapi.json", headers={"Host": host})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    told = msgspec.json.decode(await response.get_data(as_text=False), type=Json)
    AsyncAPI3.model_validate(told)
    (server,) = told.pop("servers").values()
    assert (server["host"], server["protocol"]) == (host, "ws")
    assert [place.get("name", "Authorization") for place in server["security"]] == [
        *("Authorization", "X-API-Key", "Sec-WebSocket-Protocol", "token"),
    ]
    assert told == document
    assert told["asyncapi"] == "3.0.0"


async def test_behind_tls_the_server_is_one(app: QuartTrio) -> None:
    response = await app.test_client().get("/asyncapi.json", scheme="https")
    told = msgspec.json.decode(await response.get_data(as_text=False), type=Json)
    assert told["servers"]["marketd"]["protocol"] == "wss"


def test_it_is_valid(document: Json) -> None:
    AsyncAPI3.model_validate(served(document))


def test_without_an_exchange_it_is_valid_too() -> None:
    built = build_document(sources(symbols=()), ClientLimits(), Memory())
    AsyncAPI3.model_validate(served(built))


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("", {"topics": {}}),
        ("channels/ws", {"frames": {}}),
        ("operations/send-ws", {"action": "publish"}),
        ("operations/send-ws/channel", {"ref": "#/channels/ws"}),
        ("channels/ohlc/parameters/symbol", {"schema": {}}),
        ("channels/ohlc/bindings/ws", {"path": "/"}),
        ("components/messages/ack", {"example": {}}),
    ],
)
def test_the_judge_would_notice(document: Json, path: str, wrong: Json) -> None:
    broken = msgspec.json.decode(msgspec.json.encode(served(document)))
    (resolve(broken, f"#/{path}") if path else broken).update(wrong)
    with pytest.raises(ValidationError):
        AsyncAPI3.model_validate(broken)


def references(value: Any) -> Iterator[str]:
    return (found["$ref"] for found in within(value) if isinstance(found.get("$ref"), str))


def test_every_reference_resolves_and_every_component_is_used(document: Json) -> None:
    refs = set(references(document))
    assert len(refs) > 60
    for ref in refs:
        assert isinstance(resolve(document, ref), dict)
    for section, components in document["components"].items():
        assert {f"#/components/{section}/{name}" for name in components} <= refs, section


def test_operations_have_messages_of_their_channels(document: Json) -> None:
    spoken = Counter[str]()
    for id, operation in document["operations"].items():
        for part in (operation, *([operation["reply"]] if "reply" in operation else [])):
            channel = part["channel"]["$ref"]
            assert channel.removeprefix("#/channels/") in document["channels"]
            refs = [message["$ref"] for message in part["messages"]]
            assert refs, id
            assert all(ref.rpartition("/")[0] == f"{channel}/messages" for ref in refs), id
            spoken.update(refs)
        assert ("reply" in operation) == (operation["action"] == "receive"), id
    # No message of a channel is without an operation.
    for id, channel in document["channels"].items():
        assert {f"#/channels/{id}/messages/{name}" for name in channel["messages"]} <= spoken.keys()


def test_there_is_a_channel_for_every_path_of_the_catalog(document: Json) -> None:
    entries = {entry.path: entry for entry in catalog(sources()).streams}
    channels = {channel["address"]: channel for channel in document["channels"].values()}
    assert channels.keys() == entries.keys()
    assert "/ws" in entries
    for path, channel in channels.items():
        entry = entries[path]
        assert list(channel.get("parameters", {})) == re.findall(r"{(\w+)}", path)
        if path == "/ws":
            assert list(channel["bindings"]["ws"]["query"]["properties"]) == ["batch_ms"]
            continue
        query = channel["bindings"]["ws"]["query"]
        assert (query["type"], query["additionalProperties"]) == ("object", False)
        assert list(query["properties"]) == entry.parameters
        fields = {field.name: field for field in msgspec.structs.fields(STREAM_OF[entry.event].query)}
        for name, said in query["properties"].items():
            assert said["default"] == fields[name].default
            assert said["description"]
            Draft7Validator.check_schema(said)
        assert entry.topic in channel["description"]
        assert entry.example in channel["description"]
        assert entry.event in channel["messages"]
    assert channels["/ws/{exchange}/{symbol}/ohlc"]["parameters"]["exchange"]["enum"] == ["binance"]
    query = channels["/ws/{exchange}/{symbol}/ohlc"]["bindings"]["ws"]["query"]
    assert query["properties"]["interval"]["enum"] == list(EXCHANGE.intervals)


def test_examples_of_paths_and_topics_work() -> None:
    made = sources()
    for entry in catalog(made).streams:
        if entry.path == "/ws":
            continue
        path, _, query = entry.example.partition("?")
        args = MultiDict(urllib.parse.parse_qsl(query))
        by_path = find_by_path(path, args, made)
        name = entry.topic.format(exchange="binance", symbol="BTCUSDT", interval="1m")
        assert find_by_name(name, made).topic == by_path.topic


def test_every_topic_is_named_where_topics_are_explained(document: Json) -> None:
    text = document["channels"]["ws"]["description"]
    for entry in catalog(sources()).streams:
        assert f"- `{entry.topic}`" in text or entry.path == "/ws"
    assert "`?min_value_usd=`" in text
    assert "`?timeframes=`" in text


def test_limits_are_those_in_force(document: Json) -> None:
    text = document["channels"]["ws"]["description"]
    assert "77 topics on one connection; 11 commands a second, and 22 at once" in text
    assert "The last 333 frames of each topic are remembered for 44 s" in text
    topics = document["components"]["messages"]["subscribe"]["payload"]["properties"]["topics"]
    assert (topics["minItems"], topics["maxItems"], topics["items"]["maxLength"]) == (1, 10_000, 200)


async def test_limits_are_those_in_force_after_a_reload(nursery: trio.Nursery) -> None:
    fanouts, limits = Fanouts(nursery, never, sources(), MEMORY), ClientLimits(topics=77, commands_per_second=11)
    app = create_app(fanouts, cors_origins=[], client_limits=limits)
    for topics, frames in ((77, 333), (78, 334)):
        limits.topics = topics
        fanouts.change(MEMORY._replace(frames=frames))
        _, _, body = await get(app, "/asyncapi.json")
        text = msgspec.json.decode(body)["channels"]["ws"]["description"]
        assert f"{topics} topics on one connection" in text
        assert f"The last {frames} frames" in text


def test_every_close_is_explained(document: Json) -> None:
    text = document["info"]["description"]
    assert {int(code) for code in re.findall(r"^- (\d{4}): \w", text, re.MULTILINE)} == words.CLOSES.keys()
    assert {1001, 1008, 1011, 1013} <= words.CLOSES.keys()  # those of the contract


def test_no_text_has_a_placeholder_left(document: Json) -> None:
    told = [found[name] for found in within(document) for name in ("description", "summary") if name in found]
    texts = [text for text in told if isinstance(text, str)]
    left = {place for text in texts for place in re.findall(r"{[^}]*}+", text)}
    assert left == {"{exchange}", "{symbol}", "{stream}", "{interval}"}  # of paths and topics
    assert all(texts)


# --- messages ---


def test_payloads_are_schemas_and_every_member_is_explained(document: Json, schemas: Schemas) -> None:
    messages = document["components"]["messages"]
    for name, message in messages.items():
        payload = message["payload"]
        Draft7Validator.check_schema(payload)
        assert payload.keys() <= KEYWORDS, name
        assert set(payload["required"]) <= payload["properties"].keys()
        assert payload["properties"].keys() & {"type", "op"}, name
        assert message["summary"], name
        assert ("correlationId" in message) == ("id" in payload["properties"]), name
        unsaid = [member for member, said in payload["properties"].items() if not said.get("description")]
        assert unsaid == [], name
    for name, schema in document["components"]["schemas"].items():
        Draft7Validator.check_schema(schema)
        assert [member for member, said in schema["properties"].items() if not said.get("description")] == [], name


def test_every_explanation_is_used(document: Json) -> None:
    used = {said["description"] for found in within(document) for said in found.get("properties", {}).values()}
    correlated = document["components"]["correlationIds"]["command"]["description"]
    assert set(words.FRAME_FIELDS.values()) <= used | {correlated}
    assert FIELDS["funding_rate"] in used


def test_times_are_times(schemas: Schemas) -> None:
    assert schemas.payload("gap")["properties"]["from"]["format"] == "date-time"
    (example,) = schemas.document["components"]["messages"]["ohlc"]["examples"]
    assert schemas.errors("ohlc", example["payload"]) == []
    assert schemas.errors("ohlc", example["payload"] | {"timestamp": "yesterday"}) != []


def test_every_message_has_an_example_that_is_that_message_alone(document: Json, schemas: Schemas) -> None:
    for name, message in document["components"]["messages"].items():
        assert message["examples"], name
        for example in message["examples"]:
            assert schemas.errors(name, example["payload"]) == [], name
            assert example["payload"].keys() <= message["payload"]["properties"].keys()
    for id, operation in document["operations"].items():
        for ref in operation["messages"]:
            message = resolve(document, resolve(document, ref["$ref"])["$ref"])
            for example in message["examples"]:
                assert resolve(document, ref["$ref"])["$ref"].endswith(f"/{schemas.name(id, example['payload'])}")


def test_examples_of_commands_are_commands(document: Json) -> None:
    decoder = msgspec.json.Decoder(Subscribe | Unsubscribe | Ping)
    for command in COMMANDS:
        message = document["components"]["messages"][tag_of(command)]
        for example in message["examples"]:
            assert isinstance(decoder.decode(msgspec.json.encode(example["payload"])), command)
    assert {type(said) for said in words.SAID} > COMMANDS.keys()


@pytest.mark.parametrize(
    "command",
    [
        b'{"op":"subscribe","topics":[]}',
        b'{"op":"subscribe","topics":["x"],"backfill":0}',
        b'{"op":"subscribe","topics":["x"],"backfill":1501}',
        b'{"op":"subscribe","topics":["x"],"since":{"x":{"epoch":"e"}}}',
        b'{"op":"subscribe","topics":["x"],"id":1.5}',
        b'{"op":"subscribe","topics":["x"],"more":1}',
        b'{"op":"subscribe","topics":["%b"]}' % (b"x" * 201),
        b'{"op":"unsubscribe"}',
        b'{"op":"ping","id":"%b"}' % (b"x" * 65),
    ],
)
def test_what_is_no_command_is_none_by_the_document_either(schemas: Schemas, command: bytes) -> None:
    frame = msgspec.json.decode(command)
    assert schemas.errors(frame["op"], frame) != []
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(command, type=Subscribe | Unsubscribe | Ping)


def test_codes_of_refusals_are_codes(document: Json) -> None:
    codes = re.findall(r"^- `(\w+)`", document["components"]["messages"]["error"]["description"], re.MULTILINE)
    assert set(codes) < CODES.keys()
    assert {"invalid_command", "too_many_topics", "unknown_symbol", "not_ready", "not_found"} <= set(codes)


async def test_the_pages_link_to_it(app: QuartTrio) -> None:
    for page in ("/docs", "/redoc"):
        _, _, body = await get(app, page)
        assert b'<a href="asyncapi.json">' in body


# --- what is really sent ---


class Socket:
    """A client of `/ws`."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self.frames: list[Json] = []

    async def say(self, **command: Any) -> None:
        await self._socket.send_message(msgspec.json.encode(command).decode())

    async def say_text(self, text: str) -> None:
        await self._socket.send_message(text)

    async def read(self) -> None:
        while True:
            self.frames.append(msgspec.json.decode(await self._socket.get_message()))

    async def first(self, **wanted: Any) -> Json:
        """The first frame that has these members."""
        found = await eventually(lambda: [*self.all(**wanted)], what=f"{wanted}, behind {self.frames[-3:]}")
        return found[0]

    def all(self, **wanted: Any) -> Iterator[Json]:
        return (frame for frame in self.frames if wanted.items() <= frame.items())


@asynccontextmanager
async def socket_of(w: World) -> AsyncIterator[Socket]:
    url = w.url.replace("http", "ws", 1) + "/ws"
    async with trio_websocket.open_websocket_url(url) as connection, trio.open_nursery() as nursery:
        socket = Socket(connection)
        nursery.start_soon(socket.read)
        yield socket
        nursery.cancel_scope.cancel()


async def described(w: World) -> Schemas:
    """The document that the daemon serves."""
    document = await w.get("/asyncapi.json")
    AsyncAPI3.model_validate(document)
    assert document["servers"]["marketd"]["host"] == w.url.removeprefix("http://")
    return Schemas(document)


async def test_every_frame_of_every_stream_is_the_one_that_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.05)
    monkeypatch.setattr(interest, "POLL_SHARE", 10)
    everything = OiVol(timeframes=("5m",), window=30, z_threshold=0.0)
    start = START + 4 * MINUTE  # 42 s before the end of five minutes
    seen = Counter[str]()
    async with world(start=start, oi_vol=everything) as w, AsyncExitStack() as stack:
        schemas = await described(w)
        paths = {
            id: channel["address"].format(exchange="binance", symbol="BTCUSDT") + "?status=1"
            for id, channel in schemas.document["channels"].items()
            if id != "ws"
        }
        streams = {id: await stack.enter_async_context(w.stream(path)) for id, path in paths.items()}
        for _ in range(3):
            w.sim.market.trade("BTC", side="buy", price="84000.10", quantity="2.000")
            w.sim.market.liquidate("BTC", side="sell", price="84000.10", quantity="2.000")
            await w.pass_time(15_000, step=500)
        await eventually(lambda: all(streams[id].of(type_of(id)) for id in streams), what="an event on each")
        w.sim.drop()
        w.sim.market.clock.advance(3 * MINUTE)
        w.sim.tick()
        await eventually(lambda: w.sim.connections_total == 2)
        await w.subscribed("btcusdt@aggTrade", "btcusdt@kline_1m")
        await w.pass_time(2000)
        await eventually(lambda: streams["ohlc"].of("gap"), what="bars lost and repaired")
        await eventually(lambda: streams["liquidations"].of("gap"), what="liquidations that may be missing")
        for id, stream in streams.items():
            for frame in stream.frames:
                seen[schemas.name(f"send-{id}", frame)] += 1
                assert "seq" not in frame
        for path in ("/ws/binance/BTCUSDT/ohlc?interval=9m", "/ws/nowhere/BTCUSDT/oi", "/ws/oi-vol?timeframes=9m"):
            frame, _, _ = await w.refused(path)
            seen[schemas.name("send-ohlc", frame)] += 1
    expected = {*STREAM_OF, "gap", "status", "error"}
    assert {name for name, count in seen.items() if count} == expected


def type_of(id: str) -> str:
    """The type of the events on a channel."""
    stream = id.removeprefix("all-")
    return next(type for type, made in STREAM_OF.items() if made.name == stream)


async def test_every_frame_of_many_topics_is_the_one_that_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "POLL_MIN", 0.05)
    monkeypatch.setattr(interest, "POLL_SHARE", 10)
    everything = OiVol(timeframes=("5m",), window=30, z_threshold=0.0)
    streams = Streams(intervals=("1m", "5m"), topics_per_client=8, commands_per_second=10)
    bar, trades = "binance:BTCUSDT:ohlc:1m", "binance:BTCUSDT:trades"
    others = [
        *(f"binance:BTCUSDT:{kind}" for kind in ("large_trades", "liquidations", "funding", "oi")),
        *("all:liquidations?min_value_usd=1000", "oi-vol"),
    ]
    start = START + 4 * MINUTE
    async with world(start=start, oi_vol=everything, streams=streams) as w, socket_of(w) as socket:
        schemas = await described(w)
        await socket.say(op="subscribe", id=1, topics=[trades, *others])
        await socket.first(type="ack", id=1)
        await socket.say(op="subscribe", id="bars", topics=[bar, "binance:NOPE:oi", "nowhere"], backfill=5)
        await socket.first(type="live", topic=bar)
        await socket.first(type="error", id="bars", topic="nowhere")
        await socket.say(op="subscribe", id=2, topics=["all:large_trades"])  # one too many
        await socket.first(type="error", id=2, code="too_many_topics")
        for _ in range(3):
            w.sim.market.trade("BTC", side="buy", price="84000.10", quantity="2.000")
            w.sim.market.liquidate("BTC", side="sell", price="84000.10", quantity="2.000")
            await w.pass_time(15_000, step=500)
        for topic in (bar, trades, *others):
            await eventually(lambda: any("seq" in frame for frame in socket.all(topic=topic)), what=topic)  # noqa: B023
        w.sim.drop()
        w.sim.market.clock.advance(3 * MINUTE)
        w.sim.tick()
        await eventually(lambda: w.sim.connections_total == 2)
        await w.subscribed("btcusdt@aggTrade", "btcusdt@kline_1m")
        await w.pass_time(2000)
        await socket.first(type="gap", topic=bar)
        await socket.first(type="status", topic=bar, state="live")

        last = next(frame for frame in reversed(socket.frames) if frame.get("topic") == trades and "seq" in frame)
        await socket.say(op="unsubscribe", id=3, topics=[trades, bar, "oi-vol?timeframes=5m"])
        await socket.first(type="ack", id=3)
        await socket.first(type="error", id=3)
        await socket.say(
            op="subscribe",
            topics=[trades, bar],
            since={trades: {"epoch": last["epoch"], "seq": last["seq"] - 2}, bar: {"epoch": "1-no", "seq": 1}},
        )
        await socket.first(type="gap", topic=bar, reason="resume_too_old")
        await socket.say_text("{not json")
        await socket.first(type="error", code="invalid_command")
        for number in range(40):  # more than may come at once, less than ends it
            await socket.say(op="ping", id=number)
        await socket.first(type="pong", id=0)
        await socket.first(type="error", code="too_many_commands")

        frames = list(socket.frames)
        told = [schemas.name("send-ws", frame) for frame in frames]
        sent = schemas.document["operations"]["send-ws"]["messages"]
        assert set(told) == {ref["$ref"].rpartition("/")[2] for ref in sent}
        assert told.count("past_ohlc") == 5
        for name, frame in zip(told, frames, strict=True):
            assert ("seq" in frame) == name.startswith("numbered_")


async def test_server_sent_events_hold_the_frames_of_many_topics() -> None:
    async with world() as w:
        schemas = await described(w)
        text = ""
        names = "binance:BTCUSDT:ohlc:1m,binance:BTCUSDT:trades"
        headers = {"Last-Event-ID": "1-no.1,1-no.1"}
        async with (
            httpx.AsyncClient(base_url=w.url, timeout=WITHIN) as client,
            client.stream("GET", "/sse", params={"topics": names}, headers=headers) as response,
        ):
            assert response.headers["content-type"] == "text/event-stream"
            await w.pass_time(3000)
            with trio.fail_after(WITHIN):
                async for part in response.aiter_text():
                    text += part
                    if '"type":"trade"' in text:
                        break
        frames = [msgspec.json.decode(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        assert {schemas.name("send-ws", frame) for frame in frames} == {"gap", "numbered_ohlc", "numbered_trade"}
