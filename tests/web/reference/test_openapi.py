"""The OpenAPI document says what the tables say, and the pages over it need no other host."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trio
from openapi_spec_validator import OpenAPIV31SpecValidator
from quart_trio import QuartTrio

from actors.connector import Connector
from actors.exchanges.binance import EXCHANGE
from actors.feeds.everything import Everything
from actors.spikes import Spikes
from web import parameters as p
from web.app import create_app
from web.connectors import Connectors
from web.problems import STATUS_OF, Problem
from web.reference.openapi import build_document, codes_of
from web.reference.pages import inline, pretty, prose
from web.reference.stream_words import CLOSES
from web.reference.words import CODES, FIELDS, PARAMETERS
from web.rest.route import Route
from web.rest.routes import ROUTES
from web.rest.state import Ready
from web.streams.fanouts import Fanouts
from web.streams.paths import StreamCatalog
from web.streams.sse import RETRY_MS
from web.streams.topics import STREAMS, Sources

Json = dict[str, Any]
PAGES = {"/ui/<name>", "/openapi.json", "/asyncapi.json", "/docs", "/docs/assets/<path:name>", "/redoc"}
OURS = ["docs.css", "docs.js", "reference.css"]


async def never(*_: object, **__: object) -> None:
    raise AssertionError("nothing runs in these tests")


@pytest.fixture
def connectors() -> Connectors:
    connector = Connector(
        EXCHANGE,
        symbols=["BTCUSDT", "ETHUSDT"],
        on_demand=True,
        rest_url="http://127.0.0.1:9",
        ws_url="ws://127.0.0.1:9",
        intervals=("1m", "1h"),
        large_trade_threshold_usd=100_000,
        supervise=never,
    )
    return {"binance": connector}


def sources_of(connectors: Connectors) -> Sources:
    # Nothing runs here.
    spikes = Spikes({}, timeframes=["5m", "1h"], window=96, threshold=3.0, symbols=(), supervise=never)
    return Sources(connectors, Everything(), spikes)


@pytest.fixture
async def app(connectors: Connectors, nursery: trio.Nursery) -> QuartTrio:
    return create_app(Fanouts(nursery, never, sources_of(connectors)), cors_origins=[])


@pytest.fixture
def document(connectors: Connectors) -> Json:
    return msgspec.json.decode(msgspec.json.encode(build_document(sources_of(connectors))), type=Json)


async def get(app: QuartTrio, path: str) -> tuple[int, Any, bytes]:
    response = await app.test_client().get(path)
    return response.status_code, response.headers, await response.get_data(as_text=False)


def within(value: Any) -> Iterator[Json]:
    """Every object of a document, however deep."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from within(inner)


def resolve(document: Json, ref: str) -> Any:
    assert ref.startswith("#/")
    found: Any = document
    for part in ref[2:].split("/"):
        found = found[part]
    return found


# --- the document ---


