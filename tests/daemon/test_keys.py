"""`marketd key`: what it prints, what it keeps, and what happens when two do it at once or nobody takes the key."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from web.access.keys import find_id, read_keys

BARE = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def marketd(*arguments: str, folder: Path, environ: Mapping[str, str] = BARE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=50,
    )


def key(folder: Path, *arguments: str) -> str:
    """What a command that ends well prints."""
    done = marketd("key", *arguments, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_key_is_printed_once_and_never_kept(tmp_path: Path) -> None:
    printed = key(tmp_path, "new", "--name", "a bot", "--scope", "read", "--scope", "export", "--expires", "90d")
    assert re.fullmatch(r"mk_[a-z0-9]{8}_[A-Za-z0-9_-]{43}\n", printed)
    path = tmp_path / "keys.toml"
    keys = read_keys(path)
    id = find_id(printed.strip(), keys)
    assert id is not None
    assert (keys[id].name, keys[id].scopes) == ("a bot", ("read", "export"))
    assert keys[id].expires == keys[id].created + timedelta(days=90)
    assert abs(keys[id].created - datetime.now(UTC)) < timedelta(minutes=5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = printed.strip().rpartition("_")[2]
    assert secret not in path.read_text()
    for listing in (key(tmp_path, "list"), key(tmp_path, "list", "--json")):
        assert id in listing
        assert secret not in listing
        assert keys[id].sha256 not in listing
    (listed,) = json.loads(listing)
    assert listed == {
        "id": id,
        "name": "a bot",
        "scopes": ["read", "export"],
        "created": keys[id].created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expires": (keys[id].created + timedelta(days=90)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def test_a_revoked_key_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    first, second = (key(tmp_path, "new", "--name", name).strip() for name in ("one", "two"))
    key(tmp_path, "revoke", first.split("_")[1])
    keys = read_keys(tmp_path / "keys.toml")
    assert find_id(first, keys) is None
    assert find_id(second, keys) is not None
    assert keys[second.split("_")[1]].scopes == ("read",)
    done = marketd("key", "revoke", first.split("_")[1], folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("marketd: keys.toml: there is no key with the id ")


def test_the_file_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "my.toml").write_text('[auth]\nkeys_file = "ours.toml"\n')
    key(tmp_path, "new", "--name", "a", "--config", "etc/my.toml")
    assert len(read_keys(tmp_path / "etc" / "ours.toml")) == 1
    # A file that is named needs no configuration, not even one that is right.
    (tmp_path / "config.toml").write_text("nonsense")
    key(tmp_path, "new", "--name", "a", "--keys-file", "third.toml")
    assert len(read_keys(tmp_path / "third.toml")) == 1
    assert marketd("key", "list", folder=tmp_path).returncode == 78


def test_keys_made_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: key(tmp_path, "new", "--name", str(n)), range(8)))
    assert {entry.name for entry in read_keys(tmp_path / "keys.toml").values()} == set(map(str, range(8)))
    assert os.listdir(tmp_path) == ["keys.toml"]


def test_a_key_that_nobody_saw_does_not_exist(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "daemon", "key", "new", "--name", "a"],
            cwd=tmp_path,
            env={**BARE, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=50,
        )
    assert (done.returncode, done.stderr) == (1, "marketd: stdout does not take the key, so there is none\n")
    assert read_keys(tmp_path / "keys.toml") == {}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["new"], 2, "--name"),
        (["new", "--name", ""], 2, "expected 1 to 100 printable characters"),
        (["new", "--name", "a\nb"], 2, "expected 1 to 100 printable characters"),
        (["new", "--name", "a", "--scope", "write"], 2, "invalid choice: 'write'"),
        (["new", "--name", "a", "--expires", "0d"], 2, "expected a time such as 90d, 12h or 30s"),
        (["new", "--name", "a", "--expires", "90"], 2, "expected a time such as 90d, 12h or 30s"),
        (["new", "--name", "a", "--expires", "999999999d"], 2, "there is no date that late"),
        (["new", "--name", "a", "--keys-file", "no/such/folder.toml"], 78, "its folder cannot be used"),
        (["revoke", "nosuchid"], 1, "there is no key with the id 'nosuchid'"),
        ([], 2, "ACTION"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    done = marketd("key", *arguments, folder=tmp_path)
    assert done.returncode == code
    assert told in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_file_that_others_may_read_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("")
    path.chmod(0o644)
    for arguments in (["new", "--name", "a"], ["list"], ["revoke", "aaaaaaaa"]):
        done = marketd("key", *arguments, folder=tmp_path)
        assert done.returncode == 78
        assert done.stderr == "marketd: keys.toml: others may read or write it; chmod 600 makes it yours alone\n"
    assert path.read_text() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes files for others")
def test_what_root_writes_for_a_service_is_the_services(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    key(tmp_path, "new", "--name", "a")
    found = (tmp_path / "keys.toml").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 12346, 0o600)
    os.chown(tmp_path / "keys.toml", 1, 1)
    key(tmp_path, "new", "--name", "b")
    assert (tmp_path / "keys.toml").stat().st_uid == 1
