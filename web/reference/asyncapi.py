"""The AsyncAPI document, built from the tables that the app serves: streams, query structs, events, commands.

As in `web.reference.openapi`, nothing is said here that a table says already; here is only how it is written as
AsyncAPI 3.0. The server is the application that is described: it sends events and receives commands.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio

from actors.events import Event, Gap, Ohlc, Status, Topic
from web.parameters import SocketQuery
from web.problems import Problem
from web.reference import stream_words as words
from web.reference.openapi import choices_of, explain_fields, query_parameters, samples_of
from web.reference.words import CODES, FIELDS, PARAMETERS
from web.rest.state import VERSION
from web.streams.commands import NAME_LENGTH, Ack, Live, Ping, Pong, Subscribe, Unsubscribe
from web.streams.fanouts import Fanouts
from web.streams.memory import Memory
from web.streams.multiplex import SOCKET, ClientLimits
from web.streams.paths import ALLOWANCE, ALLOWANCE_PER_SECOND, StreamEntry, catalog
from web.streams.topics import NOT_IN_NAMES, SPIKES, STREAMS, Sources

Json = dict[str, Any]

COMMANDS: dict[type[Struct], list[str]] = {
    Subscribe: ["ack", "error"],
    Unsubscribe: ["ack", "error"],
    Ping: ["pong", "error"],
}
"""What each is answered with."""
PAST = "past_ohlc"
OF_HTTP_ALONE = {"method_not_allowed", "upgrade_required", "forbidden_origin", "internal_error"}
"""Codes that no frame has."""
SECURITY: list[Json] = [
    {"type": "http", "scheme": "bearer"},
    {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
    {"type": "httpApiKey", "in": "header", "name": "Sec-WebSocket-Protocol"},
    {"type": "httpApiKey", "in": "query", "name": "token"},
]
"""Each is a place for a key; `words.KEYS` says how."""
STREAM_OF = {stream.event.type: stream for stream in (*STREAMS.values(), SPIKES)}


def add_asyncapi(app: QuartTrio, fanouts: Fanouts, limits: ClientLimits, *, root_path: str = "") -> None:
    """Serve the document at /asyncapi.json; the server that it names is the one that was asked for it.

    It is built when it is asked for, and again where the configuration has become another.
    """
    document: Json = {}
    built_for: object = None

    @app.get("/asyncapi.json")
    async def asyncapi() -> Response:
        nonlocal document, built_for
        wanted_for = replace(limits), fanouts.memory, catalog(fanouts.sources)
        if wanted_for != built_for:
            document, built_for = build_document(fanouts.sources, limits, fanouts.memory), wanted_for
        server: Json = {"host": request.host or "localhost", "protocol": "wss" if request.scheme == "https" else "ws"}
        server["description"] = words.KEYS
        server["security"] = SECURITY
        if root_path:
            server["pathname"] = root_path
        body = msgspec.json.encode(document | {"servers": {"marketd": server}})
        return Response(body, content_type="application/json", headers={"Cache-Control": "no-cache"})


def build_document(sources: Sources, limits: ClientLimits, memory: Memory) -> Json:
    """The document for these connectors and limits, but for its servers."""
    messages, schemas = build_messages()
    entries = catalog(sources).streams
    channels: Json = {}
    operations: Json = {}
    for entry in entries:
        id = "-".join(part for part in entry.path.strip("/").split("/")[1:] if "{" not in part) or "ws"
        if entry.path == SOCKET:
            channels[id] = socket_channel(entries, limits, memory)
            operations |= socket_operations(id, list(channels[id]["messages"]))
        else:
            channels[id] = stream_channel(entry, sources)
            operations[f"send-{id}"] = operation("send", id, list(channels[id]["messages"]), entry.summary)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "marketd",
            "version": VERSION,
            "description": words.ABOUT + "".join(f"\n- {code}: {meaning}" for code, meaning in words.CLOSES.items()),
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas,
            "correlationIds": {
                "command": {"description": words.FRAME_FIELDS["id"], "location": "$message.payload#/id"},
            },
        },
    }


# --- channels and operations ---


def stream_channel(entry: StreamEntry, sources: Sources) -> Json:
    """The path of one topic's own stream."""
    choices = choices_of(sources)
    samples = samples_of(sources, choices)
    places = {name: place(name, choices, samples) for name in re.findall(r"{(\w+)}", entry.path)}
    return {
        "address": entry.path,
        "summary": entry.summary,
        "description": words.STREAM.format(
            topic=entry.topic,
            example=entry.example,
            allowance=ALLOWANCE,
            allowance_per_second=ALLOWANCE_PER_SECOND,
        ),
        "messages": references("components/messages", [entry.event, "status", "gap", "error"]),
        **({"parameters": places} if places else {}),
        "bindings": query_binding(STREAM_OF[entry.event].query, choices),
    }


