"""The OpenAPI document, built once from the tables that the app serves: routes, query structs, answer types, codes.

Nothing about a route is said here that its table entry already says; here is only how it is written as OpenAPI 3.1.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from itertools import chain
from typing import Any

import msgspec
from msgspec import inspect as types
from quart import Response
from quart_trio import QuartTrio

from actors.archive.series import KINDS
from web import parameters as p
from web.access.auth import scope_of
from web.problems import RETRY_DEFAULT, STATUS_OF, BadParameter, InvalidParameters, Problem, problem, problem_of
from web.reference import stream_words
from web.reference.examples import EXAMPLES, EXPORTS
from web.reference.pages import add_docs, add_reference
from web.reference.words import ABOUT, CHALLENGE, CODES, FIELDS, KEYS, PARAMETERS, RATE_LIMIT, TAGS
from web.rest.formats import FORMATS
from web.rest.gate import PROBES
from web.rest.route import Route
from web.rest.routes import ROUTES
from web.rest.state import VERSION
from web.streams.paths import StreamCatalog, catalog
from web.streams.sse import CONTENT_TYPE, KEEP_ALIVE, RETRY_MS, TOPICS_MAX
from web.streams.topics import Sources

Json = dict[str, Any]

OTHER_STATUS = {"/health/ready": (503, "An exchange does not deliver yet; `reasons` says why")}
"""Answers, not problems, that come with another status than 200."""
SSE = "/sse"
SSE_CODES = (
    *("not_found", "unknown_exchange", "unknown_symbol", "unknown_interval", "unsupported"),
    *("invalid_parameter", "upstream_limited", "not_ready"),
)
SECURITY: list[Json] = [{}, {"bearer": []}, {"header": []}]
"""No key, where the configuration lets everybody in, or one in either place."""
SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": KEYS},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": KEYS},
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}}}
_TEXT = {"schema": {"type": "string"}}
HEADERS_OF: dict[int, Json] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": {"description": CHALLENGE} | _TEXT},
    HTTPStatus.FORBIDDEN: {"WWW-Authenticate": {"description": CHALLENGE} | _TEXT},
    HTTPStatus.TOO_MANY_REQUESTS: RETRY_AFTER
    | {name: {"description": said} | _TEXT for name, said in RATE_LIMIT.items()},
    HTTPStatus.SERVICE_UNAVAILABLE: RETRY_AFTER,
}
OF_NO_FEED = {"invalid_parameter", "unknown_exchange", "not_found", "unauthorized", "forbidden", "rate_limited"}


def add_pages(app: QuartTrio, sources: Sources, *, root_path: str = "") -> None:
    """Serve the document at /openapi.json, Swagger UI over it at /docs, and a reference page of it at /redoc."""
    document = build_document(sources) | {"servers": [{"url": root_path or "/"}]}
    body = msgspec.json.encode(document)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return Response(body, content_type="application/json", headers={"Cache-Control": "no-cache"})

    add_docs(app)
    codes = [(code, STATUS_OF[code], CODES[code]) for code in CODES]
    add_reference(app, document, catalog(sources).streams, codes, stream_words.CLOSES)


def build_document(sources: Sources) -> Json:
    """The document for these connectors: their names and intervals are the values that parameters may have."""
    answers = [route.answer for route in ROUTES] + [StreamCatalog, Problem]
    schemas, components = msgspec.json.schema_components(answers, ref_template="#/components/schemas/{name}")
    explain_fields(answers, components)
    schema_of: dict[Any, Json] = dict(zip(answers, schemas, strict=True))
    choices = choices_of(sources)
    samples = samples_of(sources, choices)
    streams = catalog(sources).streams
    paths = {route.path: {"get": operation(route, schema_of[route.answer], choices, samples)} for route in ROUTES}
    paths["/ws-catalog"] = {
        "get": {
            "tags": ["streams"],
            "operationId": "ws_catalog",
            "summary": "Every WebSocket path and topic",
            "responses": {"200": json_answer("OK", schema_of[StreamCatalog], StreamCatalog(streams[:1]))}
            | problem_answers(access_codes("/ws-catalog")),
        }
    }
    paths[SSE] = {
        "get": sse_operation(streams[0].topic.format_map({"exchange": "binance", "interval": "1m"} | samples))
    }
    tags = dict.fromkeys(operation["get"]["tags"][0] for operation in paths.values())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "marketd",
            "version": VERSION,
            "summary": "Market data of crypto derivatives exchanges, through one REST and WebSocket API",
            "description": ABOUT,
            "license": {"name": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag, "description": TAGS.get(tag, "")} for tag in tags],
        "paths": paths,
        "security": SECURITY,
        "components": {
            "schemas": components,
            "examples": problem_examples(samples),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def choices_of(sources: Sources) -> dict[str, list[str]]:
    """The values that parameters may have, where that depends on the exchanges."""
    connectors = sources.connectors
    return {
        "exchange": list(connectors),
        "interval": _union(connector.exchange.intervals for connector in connectors.values()),
        "kind": [*KINDS],
        "period": _union(connector.exchange.open_interest_periods for connector in connectors.values()),
    }


def samples_of(sources: Sources, choices: Mapping[str, list[str]]) -> dict[str, str]:
    """A value of each parameter in a path that works here."""
    symbols = [symbol for connector in sources.connectors.values() for symbol in connector.symbols]
    return {name: values[0] for name, values in choices.items() if values} | {"symbol": (symbols or ["BTCUSDT"])[0]}


def operation(route: Route, answer: Json, choices: Mapping[str, list[str]], samples: Mapping[str, str]) -> Json:
    """One route as an Operation Object."""
    example = EXAMPLES.get(route.answer)
    answered = file_answer() if route.answer is bytes else json_answer("OK", answer, example)
    responses = {"200": answered} | problem_answers(codes_of(route))
    if route.path in OTHER_STATUS:
        status, description = OTHER_STATUS[route.path]
        responses[str(status)] = json_answer(description, answer, EXAMPLES.get(route.path))
    return {
        "tags": [route.tag],
        "operationId": route.handler.__name__,
        "summary": route.summary,
        **({"description": told} if (told := inspect.getdoc(route.handler)) else {}),
        "parameters": [*path_parameters(route.path, choices, samples), *query_parameters(route.query, choices)],
        "responses": responses,
        **({} if scope_of(route.path) else {"security": []}),
    }


def sse_operation(sample: str) -> Json:
    """Server-Sent Events; what their data holds is the AsyncAPI document's to say."""
    text: Json = {"type": "string"}
    places = {"topics": ("query", True, sample), "Last-Event-ID": ("header", False, None)}
    return {
        "tags": ["streams"],
        "operationId": "sse",
        "summary": "Any topics, as Server-Sent Events",
        "description": stream_words.SSE.format(retry=RETRY_MS, keep_alive=KEEP_ALIVE, topics=TOPICS_MAX),
        "parameters": [
            {
                "name": name,
                "in": place,
                "required": required,
                "description": stream_words.SSE_PARAMETERS[name],
                "schema": text,
                **({"example": example} if example else {}),
            }
            for name, (place, required, example) in places.items()
        ],
        "responses": {
            "200": {
                "description": "Events, without end",
                "content": {CONTENT_TYPE: {"schema": text, "example": stream_words.SSE_EXAMPLE}},
            }
        }
        | problem_answers([*SSE_CODES, *access_codes(SSE)]),
    }