async def test_document_is_served_and_valid(app: QuartTrio, document: Json) -> None:
    status, headers, body = await get(app, "/openapi.json")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    served = msgspec.json.decode(body)
    assert served == document
    assert served["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(served).validate()


def test_document_without_an_exchange_is_valid_too() -> None:
    OpenAPIV31SpecValidator(build_document(sources_of({}))).validate()


def test_every_reference_resolves(document: Json) -> None:
    refs = [found["$ref"] for found in within(document) if "$ref" in found]
    assert len(refs) > 20
    for ref in refs:
        assert isinstance(resolve(document, ref), dict)


def test_every_component_is_used(document: Json) -> None:
    refs = {found["$ref"] for found in within(document) if "$ref" in found}
    refs |= {f"#/components/securitySchemes/{name}" for way in document["security"] for name in way}
    for section, components in document["components"].items():
        assert {f"#/components/{section}/{name}" for name in components} <= refs


async def test_every_get_rule_of_the_app_is_documented(app: QuartTrio, document: Json) -> None:
    rules = {rule.rule for rule in app.url_map.iter_rules() if not rule.websocket and "GET" in (rule.methods or ())}
    # WebSocket paths, and those of a protocol that TradingView describes.
    rules = {rule for rule in rules - PAGES if rule != "/ws" and not rule.startswith(("/ws/", "/udf/"))}
    documented = {path.replace("{", "<").replace("}", ">") for path in document["paths"]}
    assert rules == documented
    assert {route.path for route in ROUTES} | {"/ws-catalog", "/sse"} == set(document["paths"])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_parameters_are_those_of_the_route(document: Json, route: Route) -> None:
    parameters = document["paths"][route.path]["get"]["parameters"]
    in_path = [said for said in parameters if said["in"] == "path"]
    assert [said["name"] for said in in_path] == re.findall(r"{(\w+)}", route.path)
    assert all(said["required"] for said in in_path)

    in_query = {said["name"]: said for said in parameters if said["in"] == "query"}
    fields = {field.name: field for field in msgspec.structs.fields(route.query)}
    assert in_query.keys() == fields.keys()
    for name, field in fields.items():
        said = in_query[name]
        assert not said.get("required", False)
        assert said["schema"].get("default") == field.default
        # msgspec's own schema of the type, without the null that means "left out"
        own = msgspec.json.schema(field.type)
        own = next((kind for kind in own.get("anyOf", ()) if kind["type"] != "null"), own)
        assert own.pop("description", "") in said["description"]
        assert own.items() <= said["schema"].items()


def test_bounds_of_the_contract(document: Json) -> None:
    def limit(path: str) -> tuple[int, int, int]:
        (schema,) = [s["schema"] for s in document["paths"][path]["get"]["parameters"] if s["name"] == "limit"]
        return schema["minimum"], schema["maximum"], schema["default"]

    assert limit("/{exchange}/ohlc/{symbol}/{interval}") == (1, 1500, 500)
    assert limit("/{exchange}/oi-hist/{symbol}") == (1, 500, 30)
    assert limit("/{exchange}/funding-hist/{symbol}") == (1, 1000, 100)


def test_choices_are_those_of_the_exchanges(document: Json) -> None:
    parameters = {
        said["name"]: said["schema"]
        for path in ("/{exchange}/ohlc/{symbol}/{interval}", "/{exchange}/oi-hist/{symbol}")
        for said in document["paths"][path]["get"]["parameters"]
    }
    assert parameters["exchange"]["enum"] == ["binance"]
    assert parameters["interval"]["enum"] == list(EXCHANGE.intervals)
    assert parameters["period"]["enum"] == list(EXCHANGE.open_interest_periods)
    assert parameters["symbol"] == {"type": "string", "minLength": 1}  # any script, and `xyz:AAPL`


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_answers_have_examples_that_are_such_answers(document: Json, route: Route) -> None:
    responses = document["paths"][route.path]["get"]["responses"]
    for response in responses.values():
        for content_type, media in response["content"].items():
            if content_type == "application/json":
                msgspec.convert(media["example"], route.answer)
            else:
                assert media["examples"]


def test_problem_examples_are_problems_of_their_code(document: Json) -> None:
    for code, example in document["components"]["examples"].items():
        problem = msgspec.convert(example["value"], Problem)
        assert (problem.code, problem.status) == (code, STATUS_OF[code])


def test_catalog_has_an_example(document: Json) -> None:
    media = document["paths"]["/ws-catalog"]["get"]["responses"]["200"]["content"]["application/json"]
    assert msgspec.convert(media["example"], StreamCatalog).streams


def test_server_sent_events_are_described(document: Json) -> None:
    operation = document["paths"]["/sse"]["get"]
    assert [(said["name"], said["in"], said["required"]) for said in operation["parameters"]] == [
        ("topics", "query", True),
        ("Last-Event-ID", "header", False),
    ]
    assert operation["parameters"][0]["example"] == "binance:BTCUSDT:ohlc:1m"
    assert list(operation["responses"]) == ["200", "401", "403", "404", "422", "429", "503"]
    text = operation["responses"]["200"]["content"]["text/event-stream"]["example"]
    first, position, event, end = text.split("\n\n")
    assert first == f"retry: {RETRY_MS}"
    assert position.startswith("id: ")
    assert msgspec.json.decode(event.partition("data: ")[2])["topic"] == "binance:BTCUSDT:ohlc:1m"
    assert end == ""
    assert "/asyncapi.json" in operation["description"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_problems_of_a_route(document: Json, route: Route) -> None:
    responses = document["paths"][route.path]["get"]["responses"]
    for code in codes_of(route):
        media = responses[str(STATUS_OF[code])]["content"]["application/problem+json"]
        assert media["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert code in media["examples"]
    for status, response in responses.items():
        if "application/problem+json" in response["content"]:
            assert ("Retry-After" in response.get("headers", {})) == (status in ("429", "503"))


def test_what_may_go_wrong_with_bars(document: Json) -> None:
    responses = document["paths"]["/{exchange}/ohlc/{symbol}/{interval}"]["get"]["responses"]
    assert list(responses) == ["200", "401", "403", "404", "422", "429", "502", "503", "504"]
    assert list(document["paths"]["/{exchange}/liquidations/{symbol}"]["get"]["responses"]) == [
        *("200", "401", "403", "404", "422", "429", "503"),  # from memory: no exchange is asked
    ]


def test_keys_are_described_and_where_none_is_needed(document: Json) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme.get("scheme") or scheme["name"]) for scheme in schemes.values()} == {
        *(("http", "bearer"), ("apiKey", "X-API-Key")),
    }
    assert document["security"][0] == {}, "an operator may let everybody in"
    operations = {path: item["get"] for path, item in document["paths"].items()}
    assert {path for path, operation in operations.items() if operation.get("security") == []} == {
        *("/health/live", "/health/ready"),
    }
    for path, operation in operations.items():
        told = operation["responses"]
        is_open = "security" in operation
        assert ("401" in told, "403" in told, "429" in told) == (not is_open,) * 3, path
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} == operations["/"]["responses"]["429"]["headers"].keys()
    assert "WWW-Authenticate" in operations["/"]["responses"]["401"]["headers"]