def query_binding(query: type[Struct], choices: Mapping[str, list[str]]) -> Json:
    """The parameters that a path takes."""
    properties = {
        said["name"]: said["schema"] | {"description": said["description"]} for said in query_parameters(query, choices)
    }
    return {
        "ws": {"method": "GET", "query": {"type": "object", "properties": properties, "additionalProperties": False}}
    }


def place(name: str, choices: Mapping[str, list[str]], samples: Mapping[str, str]) -> Json:
    """One parameter of an address."""
    return {
        "description": PARAMETERS[name],
        **({"enum": choices[name]} if choices.get(name) else {}),
        **({"examples": [samples[name]]} if name in samples else {}),
    }


def socket_channel(entries: Sequence[StreamEntry], limits: ClientLimits, memory: Memory) -> Json:
    """The path of many topics."""
    topics = [entry for entry in entries if entry.path != SOCKET]
    names = [
        *map(tag_of, COMMANDS),
        *("ack", "error", "pong"),
        *map(numbered, STREAM_OF),
        *(PAST, "live", "gap", "status"),
    ]
    (socket,) = (entry for entry in entries if entry.path == SOCKET)
    return {
        "address": SOCKET,
        "summary": socket.summary,
        "description": words.SOCKET.format(
            topics=words.TOPICS.format(name_length=NAME_LENGTH),
            names="\n".join(_named(entry) for entry in topics),
            frames=memory.frames,
            seconds=memory.seconds,
            topic_limit=limits.topics,
            commands=limits.commands_per_second,
            burst=2 * limits.commands_per_second,
        ),
        "messages": references("components/messages", names),
        "bindings": query_binding(SocketQuery, {}),
    }


def _named(entry: StreamEntry) -> str:
    """A topic's name, what is in it, and what may be asked of it."""
    taken = [name for name in entry.parameters if name not in ("interval", *NOT_IN_NAMES)]
    query = f", with `?{taken[0]}=` where wanted" if taken else ""
    return f"- `{entry.topic}`{query}: {entry.summary}."


def socket_operations(channel: str, messages: Sequence[str]) -> Json:
    """What a client commands and is answered, and what it is sent without asking each time."""
    commands = {tag_of(command): command for command in COMMANDS}
    sent = [name for name in messages if name not in commands]
    found = {
        f"receive-{name}": operation("receive", channel, [name], words.COMMANDS[command])
        | {
            "reply": {
                "channel": {"$ref": f"#/channels/{channel}"},
                "messages": list(references(f"channels/{channel}/messages", COMMANDS[command]).values()),
            }
        }
        for name, command in commands.items()
    }
    return found | {f"send-{channel}": operation("send", channel, sent, words.SENT)}


def operation(action: str, channel: str, messages: Sequence[str], summary: str) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": list(references(f"channels/{channel}/messages", messages).values()),
    }


def references(section: str, names: Sequence[str]) -> Json:
    return {name: {"$ref": f"#/{section}/{name}"} for name in names}


# --- messages ---


