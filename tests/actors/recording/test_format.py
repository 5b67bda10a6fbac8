"""The recording's file: what is written is read, up to where it was cut; what is damaged is refused by name."""

import gzip
import resource
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from actors.clock import from_us, now, to_us
from actors.recording import format as recording
from actors.recording.format import AnyRecord, BadRecording, Begin, Frame, Recording, encoded, read
from actors.recording.recorder import PENDING_MAX, Recorder
from tests.daemon.fixtures import captured_logs, eventually

RECORDS: list[AnyRecord] = [
    Begin(1, recording.VERSION, "run", 1, {"exchanges": {}}),
    recording.Up(2, "binance", 1, ["binance:BTCUSDT:trades"]),
    recording.Sent(3, "binance", 1, '{"method":"SUBSCRIBE"}'),
    Frame(4, "binance", 1, b'{"price":"1.0"}', False),
    Frame(5, "binance", 1, "text that came in pieces \u20ac".encode(), True),
    Frame(6, "binance", 1, b"\xff\x00 binary", False),
    recording.Closed(7, "binance", 1, None, ""),
    recording.Down(8, "binance", 1, True, "closed by the exchange, without a close frame"),
    recording.Down(9, "binance", 1, False, "cannot connect"),
    recording.Answered(11, "binance", 10, "GET", "/path", "a=1&b=%20", b"", 200, {"retry-after": "1"}, b"[]"),
    recording.Failed(13, "binance", 12, "POST", "/info", "", b"{}", "UpstreamTimeout", "no answer"),
    recording.Lost(14, 3),
]
WHOLE = b"".join(map(encoded, RECORDS))
ENDS = [sum(len(encoded(record)) for record in RECORDS[:count]) for count in range(len(RECORDS) + 1)]


