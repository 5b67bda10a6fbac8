"""`marketd check`: the effective configuration as TOML, for people."""

import json
from urllib.parse import urlsplit, urlunsplit

import msgspec

from daemon.kinds import EXCHANGE_KINDS, KINDS, SINK_KINDS, Kind
from daemon.settings import Config


def dump(config: Config) -> str:
    """`config` as TOML; what is a secret, or may be one in a URL, is `***`."""
    sections = [name for name in Config.__struct_fields__ if name not in ("sink", "exchanges")]
    tables = [(f"[{name}]", getattr(config, name), _kinds_of(name)) for name in sections]
    tables += [("[[sink]]", sink, SINK_KINDS) for sink in config.sink]
    tables += [(f"[exchanges.{name}]", exchange, EXCHANGE_KINDS) for name, exchange in config.exchanges.items()]
    lines = []
    for head, table, kinds in tables:
        lines += ["", head]
        for key, value in msgspec.structs.asdict(table).items():
            kind = kinds[key]
            if value is not None:  # TOML has no null: a key that is not there
                lines.append(f"{key} = {_toml(_masked(value) if kind.secret else value)}")
    return "\n".join(lines[1:]) + "\n"


def _kinds_of(section: str) -> dict[str, Kind]:
    return {key[-1]: kind for key, kind in KINDS.items() if key[0] == section}


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # spelled alike: strings, numbers, booleans


def _masked(url: str) -> str:
    if "://" not in url:
        return url and "***"
    parts = urlsplit(url)
    _, secret, host = parts.netloc.rpartition("@")
    if not secret and not parts.query:
        return url
    query = "***" if parts.query else ""
    return urlunsplit(parts._replace(netloc=f"***@{host}" if secret else host, query=query))