def build_messages() -> tuple[Json, Json]:
    """Every message by its name, and the schemas within them that have names of their own."""
    kinds: list[type[Struct]] = [
        *(stream.event for stream in STREAM_OF.values()),
        Gap,
        Status,
        Problem,
        *COMMANDS,
        Ack,
        Pong,
        Live,
    ]
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    explain_fields(kinds, schemas, FIELDS | words.FRAME_FIELDS)
    schema_of = {kind: schemas.pop(kind.__name__) for kind in kinds}
    topic: Json = {"topic": {"type": "string", "description": words.FRAME_FIELDS["topic"]}}
    number: Json = {
        "epoch": {"type": "string", "description": words.FRAME_FIELDS["epoch"]},
        "seq": {"type": "integer", "minimum": 0, "description": words.FRAME_FIELDS["seq"]},
    }
    messages: Json = {}
    for event in words.EVENTS:
        summary = STREAM_OF[event.type].summary
        payload = frame(schema_of[type(event)], event.type)
        messages[event.type] = message(summary, payload, [example(event)])
        payload = frame(schema_of[type(event)], event.type, **topic, **number)
        sample = example(event, topic=name_of(event), epoch=words.EPOCH, seq=words.SEQ)
        messages[numbered(event.type)] = message(f"{summary}: {words.NUMBERED}", payload, [sample])
    payload = frame(schema_of[Ohlc], Ohlc.type, **topic) | {"not": {"required": ["seq"]}}  # which the open bar has
    messages[PAST] = message(words.PAST, payload, [example(words.PAST_BAR, topic=words.BAR_TOPIC)])
    for said in (words.GAP, words.STATUS):
        payload = frame(schema_of[type(said)], said.type, **topic)
        messages[said.type] = message(payload["description"], payload, [example(said, topic=words.BAR_TOPIC)])
    spoken: list[type[Struct]] = [*COMMANDS, Ack, Pong, Live]
    for kind in spoken:
        payload = frame(schema_of[kind], tag_of(kind), field="op" if kind in COMMANDS else "type")
        told = [msgspec.to_builtins(said) for said in words.SAID if isinstance(said, kind)]
        messages[tag_of(kind)] = message(payload["description"], payload, told)
    messages["error"] = refusal(schema_of[Problem], {"id": schema_of[Ack]["properties"]["id"]} | topic)
    return messages, schemas


def frame(schema: Json, tag: str, *, field: str = "type", **head: Json) -> Json:
    """The schema of a struct in a frame: in front of its members what it is, and what is said of it."""
    members = {name: said for name, said in schema["properties"].items() if name != field}
    required = [name for name in schema["required"] if name != field]
    kind = {field: {"const": tag, "description": words.FRAME_FIELDS[field]}}
    return schema | {"properties": kind | head | members, "required": [field, *head, *required]}


def refusal(schema: Json, about: Json) -> Json:
    """The message of a problem; on /ws it says what it is `about`, on the path of a stream that is plain."""
    payload = frame(schema, "error")
    payload["properties"] |= about
    told = msgspec.to_builtins(words.REFUSAL) | {"type": "error"}
    examples = [told | {"exchange": "binance", "symbol": "BTCUSDT"}, told | {"id": 1, "topic": words.BAD_TOPIC}]
    codes = "\n".join(f"- `{code}`: {CODES[code]}" for code in CODES if code not in OF_HTTP_ALONE)
    return message(words.ERROR, payload, examples) | {"description": f"Its codes:\n\n{codes}"}


def message(summary: str, payload: Json, examples: Sequence[Json]) -> Json:
    correlated = {"correlationId": {"$ref": "#/components/correlationIds/command"}}
    return {
        "summary": summary,
        **(correlated if "id" in payload["properties"] else {}),
        "payload": payload,
        "examples": [{"payload": said} for said in examples],
    }


def example(said: Event | Status | Gap, **head: object) -> Json:
    """As it is told in a frame."""
    told: Json = msgspec.to_builtins(said)
    return {"type": said.type} | head | told


def name_of(event: Event) -> str:
    """The topic that an event is in."""
    if event.type == SPIKES.event.type:
        return SPIKES.name
    return str(Topic(event.exchange, event.symbol, event.kind, event.interval if isinstance(event, Ohlc) else None))


def numbered(type: str) -> str:
    return f"numbered_{type}"


def tag_of(kind: type[Struct]) -> str:
    tag = kind.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
