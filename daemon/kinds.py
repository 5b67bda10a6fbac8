"""What each key may be, read off the types of the sections, and how a value that does not fit is told of."""

import json
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from daemon.settings import Config, ExchangeSettings, Sink

EX_CONFIG = 78  # the exit code, as in sysexits.h

Key = tuple[str, ...]
"""("server", "port"), ("exchanges", NAME, "symbols"), ("sink", NUMBER, "url")"""


class ConfigError(Exception):
    """str() is one printable line: where (file and key, variable or option) and what is wrong."""

    def __init__(self, where: str, what: str) -> None:
        # Keys, file names and values come from outside: no control character may reach the terminal.
        line = (c if c.isprintable() else ascii(c)[1:-1] for c in f"{where}: {what}")
        super().__init__("".join(line))


class Kind(NamedTuple):
    annotated: Any  # the type that msgspec checks
    bare: Any  # the same without its constraints
    expected: str
    keep: Callable[[Any], Any]  # what msgspec cannot check; ValueError: does not fit
    secret: bool  # the value may hold a password: never show it


def kinds_of(section: type[msgspec.Struct], *prefix: str) -> dict[Key, Kind]:
    """What each key of a section may be, by its place."""
    return {(*prefix, field.name): _kind(field.type) for field in msgspec.structs.fields(section)}


def _kind(annotated: Any) -> Kind:
    if get_origin(annotated) in (Union, UnionType):  # it may be absent: what is given is the other part
        annotated = next(part for part in get_args(annotated) if get_origin(part) is Annotated)
    if get_origin(annotated) is not Annotated:
        return Kind(annotated, annotated, "true or false", lambda value: value, secret=False)
    bare, meta = get_args(annotated)
    extra: Mapping[str, Any] = meta.extra or {}
    return Kind(annotated, bare, meta.description, extra.get("keep", lambda value: value), extra.get("secret", False))


KINDS: dict[Key, Kind] = {
    key: kind
    for field in msgspec.structs.fields(Config)
    if field.name not in ("sink", "exchanges")
    for key, kind in kinds_of(field.type, field.name).items()
}
EXCHANGE_KINDS: dict[str, Kind] = {key[-1]: kind for key, kind in kinds_of(ExchangeSettings).items()}
SINK_KINDS: dict[str, Kind] = {key[-1]: kind for key, kind in kinds_of(Sink).items()}


def fitting(kind: Kind, value: object, where: str, *, strict: bool = True) -> object:
    """`value` as it is kept; ConfigError: it does not fit. `strict`: no number is made of a string."""
    given = value
    if get_origin(kind.bare) is Literal and isinstance(value, str):
        value = next((option for option in get_args(kind.bare) if option.lower() == value.strip().lower()), value)
    try:
        return kind.keep(msgspec.convert(value, kind.annotated, strict=strict))
    except ValueError:  # msgspec's own are such
        got = "" if kind.secret else f", got {show(given)}"
        raise ConfigError(where, f"expected {kind.expected}{got}") from None


def from_text(kind: Kind, text: str, where: str) -> object:
    """What a variable or an option says, in place of what TOML has types for."""
    if kind.bare is bool:
        return fitting(kind, {"yes": True, "no": False}.get(text.strip().lower(), text.strip()), where, strict=False)
    if kind.bare in (int, float):
        return fitting(kind, text.strip(), where, strict=False)
    if kind.bare is str or get_origin(kind.bare) is Literal:
        return fitting(kind, text, where)
    return fitting(kind, _list(text), where)


def _list(text: str) -> object:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text  # does not fit either, and is shown as it was written
    return [part.strip() for part in text.split(",")] if text.strip() else []


def show(value: object) -> str:
    """A value in a message: one short line."""
    match value:
        case bool():
            return str(value).lower()
        case int() if abs(value) >= 1 << 64:  # may be too long for str()
            return "a huge integer"
        case int() | float():
            return str(value)
        case str():
            return json.dumps(value[:80], ensure_ascii=False) + "..." * (len(value) > 80)
        case list() if all(isinstance(item, str) for item in value[:10]):
            return f"[{', '.join(map(show, value[:10]))}{', ...' * (len(value) > 10)}]"
        case list() | dict():
            return "a list" if isinstance(value, list) else "a table"
    return f"a {type(value).__name__}"
