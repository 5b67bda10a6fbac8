"""How short memory is noticed: the process's own limit, or that of the cgroup it runs in."""

from pathlib import Path

import pytest

from daemon.settings import Archive
from tests.daemon.fixtures import eventually, world
from web.access.limits import Limits
from web.pressure import Pressure, cgroup_limit, resident_bytes


def test_pressure_begins_above_the_limit_and_ends_well_below_it() -> None:
    used = 0
    pressure = Pressure(100, resident=lambda: used)
    told = []
    for used in (90, 101, 99, 96, 94, 99):
        used *= 1_000_000
        pressure.look()
        told.append(pressure.is_high)
    assert told == [False, True, True, True, False, False]


def test_what_the_process_holds_is_known() -> None:
    before = resident_bytes()
    held = bytearray(b"x" * 40_000_000)
    assert resident_bytes() > before + 30_000_000
    assert len(held) > before % 2


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/system.slice/marketd.service\n", {"system.slice/marketd.service/memory.max": "2147483648\n"}, 2147483648),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "1000000\n"}, 1_000_000),
        ("0::/../host/of/container\n", {"memory.max": "5000000\n"}, 5_000_000),
        ("9:memory:/x\n1:name=systemd:/\n", {"memory/x/memory.limit_in_bytes": "7000000\n"}, 7_000_000),
        ("9:cpu,memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a\n", {"a/memory.max": "nonsense"}, None),
    ],
)
def test_the_limit_of_a_cgroup(groups: str, files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "self").write_text(groups)
    assert cgroup_limit(tmp_path / "self", root) == limit


def test_where_nothing_is_limited_nothing_is_short() -> None:
    pressure = Pressure(0, resident=lambda: 1 << 50)
    pressure.limit = 0
    pressure.look()
    assert not pressure.is_high


async def test_what_is_refused_while_memory_is_short_is_refused_as_such(tmp_path: Path) -> None:
    archive = Archive(path=str(tmp_path / "marketd.db"))
    async with world(limits=Limits(memory_mb=1), archive=archive, live=False) as w:
        await eventually(lambda: w.logged("memory.short"), what="the look at what is used")
        for name in ("/export/ohlc", "/export/ohlc.parquet"):
            told = await w.problem(name, 503, "overloaded", interval="1m")
            assert told["retry_after"] >= 1
        assert (await w.client.get("/health")).status_code == 200
        async with w.stream("/ws") as stream:
            topics = ["binance:ETHUSDT:trades", "all:large_trades?min_value_usd=7", "binance:BTCUSDT:trades"]
            await stream.say({"op": "subscribe", "topics": topics})
            await eventually(lambda: stream.of("ack"))
            assert stream.of("ack")[0]["topics"] == topics[2:]
            assert {frame["code"] for frame in stream.of("error")} == {"overloaded"}
            assert {frame["topic"] for frame in stream.of("error")} == set(topics[:2])
