"""`marketd check`: the effective configuration as TOML, for people."""

import json
from urllib.parse import urlsplit, urlunsplit

import msgspec

from daemon.kinds import EXCHANGE_KINDS, KINDS
from daemon.settings import Config


def dump(config: Config) -> str:
    """`config` as TOML; what may be a secret in a URL is `***`."""
    tables: dict[tuple[str, ...], msgspec.Struct] = {
        (name,): getattr(config, name) for name in Config.__struct_fields__[:-1]
    }
    tables |= {("exchanges", name): exchange for name, exchange in config.exchanges.items()}
    lines = []
    for place, table in tables.items():
        lines += ["", f"[{'.'.join(place)}]"]
        for key, value in msgspec.structs.asdict(table).items():
            kind = EXCHANGE_KINDS[key] if place[0] == "exchanges" else KINDS[*place, key]
            if value is not None:  # TOML has no null: a key that is not there
                lines.append(f"{key} = {_toml(_masked(value) if kind.secret else value)}")
    return "\n".join(lines[1:]) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # spelled alike: strings, numbers, booleans


def _masked(url: str) -> str:
    parts = urlsplit(url)
    _, secret, host = parts.netloc.rpartition("@")
    if not secret and not parts.query:
        return url
    query = "***" if parts.query else ""
    return urlunsplit(parts._replace(netloc=f"***@{host}" if secret else host, query=query))
