"""Keys: what one looks like, what is kept of it, and the file that they are kept in.

Law: of a key only its SHA-256 is kept. Its secret is 32 random bytes: there is nothing to guess, so a slow hash would
only burn our own time. No other I/O than reading and writing the file.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import string
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from web.access.limits import Limits

Scope = Literal["read", "export", "metrics", "admin"]
Keys = Mapping[str, "Key"]
"""By id."""

ID_LENGTH = 8
SECRET_BYTES = 32
NOT_OF_KEYS = {"exempt", "memory_mb"}  # of Limits: they are not of one client
_ID_LETTERS = string.ascii_lowercase + string.digits
_ID = re.compile(rf"[a-z0-9]{{{ID_LENGTH}}}")
_KEY = re.compile(rf"mk_([a-z0-9]{{{ID_LENGTH}}})_([A-Za-z0-9_-]{{43}})")
_NOBODY = bytes(32)  # what an unknown id's secret is compared with: it takes the same time


class KeysError(Exception):
    """str() is one line: the file, the key's id and what is wrong. No secret is in it."""


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key. Times are aware. `limits`: where they differ from everybody's, by the names of Limits."""

    name: str
    sha256: str  # of the secret, 64 hexadecimal digits
    scopes: tuple[Scope, ...]
    created: datetime
    expires: datetime | None = None
    limits: dict[str, int | float] = {}

    def is_over(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now

    def limits_over(self, common: Limits) -> Limits:
        """Everybody's limits, but for the key's own."""
        return msgspec.structs.replace(common, **self.limits)


def new_key() -> tuple[str, str, str]:
    """(the whole key, its id, the SHA-256 to keep)."""
    id = "".join(secrets.choice(_ID_LETTERS) for _ in range(ID_LENGTH))
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return f"mk_{id}_{secret}", id, _hash(secret).hex()


def find_id(text: str, keys: Keys) -> str | None:
    """The id of the key that a text is; None where it is none that is kept. It may have expired."""
    match = _KEY.fullmatch(text)
    if match is None:
        return None
    id, secret = match.groups()
    key = keys.get(id)
    expected = _NOBODY if key is None else bytes.fromhex(key.sha256)
    return id if hmac.compare_digest(_hash(secret), expected) and key is not None else None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


# --- the file


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a file; none where there is no file. Raises KeysError: unreadable, others may read it, not ours."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise KeysError(f"{path}: cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeysError(f"{path}: others may read or write it; chmod 600 makes it yours alone")
    try:
        tree = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        where = getattr(error, "lineno", None)  # its text may quote what is in the file
        raise KeysError(f"{path}: is not TOML{f', line {where}' if where else ''}") from None
    return {id: _key(path, id, value) for id, value in tree.items()}


def _key(path: Path, id: str, value: Any) -> Key:
    if not _ID.fullmatch(id):
        raise KeysError(f"{path}: {id[:40]!r} is not a key's id: {ID_LENGTH} letters a-z and digits")
    try:
        key = msgspec.convert(value, Key)
        if stray := NOT_OF_KEYS.intersection(key.limits):
            raise msgspec.ValidationError(f"a key has no {min(stray)} of its own - at `$.limits`")
        msgspec.convert(key.limits, Limits)
    except msgspec.ValidationError as error:
        raise KeysError(f"{path}: {id}: {str(error).replace('`', '').replace(' - at $', ', at ')}") from None
    problems = {
        "sha256": not re.fullmatch(r"[0-9a-f]{64}", key.sha256),
        "scopes": not key.scopes,
        "created": key.created.tzinfo is None,
        "expires": key.expires is not None and key.expires.tzinfo is None,
    }
    for name, is_wrong in problems.items():
        if is_wrong:
            expected = {"sha256": "64 hexadecimal digits", "scopes": "at least one"}.get(name, "a time with its zone")
            raise KeysError(f"{path}: {id}.{name}: must be {expected}")
    return key


def write_keys(path: Path, keys: Keys) -> None:
    """Put the file in the place of the one there is, at once: who reads it meanwhile reads the one or the other."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            _give_to_owner(file.fileno(), path)
            file.write("\n".join(_table(id, key) for id, key in keys.items()).encode())
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def _give_to_owner(descriptor: int, path: Path) -> None:
    """What root writes for a service must be the service's own: it may not read anybody else's. Raises OSError."""
    if os.geteuid() == 0:
        owner = (path if path.exists() else path.parent).stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _table(id: str, key: Key) -> str:
    lines = [f"[{id}]", f"name = {_text(key.name)}", f'sha256 = "{key.sha256}"']
    lines += [f"scopes = [{', '.join(map(_text, key.scopes))}]", f"created = {_time(key.created)}"]
    if key.expires is not None:
        lines.append(f"expires = {_time(key.expires)}")
    if key.limits:
        lines.append(f"limits = {{ {', '.join(f'{name} = {value}' for name, value in key.limits.items())} }}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    # TOML's basic strings are JSON's, but for one character more that must be escaped.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