def path_parameters(path: str, choices: Mapping[str, list[str]], samples: Mapping[str, str]) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", path):
        schema: Json = {"type": "string", "minLength": 1} if not choices.get(name) else {"enum": choices[name]}
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": PARAMETERS.get(name, ""),
            "schema": {"type": "string"} | schema,
            **({"example": samples[name]} if name in samples else {}),
        }


def query_parameters(query: type[msgspec.Struct], choices: Mapping[str, list[str]]) -> Iterator[Json]:
    """The fields of a query struct: bounds, defaults and descriptions are the struct's own."""
    _, components = msgspec.json.schema_components([query])
    for name, said in components[query.__name__]["properties"].items():
        schema = dict(said)
        if schema.get("default", ...) is None:  # may be left out, and has no value then
            del schema["default"]
            schema = {**next(kind for kind in schema["anyOf"] if kind != {"type": "null"})}
        if choices.get(name) and "enum" not in schema:
            schema["enum"] = choices[name]
        described = [PARAMETERS.get(name, ""), schema.pop("description", "")]
        yield {
            "name": name,
            "in": "query",
            "description": ". ".join(filter(None, described)),
            "schema": schema,
        }


def codes_of(route: Route) -> list[str]:
    """The problems that a route may answer, by what it takes, whom it is open to and where its answer comes from."""
    codes = ["invalid_parameter", *access_codes(route.path)]
    fields = route.query.__struct_fields__
    codes += [f"unknown_{name}" for name in ("exchange", "symbol", "interval") if f"{{{name}}}" in route.path]
    if "exchange" in fields:
        codes += ["unknown_exchange", "not_ready"]
    if route.tag == "archive":
        codes += ["not_found", "unsupported", "unknown_symbol", "range_not_satisfiable", "overloaded", "upstream_error"]
    if route.tag == "all exchanges":
        codes += ["unsupported", "upstream_error"]
    if route.tag == "market data":
        codes += ["unsupported", "not_ready"]
        if route.query not in (p.SeenQuery, p.BarsQuery):  # what was seen is asked of nobody
            codes += ["upstream_limited", "upstream_error", "upstream_geo_blocked", "upstream_timeout"]
    return codes


