"""`marketd key`: make, list and revoke the keys of clients. No daemon is needed; one that runs notices by itself."""

import argparse
import fcntl
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import msgspec

from daemon import output
from daemon.kinds import EX_CONFIG
from daemon.settings import Config
from web.access.keys import Key, Keys, KeysError, Scope, new_key, read_keys, write_keys

UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class Listed(msgspec.Struct, omit_defaults=True):
    """A key as it is shown: nothing that helps to guess it."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created: datetime
    expires: datetime | None = None
    limits: dict[str, int | float] = {}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    help = "make, list and revoke the keys of clients"
    actions = commands.add_parser("key", help=help, description=help).add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    new = _action(actions, "new", "make a key and print it, this once")
    new.add_argument("--name", type=_name, required=True, help="whose it is: shown in `key list` and in the log")
    new.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        choices=get_args(Scope),
        metavar="SCOPE",
        help="what it may do: read, export, metrics or admin; may be given again; default: read",
    )
    new.add_argument("--expires", type=_span, metavar="SPAN", help="how long it can be used: 90d, 12h, 30m, 30s")
    listing = _action(actions, "list", "show the keys there are")
    listing.add_argument("--json", action="store_true", help="for programs")
    revoke = _action(actions, "revoke", "take a key away; what it has open ends at once")
    revoke.add_argument("id", metavar="ID", help="the part between the two underscores")


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=help, description=help)
    action.add_argument("--keys-file", type=Path, metavar="FILE", help="default: what auth.keys_file says")
    action.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="default: ./config.toml")
    return action


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > 100:
        raise argparse.ArgumentTypeError("expected 1 to 100 printable characters")
    return text


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"0*([1-9][0-9]{0,8})([dhms])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 90d, 12h or 30s, got {text[:40]!r}")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def run(options: argparse.Namespace, load: Callable[[], Config]) -> int:
    """Run the command; returns the exit code. `load` is called where the options name no file. Raises ConfigError."""
    path = options.keys_file or Path(load().auth.keys_file)
    try:
        if options.action == "list":
            return output.result(_listing(read_keys(path), as_json=options.json))
        with _alone(path):
            keys = read_keys(path)
            return _new(options, path, keys) if options.action == "new" else _revoke(options.id, path, keys)
    except KeysError as error:
        return output.fail(error, EX_CONFIG)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile. Its folder is locked: after a change the file is another one."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeysError(f"{path}: its folder cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _new(options: argparse.Namespace, path: Path, keys: Keys) -> int:
    now = datetime.now(UTC).replace(microsecond=0)
    text, id, sha256 = new_key()
    try:
        expires = None if options.expires is None else now + options.expires
    except OverflowError:
        return output.fail("--expires: there is no date that late", 2)
    scopes = tuple(dict.fromkeys(options.scopes or ["read"]))
    write_keys(path, {**keys, id: Key(options.name, sha256, scopes, now, expires)})
    lost = output.write(sys.stdout, f"{text}\n")
    if lost is not None or sys.stdout is None:  # nobody knows it, and nobody ever will
        write_keys(path, keys)
        return output.fail("stdout does not take the key, so there is none", 1)
    return 0


def _revoke(id: str, path: Path, keys: Keys) -> int:
    if id not in keys:
        return output.fail(f"{path}: there is no key with the id {id[:40]!r}", 1)
    write_keys(path, {other: key for other, key in keys.items() if other != id})
    return 0


def _listing(keys: Keys, *, as_json: bool) -> str:
    listed = [Listed(id, key.name, key.scopes, key.created, key.expires, key.limits) for id, key in keys.items()]
    if as_json:
        return msgspec.json.format(msgspec.json.encode(listed), indent=2).decode() + "\n"
    now = datetime.now(UTC)
    rows = [("ID", "SCOPES", "CREATED", "EXPIRES", "NAME")]
    rows += [(key.id, ",".join(key.scopes), _day(key.created), _expiry(keys, key.id, now), key.name) for key in listed]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def _expiry(keys: Mapping[str, Key], id: str, now: datetime) -> str:
    key = keys[id]
    if key.expires is None:
        return "never"
    return _day(key.expires) + (" (over)" if key.is_over(now) else "")


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")
