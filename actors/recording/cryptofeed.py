"""Makes a recording (see actors.recording.format) of a capture by cryptofeed's BINANCE_FUTURES, for `marketd replay`.

    python -m actors.recording.cryptofeed BINANCE_FUTURES.0 BINANCE_FUTURES.ws.1.0 -o capture.marketd.gz

A capture is text, one event per line: `URL -> time: body` is a REST answer, `URL <-> time` a connection, `time: frame`
what came on it and `configuration: ...` what cryptofeed was asked for, with times in Unix seconds. What is not in it is
not made up: the replayed daemon is refused the exchange's time, its history and its open interest, and says so.
"""

import argparse
import gzip
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from actors.exchanges.binance.session import NAME
from actors.recording.format import VERSION, Answered, AnyRecord, Begin, Frame, Sent, Up, encoded

ANSWER = re.compile(r"(https?://\S+) -> ([0-9.]+): (.*)", re.DOTALL)
CONNECTION = re.compile(r"(wss?://\S+) <-> ([0-9.]+)")
SENT = re.compile(r"wss?://\S+ <- ([0-9.]+): (.*)", re.DOTALL)
FRAME = re.compile(r"([0-9.]+): (.*)", re.DOTALL)


class NotACapture(Exception):
    """str() says where, and what is wrong."""


def converted(captures: Iterable[Path]) -> list[AnyRecord]:
    """The recording of one session's captures, its beginning first. Raises NotACapture."""
    records = list[AnyRecord]()
    streams = list[str]()
    line = 1
    for path in captures:
        found = list(_records(path, line))
        connections = [record for record in found if isinstance(record, Up)]
        records += found
        streams += [stream for connection in connections for stream in connection.topics]
        line += bool(connections)
    records.sort(key=lambda record: record.at)  # stable: what came at one moment stays in order
    symbols = {stream.partition("@")[0].upper(): None for stream in streams}
    intervals = {stream.partition("@kline_")[2]: None for stream in streams if "@kline_" in stream}
    if not symbols or not intervals:
        raise NotACapture("no connection to streams of bars in these files")
    collected = {
        "streams": {"intervals": list(intervals)},
        "oi_vol": {"timeframes": []},
        "supervision": {},
        "exchanges": {NAME: {"symbols": list(symbols), "on_demand": False}},
    }
    run = f"cryptofeed-{records[0].at}"
    return [Begin(records[0].at, VERSION, run, 1, collected, is_complete=False), *records]


def _records(path: Path, line: int) -> Iterator[AnyRecord]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NotACapture(f"{path}: cannot be read: {error}") from None
    # str.splitlines would also cut at what JSON may have within its strings.
    for number, row in enumerate(text.split("\n"), start=1):
        if match := ANSWER.fullmatch(row):
            url, at = urlsplit(match[1]), _us(match[2])
            yield Answered(at, NAME, at, "GET", url.path, url.query, b"", 200, {}, match[3].encode())
        elif match := CONNECTION.fullmatch(row):
            streams = parse_qs(urlsplit(match[1]).query).get("streams", [""])[0].split("/")
            yield Up(_us(match[2]), NAME, line, [name for name in streams if name])
        elif match := SENT.fullmatch(row):
            yield Sent(_us(match[1]), NAME, line, match[2])
        elif match := FRAME.fullmatch(row):
            yield Frame(_us(match[1]), NAME, line, match[2].encode(), False)
        elif row and not row.startswith("configuration: "):
            raise NotACapture(f"{path}, line {number}: not a line of a capture: {row[:60]!r}")


def _us(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 1_000_000 + int(f"{fraction:0<6}"[:6])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m actors.recording.cryptofeed", description=main.__doc__)
    parser.add_argument("captures", type=Path, nargs="+", metavar="CAPTURE")
    parser.add_argument("-o", dest="out", type=Path, required=True, metavar="FILE", help="the recording to write")
    options = parser.parse_args(arguments)
    try:
        records = converted(options.captures)
    except NotACapture as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with gzip.open(options.out, "wb") as file:
        file.writelines(map(encoded, records))
    sys.stdout.write(f"{len(records)} records\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