def test_not_ready_is_an_answer_of_its_own(document: Json) -> None:
    response = document["paths"]["/health/ready"]["get"]["responses"]["503"]
    media = response["content"]["application/json"]
    assert media["schema"] == {"$ref": "#/components/schemas/Ready"}
    assert msgspec.convert(media["example"], Ready).status == "not_ready"


def test_times_are_described_as_times(document: Json) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["Ohlc"]["properties"]["timestamp"]["format"] == "date-time"
    assert schemas["FeedReport"]["properties"]["next_retry"]["anyOf"] == [
        {"type": "string", "format": "date-time"},
        {"type": "null"},
    ]
    assert "format" not in schemas["Ohlc"]["properties"]["symbol"]


def test_everything_is_explained_and_nothing_else(document: Json) -> None:
    schemas = document["components"]["schemas"]
    fields = {(name, field) for name, schema in schemas.items() for field in schema["properties"]}
    assert [(name, field) for name, field in fields if "description" not in schemas[name]["properties"][field]] == []
    assert FIELDS.keys() <= {field for _, field in fields} | {f"{name}.{field}" for name, field in fields}
    operations = [path["get"] for path in document["paths"].values()]
    parameters = [said for operation in operations for said in operation.get("parameters", ())]
    assert all(said["description"] for said in parameters)
    assert PARAMETERS.keys() <= {said["name"] for said in parameters}
    assert all(tag["description"] for tag in document["tags"])
    assert CODES.keys() == STATUS_OF.keys()


def test_descriptions_of_query_structs_reach_the_document(document: Json) -> None:
    (said,) = [
        said
        for said in document["paths"]["/{exchange}/liquidations/{symbol}"]["get"]["parameters"]
        if said["name"] == "min_value_usd"
    ]
    assert said["schema"] == {"type": "number", "minimum": 0, "default": p.SeenQuery().min_value_usd}
    assert said["description"] == "Only events of at least this value, in quote units"


