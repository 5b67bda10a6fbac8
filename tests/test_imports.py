"""Imports point one way, and some names may be used in one place only. Read from the source, nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = sorted(path for top in ("daemon", "actors", "web") for path in (ROOT / top).rglob("*.py"))

# A place imports only from places above it in this list, and none of its own row: everything points at the words.
EXCHANGE, SIMULATOR = "one exchange", "its simulator"
LEVELS = [
    ["actors"],
    ["actors/upstream", "actors/simulation", "actors/engine"],
    ["actors/exchanges"],
    [EXCHANGE, "actors/feeds"],
    [SIMULATOR, "actors/lines", "actors/archive", "actors/recording"],
    ["actors/collection.py"],
    ["actors/connector.py"],
    ["actors/relay"],
    ["actors/spikes.py", "actors/facade", "actors/mirror", "actors/sinks"],
    ["actors/node.py"],
    ["web", "web/server", "web/connectors.py"],
    ["web/access"],
    ["web/rest"],
    ["web/streams"],
    ["web/facade", "web/udf"],
    ["web/reference", "web/metrics", "web/pages"],
    ["web/dialects.py"],
    ["web/app.py"],
    ["daemon"],
]
LEVEL = {place: level for level, row in enumerate(LEVELS) for place in row}
# The web server could serve anything.
ALONE = {"web/server"}

# Who may know a library. Simulators are the other end of the wire and may know what speaks it.
KEEPERS = {
    "httpx": {"actors/upstream/rest.py", "actors/upstream/tunnel.py", "actors/mirror/ingests.py"},
    "httpcore": {"actors/upstream/tunnel.py"},
    "python_socks": {"actors/upstream/way.py"},
    "trio_websocket": {"actors/upstream/dial.py"},
    "confluent_kafka": {"actors/sinks/kafka.py"},
    "coredis": {"actors/engine/remote.py", "actors/engine/clients.py"},
    "hypercorn": {
        "web/server/protocol.py",
        "web/server/pinned.py",
        "web/server/connections.py",
        "web/server/outbox.py",
    },
}
SIMULATED = {"trio_websocket"}

# Who may catch everything: the restart loop, the boundary where one client's fault must stay its own, and who hands an
# error to the task that it belongs to.
CATCHERS = {"daemon/supervisor.py", "web/server/connections.py", "actors/inbox.py"}

# What converts one exchange's captures has to say which.
NAMES_AN_EXCHANGE = {"actors/recording/cryptofeed.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(name: str) -> str:
    return name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def imported(tree: ast.AST, name: str) -> Iterator[str]:
    """Every module that the source imports anywhere, and `module.name` for what might be a module too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split("/")[: -node.level] if node.level else []
            module = ".".join([*package, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from (str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant))


def exchange_of(module: str, folders: set[str]) -> str | None:
    """The exchange whose folder a dotted name is in."""
    match module.split("."):
        case ["actors", "exchanges", name, *_] if name in folders:
            return name
    return None


def place_of(module: str, folders: set[str]) -> str | None:
    """The place in LEVELS that a dotted name belongs to: its folder, or the file itself; None for a library."""
    if exchange_of(module, folders) is not None:
        return SIMULATOR if "simulator" in module.split(".")[3:4] else EXCHANGE
    match module.split("."):
        case [("actors" | "web") as top, name, *_]:
            return next((place for place in (f"{top}/{name}", f"{top}/{name}.py") if place in LEVEL), top)
        case [("actors" | "web" | "daemon") as top, *_]:
            return top
    return None


def wrong_imports(name: str, source: str, folders: set[str]) -> list[str]:
    """What the file `name` imports although it may not."""
    module_name = dotted(name)
    place, own_exchange = place_of(module_name, folders), exchange_of(module_name, folders)
    assert place is not None
    wrong = []
    for module in imported(ast.parse(source), name):
        top = module.split(".")[0]
        exchange, other = exchange_of(module, folders), place_of(module, folders)
        if other not in (place, None) and LEVEL[other] >= LEVEL[place]:
            wrong.append(f"{name} in {place} is not above {module} in {other}")
        if exchange not in (own_exchange, None) and name not in NAMES_AN_EXCHANGE:
            wrong.append(f"{name} names the exchange {module}")
        if other in ("actors/simulation", SIMULATOR) and place not in (other, SIMULATOR) and name != "daemon/demo.py":
            wrong.append(f"{name} knows the simulator {module}")
        if place in ALONE and other not in (place, None):
            wrong.append(f"{name} in {place} knows {module}")
        speaks_it = top in SIMULATED and place in ("actors/simulation", SIMULATOR)
        if top in KEEPERS and name not in KEEPERS[top] and not speaks_it:
            wrong.append(f"{name} knows {module}")
    return wrong


def wrong_habits(name: str, source: str) -> list[str]:
    """Catch-alls outside their places, `print`, and sleeps that would hold up every other task."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and name not in CATCHERS:
            caught = "everything" if node.type is None else ast.unparse(node.type)
            only_cleans_up = caught == "BaseException" and ast.unparse(node.body[-1]) == "raise"
            kinds = set(caught.strip("()").replace(" ", "").split(","))
            if {"Exception", "BaseException", "everything"} & kinds and not only_cleans_up:
                wrong.append(f"{name}:{node.lineno} catches {caught}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "builtins.print", "time.sleep"):
            wrong.append(f"{name}:{node.lineno} calls {ast.unparse(node.func)}")
        elif isinstance(node, ast.ImportFrom) and node.module == "time" and any(a.name == "sleep" for a in node.names):
            wrong.append(f"{name}:{node.lineno} imports time.sleep")
    return wrong


# The newest exchange, to show that one needs no word elsewhere; older ones are examples in texts.
NEWEST = "okx"


def test_no_file_outside_its_folder_names_the_newest_exchange() -> None:
    names = {name_of(path) for path in PROGRAM if NEWEST in path.read_text().lower()}
    assert names
    assert {name for name in names if not name.startswith(f"actors/exchanges/{NEWEST}/")} == set()


FOLDERS = {path.parent.name for path in (ROOT / "actors" / "exchanges").glob("*/__init__.py")}


def test_the_program_is_where_it_is_looked_for() -> None:
    names = set(map(name_of, PROGRAM))
    assert {"binance"} <= FOLDERS
    assert {place_of(dotted(name), FOLDERS) for name in names} == set(LEVEL)
    assert {"actors/exchanges/binance/session.py", "daemon/main.py"} | CATCHERS | NAMES_AN_EXCHANGE <= names
    for keepers in KEEPERS.values():
        assert keepers <= names


def arrows() -> set[tuple[str, str]]:
    """From which place to which the program's imports point."""
    found = set()
    for path in PROGRAM:
        place = place_of(dotted(name_of(path)), FOLDERS)
        others = {place_of(module, FOLDERS) for module in imported(ast.parse(path.read_text()), name_of(path))}
        found |= {(place, other) for other in others - {place, None} if place and other}
    return found


@pytest.mark.parametrize(("place", "other"), sorted(arrows()))
def test_no_arrow_may_be_turned_round(place: str, other: str) -> None:
    """For every import there is, the opposite one is refused."""
    here, there = (where.replace(EXCHANGE, "actors/exchanges/binance") for where in (place, other))
    here, there = (where.replace(SIMULATOR, "actors/exchanges/binance/simulator") for where in (here, there))
    file = there if there.endswith(".py") else f"{there}/any.py"
    assert wrong_imports(file, f"import {dotted(here)}", FOLDERS) != []


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(name_of(path), path.read_text(), FOLDERS) == []


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_nothing_is_caught_wholesale_printed_or_slept_through(path: Path) -> None:
    assert wrong_habits(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("actors/feeds/feed.py", "import web.app"),
        ("actors/feeds/feed.py", "from daemon.config import Config"),
        ("actors/exchanges/binance/rest.py", "def f():\n    from web import app"),
        ("web/app.py", "from daemon import main"),
        ("actors/exchanges/binance/rest.py", "from actors.exchanges.bybit import wire"),
        ("actors/exchanges/binance/rest.py", "from actors.exchanges import bybit"),
        ("actors/exchanges/binance/rest.py", "from ..bybit.wire import Trade"),
        ("actors/feeds/feed.py", "from actors.exchanges.binance.session import NAME"),
        ("web/rest/handlers.py", "import actors.exchanges.bybit"),
        ("daemon/main.py", "importlib.import_module('actors.exchanges.bybit')"),
        ("actors/feeds/feed.py", "from actors.simulation.market import Market"),
        ("actors/exchanges/binance/rest.py", "from actors.exchanges.binance.simulator import rows"),
        ("daemon/main.py", "from actors.exchanges.binance import simulator"),
        ("web/app.py", "import httpx"),
        ("actors/lines/line.py", "from httpx import AsyncClient"),
        ("actors/simulation/server.py", "import httpx"),
        ("actors/lines/line.py", "import trio_websocket"),
        ("actors/connector.py", "import hypercorn.trio"),
        ("web/app.py", "from hypercorn.config import Config"),
        ("actors/connector.py", "import coredis"),
    ],
)
def test_the_check_sees_what_is_wrong(name: str, source: str) -> None:
    assert wrong_imports(name, source, {"binance", "bybit"}) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("daemon/demo.py", "from actors.simulation.market import Market"),
        (
            "actors/exchanges/binance/simulator/__init__.py",
            "from actors.simulation.server import Simulator\nfrom actors.exchanges.binance import wire",
        ),
        ("actors/simulation/server.py", "import trio_websocket"),
        (
            "actors/exchanges/binance/__init__.py",
            "from actors.exchanges.binance.rest import explain\nfrom actors.upstream.budget import Window",
        ),
        ("actors/exchanges/binance/rest.py", "from . import wire"),
        ("web/rest/handlers.py", "from actors.connector import Connector"),
        ("daemon/main.py", "from web.app import create_app"),
        ("actors/upstream/rest.py", "import httpx"),
    ],
)
def test_the_check_allows_what_is_right(name: str, source: str) -> None:
    assert wrong_imports(name, source, {"binance", "bybit"}) == []


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept Exception:\n    raise",
        "try:\n    f()\nexcept (OSError, Exception) as error:\n    raise",
        "try:\n    f()\nexcept* BaseException:\n    g()",
        "try:\n    f()\nexcept BaseException as error:\n    raise OSError from error",
        "print()",
        "import time\ntime.sleep(1)",
        "from time import sleep",
    ],
)
def test_the_check_sees_bad_habits(source: str) -> None:
    assert wrong_habits("actors/feeds/feed.py", source) != []
    for caught in ("OSError", "BaseException"):  # to clean up and let everything pass is no catching
        assert wrong_habits("actors/feeds/feed.py", f"try:\n    f()\nexcept {caught}:\n    g()\n    raise") == []
