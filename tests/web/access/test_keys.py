"""Keys: what is kept of them, and a file that is ours or is refused in one line without a secret."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from web.access.keys import Key, KeysError, find_id, new_key, read_keys, write_keys
from web.access.limits import Limits

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def made(**changes: Any) -> tuple[str, str, Key]:
    text, id, sha256 = new_key()
    fields: dict[str, Any] = {"name": "desk", "sha256": sha256, "scopes": ("read",), "created": NOW}
    return text, id, Key(**fields | changes)


def test_a_key_is_found_by_its_text_and_by_no_other() -> None:
    (text, id, key), (other_text, other, _) = made(), made()
    keys = {id: key}
    assert find_id(text, keys) == id
    assert text.startswith(f"mk_{id}_")
    assert len(text) == 3 + 8 + 1 + 43
    secret = text[-43:]
    for wrong in (
        *(other_text, f"mk_{id}_{other_text[-43:]}", f"mk_{other}_{secret}", text[:-1], f"{text}x", f" {text}"),
        *("", "mk_", text.upper(), f"{text}\n", key.sha256, f"mk_{id}_{key.sha256}"),
    ):
        assert find_id(wrong, keys) is None, wrong


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    assert read_keys(path) == {}
    keys = {
        "abcd1234": made(name='a "quoted"\n name\x7f\u20ac', scopes=("read", "export"))[2],
        "00000000": made(expires=NOW + timedelta(days=90), limits={"request_burst": 5, "requests_per_second": 0.5})[2],
    }
    write_keys(path, keys)
    assert read_keys(path) == keys
    assert path.stat().st_mode & 0o777 == 0o600
    write_keys(path, {})
    assert read_keys(path) == {}
    assert os.listdir(tmp_path) == ["keys.toml"]


def test_a_keys_own_limits_go_over_everybodys() -> None:
    key = made(limits={"topics": 3, "requests_per_second": 0.0})[2]
    assert key.limits_over(Limits(exports=7)) == Limits(exports=7, topics=3, requests_per_second=0.0)


GOOD = '[abcd1234]\nname = "x"\nsha256 = "' + "ab" * 32 + '"\nscopes = ["read"]\ncreated = 2026-01-15T12:00:00Z\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[abcd1234", "is not TOML"),
        ("\udcff", "is not TOML"),
        ('abcd1234 = "mk_secret"\n', "Expected object, got str"),
        (GOOD.replace("abcd1234", "ABCD"), "'ABCD' is not a key's id"),
        (GOOD.replace('"read"', '"root"'), "Invalid enum value 'root'"),
        (GOOD.replace('["read"]', "[]"), "abcd1234.scopes: must be at least one"),
        (GOOD.replace("ab" * 32, "ab"), "abcd1234.sha256: must be 64 hexadecimal digits"),
        (GOOD.replace("12:00:00Z", "12:00:00"), "abcd1234.created: must be a time with its zone"),
        (GOOD + "expires = 2026-02-01T00:00:00\n", "abcd1234.expires: must be a time with its zone"),
        (GOOD + "colour = 1\n", "unknown field colour"),
        (GOOD + "limits = { exempt = 1 }\n", "a key has no exempt of its own"),
        (GOOD + "limits = { tropics = 1 }\n", "unknown field tropics"),
        (GOOD + "limits = { topics = -1 }\n", "int >= 0"),
        (GOOD.replace('name = "x"', ""), "required field name"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(KeysError) as error:
        read_keys(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert says in line.replace("contains ", "")
    assert "\n" not in line
    assert "mk_secret" not in line


def test_a_good_file_is_read_only_where_nobody_else_may(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(GOOD)
    for mode in (0o644, 0o640, 0o606):
        path.chmod(mode)
        with pytest.raises(KeysError, match="others may read or write it; chmod 600"):
            read_keys(path)
    path.chmod(0o600)
    assert msgspec.structs.asdict(read_keys(path)["abcd1234"])["name"] == "x"
    with pytest.raises(KeysError, match="cannot be read: Is a directory"):
        read_keys(tmp_path)
