"""Imports point one way, and some names may be used in one place only. Read from the source, nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {"actors": 0, "web": 1, "daemon": 2}
PROGRAM = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))

# Who may know a library. Simulators are the other end of the wire and may know what speaks it.
KEEPERS = {
    "httpx": {"actors/rest.py"},
    "trio_websocket": {"actors/dial.py", "actors/line.py"},
    "hypercorn": {"web/protocol.py", "web/pinned.py", "web/server.py", "web/outbox.py"},
}
SIMULATED = {"trio_websocket"}

# Who may catch everything: the restart loop, and the boundary where one client's fault must stay its own.
CATCHERS = {"daemon/supervisor.py", "web/server.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_simulator(name: str) -> bool:
    """A module of the simulated exchanges, by its path or by its dotted name."""
    last = name.removesuffix(".py").replace("/", ".").split(".")[-1]
    return last.startswith(("simulator", "simulated"))


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
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "actors" and parts[1] in folders else None


def wrong_imports(name: str, source: str, folders: set[str]) -> list[str]:
    """What the file `name` imports although it may not."""
    layer = name.split("/")[0]
    dotted = name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
    own_exchange = exchange_of(dotted, folders)
    wrong = []
    for module in imported(ast.parse(source), name):
        top = module.split(".")[0]
        exchange = exchange_of(module, folders)
        if LAYERS.get(top, -1) > LAYERS.get(layer, 9):
            wrong.append(f"{name} is below {module}")
        if exchange is not None and exchange != own_exchange and layer != "tests":
            wrong.append(f"{name} names the exchange {module}")
        if top in LAYERS and is_simulator(module) and not (is_simulator(name) or name == "daemon/demo.py"):
            wrong.append(f"{name} knows the simulator {module}")
        if top in KEEPERS and name not in KEEPERS[top] and not (top in SIMULATED and is_simulator(name)):
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


FOLDERS = {path.parent.name for path in (ROOT / "actors").glob("*/__init__.py")}


def test_the_program_is_where_it_is_looked_for() -> None:
    assert {"binance"} <= FOLDERS
    assert {"actors/feed.py", "actors/binance/session.py", "web/server.py", "daemon/main.py"} <= set(
        map(name_of, PROGRAM)
    )
    for keepers in KEEPERS.values():
        assert keepers <= set(map(name_of, PROGRAM))


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(name_of(path), path.read_text(), FOLDERS) == []


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_nothing_is_caught_wholesale_printed_or_slept_through(path: Path) -> None:
    assert wrong_habits(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("actors/feed.py", "import web.app"),
        ("actors/feed.py", "from daemon.config import Config"),
        ("actors/binance/rest.py", "def f():\n    from web import app"),
        ("web/app.py", "from daemon import main"),
        ("actors/binance/rest.py", "from actors.bybit import wire"),
        ("actors/binance/rest.py", "from actors import bybit"),
        ("actors/binance/rest.py", "from ..bybit.wire import Trade"),
        ("actors/feed.py", "from actors.binance.session import NAME"),
        ("web/rest.py", "import actors.bybit"),
        ("daemon/main.py", "importlib.import_module('actors.bybit')"),
        ("actors/feed.py", "from actors.simulated_market import Market"),
        ("actors/binance/rest.py", "from actors.binance import simulator_rows"),
        ("daemon/main.py", "from actors import simulator"),
        ("web/app.py", "import httpx"),
        ("actors/line.py", "from httpx import AsyncClient"),
        ("actors/simulator.py", "import httpx"),
        ("actors/feed.py", "import trio_websocket"),
        ("actors/connector.py", "import hypercorn.trio"),
        ("web/app.py", "from hypercorn.config import Config"),
    ],
)
def test_the_check_sees_what_is_wrong(name: str, source: str) -> None:
    assert wrong_imports(name, source, {"binance", "bybit"}) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("daemon/demo.py", "from actors.simulated_market import Market"),
        ("actors/binance/simulator.py", "from actors.simulator import Simulator\nfrom actors.binance import wire"),
        ("actors/simulator.py", "import trio_websocket"),
        ("actors/binance/__init__.py", "from actors.binance.rest import explain\nfrom actors.budget import Window"),
        ("actors/binance/rest.py", "from . import wire"),
        ("web/rest.py", "from actors.connector import Connector"),
        ("daemon/main.py", "from web.app import create_app"),
        ("actors/rest.py", "import httpx"),
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
    assert wrong_habits("actors/feed.py", source) != []
    for caught in ("OSError", "BaseException"):  # to clean up and let everything pass is no catching
        assert wrong_habits("actors/feed.py", f"try:\n    f()\nexcept {caught}:\n    g()\n    raise") == []