def access_codes(path: str) -> list[str]:
    """The problems of a client that may not, or not so often."""
    codes = ["unauthorized", "forbidden"] if scope_of(path) else []
    return codes if path in PROBES else [*codes, "rate_limited"]


def json_answer(description: str, schema: Json, example: object) -> Json:
    media: Json = {"schema": schema}
    if example is not None:
        media["example"] = msgspec.to_builtins(example)
    return {"description": description, "content": {"application/json": media}}


def problem_answers(codes: Iterable[str]) -> Json:
    """The problems with these codes, by status."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUS_OF[code], []).append(code)
    return {str(status): problem_answer(status, by_status[status]) for status in sorted(by_status)}


def file_answer() -> Json:
    """The body of an export."""
    content: Json = {}
    for name, form in FORMATS.items():
        schema = {"type": "string"} if form.needs is None else {"type": "string", "contentMediaType": form.content_type}
        content[form.content_type.split(";")[0]] = {"schema": schema, "examples": {name: EXPORTS[name]}}
    return {"description": "A file", "content": content}


def problem_answer(status: int, codes: list[str]) -> Json:
    return {
        "description": f"{HTTPStatus(status).phrase}: " + ", ".join(f"`{code}`" for code in codes),
        **({"headers": HEADERS_OF[status]} if status in HEADERS_OF else {}),
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
    }


def problem_examples(samples: Mapping[str, str]) -> Json:
    """One problem per code that a route may answer, as a client may meet it."""
    found: Json = {}
    for code in dict.fromkeys([*(code for route in ROUTES for code in codes_of(route)), *SSE_CODES]):
        where = {} if code in OF_NO_FEED else samples
        told = problem(
            code,
            CODES[code],
            exchange=where.get("exchange"),
            symbol=None if code == "not_ready" else where.get("symbol"),
            retry_after=RETRY_DEFAULT.get(code),
            limit="requests_per_second" if code == "rate_limited" else None,
        )
        if code == "invalid_parameter":
            told = problem_of(InvalidParameters([BadParameter("limit", "Expected int <= 1500, got '5000'")]))
        found[code] = {"summary": code, "value": msgspec.to_builtins(told)}
    return found


def explain_fields(answers: Iterable[Any], components: Json, meanings: Mapping[str, str] = FIELDS) -> None:
    """Give each field its meaning, and each time its format: msgspec only says that it is a string."""
    for name, struct in _structs(types.multi_type_info(list(answers))).items():
        for field in struct.fields:
            schema = components[name]["properties"][field.encode_name]
            words = meanings.get(f"{name}.{field.encode_name}") or meanings.get(field.encode_name)
            if words:
                schema.setdefault("description", words)
            if isinstance(field.type, types.DateTimeType):
                schema["format"] = "date-time"
            elif isinstance(field.type, types.UnionType) and _holds_time(field.type):
                next(kind for kind in schema["anyOf"] if kind["type"] == "string")["format"] = "date-time"


def _holds_time(union: types.UnionType) -> bool:
    return any(isinstance(kind, types.DateTimeType) for kind in union.types)


def _structs(found: Iterable[types.Type]) -> dict[str, types.StructType]:
    """Every struct that the types hold, however deep, by name."""
    structs: dict[str, types.StructType] = {}
    waiting = list(found)
    while waiting:
        match waiting.pop():
            case types.StructType(cls=cls, fields=fields) as struct if cls.__name__ not in structs:
                structs[cls.__name__] = struct
                waiting += [field.type for field in fields]
            case types.ListType(item_type=inner) | types.DictType(value_type=inner):
                waiting.append(inner)
            case types.UnionType(types=inner):
                waiting += inner
    return structs


def _union(sets: Iterable[Iterable[str]]) -> list[str]:
    """Every name of any set, in the order of the sets."""
    return list(dict.fromkeys(chain.from_iterable(sets)))
