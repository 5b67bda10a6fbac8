"""Logging: one call is one line, whatever it carries, and no call raises."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon import log

FORMATS: tuple[Literal["console", "json"], ...] = ("console", "json")
ANY_TEXT = st.text(st.characters(codec=None), max_size=30)  # lone surrogates too
FIELD_NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name not in ("event", "exception", "exc_info"))
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e\ud800-\udfff]")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(
    format: Literal["auto", "console", "json"],
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "DEBUG",
    stream: io.StringIO | None = None,
) -> io.StringIO:
    stream = io.StringIO() if stream is None else stream
    log.configure(level, format, stream)
    root = logging.getLogger()  # pytest's own handlers raise for a record with bad arguments
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, log._Forward)]
    return stream


def test_json_fields_and_their_order() -> None:
    out = configured("json")
    structlog.get_logger().warning("line.down", exchange="binance", attempt=3, delay=4.2, why=None, ok=True)
    fields = json.loads(out.getvalue())
    assert list(fields) == ["timestamp", "level", "event", "exchange", "attempt", "delay", "why", "ok"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", fields.pop("timestamp"))
    assert fields == {
        "level": "warning", "event": "line.down", "exchange": "binance",
        "attempt": 3, "delay": 4.2, "why": None, "ok": True,
    }  # fmt: skip


def test_console() -> None:
    out = configured("console")
    structlog.get_logger().info("feed.live", exchange="binance", reason="a b", none="", path='"', n=1.5)
    _, _, rest = out.getvalue().partition("Z ")
    assert rest == 'info     feed.live exchange=binance reason="a b" none="" path="\\"" n=1.5\n'


def test_auto_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, terminal = configured("auto"), Terminal()
    structlog.get_logger().info("a")
    assert plain.getvalue().startswith("{")
    log.configure("INFO", "auto", terminal)
    structlog.get_logger().info("a")
    assert terminal.getvalue().startswith("\x1b[2m20")
    monkeypatch.setenv("NO_COLOR", "1")
    uncoloured = Terminal()
    log.configure("INFO", "auto", uncoloured)
    structlog.get_logger().info("a")
    assert "\x1b" not in uncoloured.getvalue()
    assert uncoloured.getvalue().endswith("Z info     a\n")


def test_levels() -> None:
    out = configured("json", "WARNING")
    logger = structlog.get_logger()
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, name)("x")
    assert [json.loads(line)["level"] for line in out.getvalue().splitlines()] == ["warning", "error", "critical"]


def test_a_logger_made_before_follows_the_last_configure() -> None:
    logger = structlog.get_logger()
    first, second = configured("json"), configured("json")
    logger.info("x")
    assert first.getvalue() == ""
    assert second.getvalue() != ""


# --- the standard library


@pytest.mark.parametrize("format", FORMATS)
def test_standard_library_records_come_the_same_way(format: Literal["console", "json"]) -> None:
    configured(format)
    out = configured(format)  # a second time: still one line each
    library = logging.getLogger("hypercorn.test")
    library.info("not told")
    library.warning("told %s", "once")
    library.log(55, "odd level")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "told once" in lines[0]
    assert "hypercorn.test" in lines[0]
    assert "warning" in lines[0]
    assert "error" in lines[1]


def test_standard_library_records_keep_their_traceback_and_bad_arguments() -> None:
    out = configured("json")
    library = logging.getLogger("quart.test")
    try:
        raise KeyError("k")
    except KeyError:
        library.exception("failed")
    library.warning("%d", "not a number")
    library.warning("%s %s", "one")
    library.warning("%(a)s", {"b": 1})
    library.warning("no exception here", exc_info=True)
    first, *rest = map(json.loads, out.getvalue().splitlines())
    assert first["event"] == "failed"
    assert first["exception"].endswith("KeyError: 'k'")
    assert len(rest) == 4
    assert "not a number" in rest[0]["event"]


# --- one call is one line


@pytest.mark.parametrize("format", FORMATS)
@given(event=ANY_TEXT, fields=st.dictionaries(FIELD_NAMES, ANY_TEXT, max_size=4))
def test_any_text_is_one_line(format: Literal["console", "json"], event: str, fields: dict[str, str]) -> None:
    out = configured(format)
    fields.pop("self", None)
    structlog.get_logger().info(event, **fields)
    text = out.getvalue()
    assert text.endswith("\n")
    assert not CONTROL.search(text[:-1])
    text.encode()
    if format == "json":
        json.loads(text)


@pytest.mark.parametrize("format", FORMATS)
def test_what_turns_or_hides_text_is_escaped(format: Literal["console", "json"]) -> None:
    out = configured(format)
    structlog.get_logger().info("a\u202eb", **{"\x9bk": "\u2066\x7f\u2028"})
    assert out.getvalue().isascii()
    assert "a\\u202eb" in out.getvalue()


@given(event=st.text(), field=st.text())
def test_json_gives_back_what_was_said(event: str, field: str) -> None:
    out = configured("json")
    structlog.get_logger().info(event, field=field)
    fields = json.loads(out.getvalue())
    assert (fields["event"], fields["field"]) == (event, field)


@pytest.mark.parametrize("format", FORMATS)
def test_the_fixed_fields_cannot_be_forged(format: Literal["console", "json"]) -> None:
    out = configured(format)
    structlog.get_logger().info("x", level="forged", timestamp="forged")
    assert "forged" not in out.getvalue()


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


ODD_VALUES = [
    object(),
    Broken(),
    [Broken()],
    cycle(),
    10**40,
    float("nan"),
    b"\xff\n",
    {(1, 2): "tuple key"},
    {"\ud800": "\ud800"},
    {1, 2},
    type,
    ValueError("a\nb"),
    Path("/x"),
    "x" * 100_000,
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: type(value).__name__)
def test_any_value_is_one_line(format: Literal["console", "json"], value: object) -> None:
    out = configured(format)
    structlog.get_logger().info("odd", value=value, after=1)
    text = out.getvalue()
    assert not CONTROL.search(text[:-1])
    if format == "json":
        assert json.loads(text)["after"] == 1


# --- tracebacks


def fail(logger: Any) -> None:
    try:
        raise ValueError("first\n2026-01-01T00:00:00Z info     forged\x1b[2J")
    except ValueError:
        logger.exception("down", reason="r")


def test_a_console_traceback_is_indented_and_harmless() -> None:
    out = configured("console")
    fail(structlog.get_logger())
    first, *rest = out.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("error    down reason=r")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    2026-01-01T00:00:00Z info     forged\\u001b[2J"


def test_a_json_traceback_is_a_field() -> None:
    out = configured("json")
    fail(structlog.get_logger())
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue())["exception"].startswith("Traceback")


# --- a stream that does not take it


class Full(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("format", ["auto", *FORMATS])
@pytest.mark.parametrize("closed", [True, False])
def test_a_closed_or_full_stream_raises_nothing(format: Literal["auto", "console", "json"], closed: bool) -> None:
    stream = Full()
    if closed:
        stream.close()
    configured(format, stream=stream)
    structlog.get_logger().error("lost")
    logging.getLogger("library").error("lost")


PROGRAM = """
import structlog
from daemon import log
log.configure("INFO", "auto")
for _ in range(2000):
    structlog.get_logger().info("x", field="y" * 100)
"""


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2>&1 | head -c 1"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_process_ends_well_without_its_stderr(redirect: str) -> None:
    command = ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {redirect}', sys.executable, PROGRAM]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_stderr_is_the_one_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", "json")
    structlog.get_logger().info("x")
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err)["event"] == "x"


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_journald_is_told_the_priority(
    level: str, priority: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$JOURNAL_STREAM is the stream that systemd made; one that was redirected since is another."""

    def written(journal: str, format: Literal["auto", "json"] = "auto") -> str:
        with (tmp_path / "journal").open("w+") as stream:
            found = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", journal.format(found.st_dev, found.st_ino))
            log.configure("DEBUG", format, stream)
            getattr(structlog.get_logger(), level)("x.y", text="a\nb")
            stream.seek(0)
            return stream.read()

    line = written("{}:{}")
    assert line.startswith(f"<{priority}>{{")
    assert json.loads(line.removeprefix(f"<{priority}>"))["text"] == "a\nb"
    assert line.count("\n") == 1
    assert written("{}:1").startswith("{")
    assert written("nonsense").startswith("{")
    assert written("{}:{}", "json").startswith("{")
