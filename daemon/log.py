"""One way out for what the program says of itself: structured lines on stderr.

Call `configure` once; everybody else does `structlog.get_logger()` and calls its plain methods. One
call is one line whatever text it carries (on a console a traceback follows, indented), and no call
raises because of what it was given or because stderr is closed or full.
"""

import json
import logging
import os
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# What breaks a line, drives a terminal or turns the reading direction; lone surrogates do not encode.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r'[^\s"=\\]+')  # a value that needs no quotes
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # of syslog
_COLORS = {"debug": 34, "info": 32, "warning": 33, "error": 31, "critical": 31}

_repr = reprlib.Repr()  # survives a __repr__ that raises, and bounds what is shown
_repr.maxother = _repr.maxstring = 1000

LINES: Counter[str] = Counter()  # written since the start, by level: the log is the process's, as this is
_steps: list[Processor] = []  # in use: loggers that were bound before hold this very list
Renderer = Callable[[WrappedLogger, str, EventDict], str]


def configure(
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    format: Literal["auto", "console", "json"],
    stream: TextIO | None = None,
) -> None:
    """Log from `level` up to `stream` (None: stderr as it is now); `auto` looks for a terminal, and for journald.

    Records of the standard library's loggers come the same way, from WARNING up. May be called
    again: the last call counts.
    """
    stream = sys.stderr if stream is None else stream
    terminal = _is_terminal(stream)
    console = format == "console" or (format == "auto" and terminal)
    renderer = _console(terminal and "NO_COLOR" not in os.environ) if console else _json
    if format == "auto" and _is_journal(stream):
        renderer = _journal
    _steps[:] = [
        structlog.processors.add_log_level,
        _from(logging.getLevelName(level)),
        _count,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        renderer,
    ]
    structlog.configure(
        processors=_steps,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _Lines(stream),
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward(logging.WARNING))
    root.setLevel(logging.WARNING)


def _is_terminal(stream: TextIO | None) -> bool:
    with suppress(OSError, ValueError):  # closed
        return stream is not None and stream.isatty()
    return False


def _from(lowest: int) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    """Lines of at least this level. A step of its own: what was bound before another level was chosen heeds it too."""

    def judged(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
        if logging.getLevelName(fields["level"].upper()) < lowest:
            raise structlog.DropEvent
        return fields

    return judged


def _count(_logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    LINES[fields["level"]] += 1
    return fields


def _is_journal(stream: TextIO | None) -> bool:
    """Whether a stream is the one that systemd set up: $JOURNAL_STREAM names its device and inode."""
    with suppress(OSError, ValueError):
        if stream is not None:
            found = os.fstat(stream.fileno())
            return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


class _Lines:
    """The last step of a log call. A line that cannot be written is lost: where could it be told?

    It goes past Python's buffers: what a full disk refused would wait in them, and make the end of the program fail.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: the process was started without a stderr
        self._descriptor: int | None = None  # None: a stream that has none, as in tests
        if stream is not None:
            with suppress(OSError, ValueError):
                self._descriptor = stream.fileno()

    def msg(self, line: str) -> None:
        if self._stream is None:
            return
        with suppress(OSError, ValueError):
            if self._descriptor is None:
                self._stream.write(line + "\n")
                self._stream.flush()
                return
            rest = memoryview((line + "\n").encode(self._stream.encoding, "backslashreplace"))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    debug = info = warning = error = critical = msg


class _Forward(logging.Handler):
    """Sends the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            event = _repr.repr((record.msg, record.args))  # arguments that do not fit the message
        log = structlog.get_logger()
        emit = log.error if record.levelno >= logging.ERROR else log.warning
        emit(event, logger=record.name, exc_info=record.exc_info)


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _ordered(fields: EventDict) -> EventDict:
    first = {key: fields.pop(key, None) for key in ("timestamp", "level", "event")}
    return {**first, **fields}


def _json(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    line = msgspec.json.encode({_encodable(k): _field(v) for k, v in _ordered(fields).items()})
    return _escape(line.decode())  # what JSON itself leaves bare can only be within its strings


def _journal(logger: WrappedLogger, method: str, fields: EventDict) -> str:
    return f"<{_PRIORITIES.get(fields['level'], 6)}>{_json(logger, method, fields)}"


def _field(value: object) -> msgspec.Raw | str:
    try:
        return msgspec.Raw(msgspec.json.encode(value, enc_hook=_repr.repr))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        # A lone surrogate, an integer of more than 64 bits, an odd key, a cycle.
        return _encodable(value if isinstance(value, str) else _repr.repr(value))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _console(colors: bool) -> Renderer:
    def paint(text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colors else text

    def render(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
        trace = fields.pop("exception", None)
        ordered = _ordered(fields)
        timestamp, level, event = (_text(ordered.pop(key)) for key in ("timestamp", "level", "event"))
        line = [paint(timestamp, 2), paint(f"{level:<8}", _COLORS.get(level, 0)), paint(event, 1)]
        line += [f"{paint(_text(key), 36)}={_value(value)}" for key, value in ordered.items()]
        # The traceback is indented, so that no text within it can pass for a log line.
        below = str(trace).split("\n") if trace is not None else []
        return "\n    ".join([" ".join(line), *map(_escape, below)])

    return render


def _text(value: object) -> str:
    return _escape(value if isinstance(value, str) else _repr.repr(value))


def _value(value: object) -> str:
    text = value if isinstance(value, str) else _repr.repr(value)
    bare = not isinstance(value, str) or _PLAIN.fullmatch(text)
    return _escape(text if bare else json.dumps(text, ensure_ascii=False))