def frame(number: int, size: int = 10) -> Frame:
    return Frame(number, "binance", 1, number.to_bytes(4, "big") * (size // 4), False)


# --- reading


@given(cut=st.integers(0, len(WHOLE)), flushes=st.lists(st.integers(0, len(WHOLE)), max_size=5).map(sorted))
@example(cut=len(WHOLE), flushes=[])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_what_is_whole_before_a_cut_is_read(tmp_path: Path, cut: int, flushes: list[int]) -> None:
    path = tmp_path / "part"
    deflate = zlib.compressobj(1, zlib.DEFLATED, recording.GZIP)
    data, at = b"", 0
    for end in (*(flush for flush in flushes if flush < cut), cut):
        data += deflate.compress(WHOLE[at:end]) + deflate.flush(zlib.Z_SYNC_FLUSH)
        at = end
    path.write_bytes(data)
    assert list(read(path)) == RECORDS[: sum(end <= cut for end in ENDS) - 1]


@given(cut=st.integers(0, len(gzip.compress(WHOLE))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_file_cut_anywhere_is_read_as_far_as_it_goes(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "part"
    path.write_bytes(gzip.compress(WHOLE)[:cut])
    found = list(read(path))
    assert found == RECORDS[: len(found)]


def test_members_of_gzip_may_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(gzip.compress(WHOLE[:50]) + gzip.compress(b"") + gzip.compress(WHOLE[50:]))
    assert list(read(path)) == RECORDS
    assert gzip.decompress(path.read_bytes()) == WHOLE  # for other programs too


@given(place=st.integers(0, len(gzip.compress(WHOLE)) - 1), value=st.integers(0, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_damage_is_refused_by_the_name_of_the_file(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "part"
    data = bytearray(gzip.compress(WHOLE))
    data[place] = value
    path.write_bytes(data)
    said = []
    try:
        list(Recording([path]).records())
    except BadRecording as error:
        said.append(str(error))
    assert all(text.startswith(f"{path}: ") for text in said)


@pytest.mark.parametrize("first", [recording.Lost(1, 1), Begin(1, 99, "run", 1, {})])
def test_what_begins_otherwise_is_refused(tmp_path: Path, first: AnyRecord) -> None:
    path = tmp_path / "part"
    path.write_bytes(gzip.compress(encoded(first)))
    with pytest.raises(BadRecording, match=r"part: (holds no recording|is of version 99)"):
        Recording([path])


def test_parts_are_put_in_order_and_must_all_be_there(tmp_path: Path) -> None:
    def part(run: str, number: int) -> Path:
        path = tmp_path / f"{run}{9 - number}"  # named so that their names mislead
        begin = Begin(number, recording.VERSION, run, number, {"number": number})
        path.write_bytes(gzip.compress(encoded(begin) + encoded(frame(number))))
        return path

    one, two, three, other = part("a", 1), part("a", 2), part("a", 3), part("b", 2)
    found = Recording([three, one, two])
    assert found.begin.config == {"number": 1}
    assert list(found.records()) == [frame(1), frame(2), frame(3)]
    with pytest.raises(BadRecording, match="is part 2, and part 1 is not given"):
        Recording([two, three])
    with pytest.raises(BadRecording, match="is part 3, and part 2 is not given"):
        Recording([one, three])
    with pytest.raises(BadRecording, match="is of another recording"):
        Recording([one, other])
    with pytest.raises(BadRecording, match="there is no file"):
        Recording([])


def test_times_are_kept_to_the_microsecond() -> None:
    moment = now()
    assert from_us(to_us(moment)) == moment


# --- writing


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """The system takes no more than so many bytes of any file of this process: a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def recorded(folder: Path) -> list[AnyRecord]:
    return list(Recording(files(folder)).records())


async def test_records_are_on_the_disk_a_second_later_and_all_of_them_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    recorder = Recorder(folder, {"streams": {}}, part_bytes=1 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.put(frame(1))
        await eventually(lambda: folder.exists() and recorded(folder) == [frame(1)])
        recorder.put(frame(2))
        assert recorded(folder) == [frame(1)]
        nursery.cancel_scope.cancel()
    assert recorded(folder) == [frame(1), frame(2)]
    (path,) = files(folder)
    assert recording.begin_of(path).config == {"streams": {}}
    assert len(gzip.decompress(path.read_bytes())) > 50  # whole, for other programs too


async def test_a_full_part_is_followed_by_the_next(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, {}, part_bytes=1)
    for number in range(1, 4):
        recorder.put(frame(number))
        await recorder.write()
    assert [recording.begin_of(path).part for path in files(tmp_path)] == [1, 2, 3]
    assert recorded(tmp_path) == [frame(1), frame(2), frame(3)]


async def test_a_full_disk_costs_what_comes_meanwhile_and_is_said_once(tmp_path: Path) -> None:
    with captured_logs() as logs:
        recorder = Recorder(tmp_path, {}, part_bytes=1 << 30)
        recorder.put(frame(1))
        await recorder.write()
        (path,) = files(tmp_path)
        size = path.stat().st_size
        with full_at(size + 20):  # a part of the next batch still fits
            for number in (2, 3):
                recorder.put(frame(number, 1000))
                recorder.put(frame(number))
                await recorder.write()
                assert path.stat().st_size == size
                assert recorded(tmp_path) == [frame(1)]
        assert recorder.is_failing
        recorder.put(frame(4))
        await recorder.write()
    *whole, lost, last = recorded(tmp_path)
    assert (whole, last) == ([frame(1)], frame(4))
    assert isinstance(lost, recording.Lost)
    assert (lost.records, recorder.lost, recorder.is_failing) == (4, 4, False)
    assert [entry["event"] for entry in logs] == ["record.failing", "record.resumed"]
    assert "File too large" in logs[0]["reason"]
    assert str(tmp_path) in logs[0]["reason"]


async def test_a_folder_that_cannot_be_had_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.write_text("a file is in its place")
    recorder = Recorder(folder, {}, part_bytes=1 << 20)
    with captured_logs() as logs:
        for _ in range(3):
            recorder.put(frame(1))
            await recorder.write()
        folder.unlink()
        recorder.put(frame(2))
        await recorder.write()
    lost, kept = recorded(folder)
    assert isinstance(lost, recording.Lost)
    assert (lost.records, kept) == (3, frame(2))
    assert [entry["event"] for entry in logs] == ["record.failing", "record.resumed"]


async def test_a_disk_that_is_full_from_the_start_leaves_nothing_unreadable(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, {}, part_bytes=1 << 20)
    with captured_logs(), full_at(5):
        recorder.put(frame(1))
        await recorder.write()
        assert files(tmp_path) == []
    recorder.put(frame(2))
    await recorder.write()
    assert recorded(tmp_path)[1:] == [frame(2)]


async def test_what_waits_for_a_slow_disk_is_bounded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, {}, part_bytes=1 << 30)
    size = 1 << 20
    for number in range(100):
        recorder.put(frame(number, size))
    await recorder.write()
    *found, lost = recorded(tmp_path)
    assert isinstance(lost, recording.Lost)
    assert lost.records == recorder.lost == 100 - len(found) > 0
    assert PENDING_MAX <= len(found) * size <= PENDING_MAX + 2 * size