# --- the pages ---


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_pages_name_no_other_host(app: QuartTrio, path: str) -> None:
    status, headers, body = await get(app, path)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert ("script-src 'self';" in policy) == (path == "/docs")
    html = body.decode()
    addresses = re.findall(r"""(?:src|href|action)=["']([^"']*)["']""", html)
    assert addresses
    assert not [address for address in addresses if re.match(r"\s*([a-z]+:|//)", address, re.IGNORECASE)]
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", html)  # the policy would stop them
    assert {"openapi.json", "asyncapi.json"} <= set(addresses)
    for address in {"docs", "redoc", *addresses}:
        if re.match("docs|redoc|openapi|asyncapi", address):
            assert (await get(app, "/" + address))[0] == 200


@pytest.mark.parametrize("name", OURS)
async def test_our_assets_name_no_other_host(app: QuartTrio, name: str) -> None:
    _, _, body = await get(app, f"/docs/assets/{name}")
    assert body
    assert not re.search(rb"https?:|//\w|@import|url\(", body.replace(b"// ", b""))


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("swagger-ui.css", "text/css; charset=utf-8"),
        ("favicon-32x32.png", "image/png"),
        ("docs.js", "text/javascript; charset=utf-8"),
        ("docs.css", "text/css; charset=utf-8"),
        ("reference.css", "text/css; charset=utf-8"),
    ],
)
async def test_assets_have_their_types(app: QuartTrio, name: str, content_type: str) -> None:
    status, headers, body = await get(app, f"/docs/assets/{name}")
    assert (status, headers["Content-Type"]) == (200, content_type)
    assert "max-age=" in headers["Cache-Control"]
    assert body


@pytest.mark.parametrize(
    "path",
    [
        "/docs/assets/docs.html",
        "/docs/assets/..%2fdocs.html",
        "/docs/assets/%2e%2e%2f%2e%2e%2fapp.py",
        "/docs/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/docs/assets/..%5cdocs.html",
        "/docs/assets/docs.js%00.png",
        "/docs/assets/swagger-ui.js",
    ],
)
async def test_nothing_else_is_an_asset(app: QuartTrio, path: str) -> None:
    status, headers, _ = await get(app, path)
    assert (status, headers["Content-Type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("path", ["/docs/assets//etc/passwd", "/docs/assets/%2fetc%2fpasswd", "/docs/assets/"])
async def test_an_absolute_path_is_no_asset(app: QuartTrio, path: str) -> None:
    status, headers, _ = await get(app, path)
    assert 400 <= status < 500
    assert headers["Content-Type"] == "application/problem+json"


async def test_reference_has_every_operation_stream_schema_and_code(app: QuartTrio, document: Json) -> None:
    _, _, body = await get(app, "/redoc")
    html = body.decode()
    ids = set(re.findall(r'\sid="([^"]*)"', html))
    targets = {target[1:] for target in re.findall(r'href="(#[^"]*)"', html)}
    assert targets <= ids
    assert {path["get"]["operationId"] for path in document["paths"].values()} <= ids
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= ids
    assert all(f">{code}</code>" in html for code in CODES)
    assert all(stream.summary in html for stream in STREAMS.values())
    assert 'href="binance/ohlc/BTCUSDT/1m"' in html
    assert 'href="sse?topics=binance:BTCUSDT:ohlc:1m"' in html
    assert all(f"<dt>{code}</dt>" in html for code in CLOSES)


def test_text_is_escaped() -> None:
    assert str(prose("a <b> `c<d>` **e&f**\n\ng")) == (
        "<p>a &lt;b&gt; <code>c&lt;d&gt;</code> <strong>e&amp;f</strong></p><p>g</p>"
    )
    assert str(inline("`x`")) == "<code>x</code>"


def test_json_is_told_apart_and_escaped() -> None:
    value = {'<k"': ["</pre>", -1.5e-7, None, True], "empty": {}}
    html = str(pretty(value))
    assert '<i class="key">&#34;&lt;k\\&#34;&#34;</i>' in html
    assert '<i class="str">&#34;&lt;/pre&gt;&#34;</i>' in html
    assert [*re.findall(r'<i class="val">([^<]*)</i>', html)] == ["-1.5e-7", "null", "true"]
    assert "</pre>" not in html
    text = re.sub(r"</?i[^>]*>", "", html).replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")
    assert msgspec.json.decode(text) == value
