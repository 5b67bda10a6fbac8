"""`marketd export`: what the archive holds as a file. It only reads, so the daemon may run or not."""

import argparse
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from actors.archive.series import FAR, KINDS, WITH_INTERVAL, us
from actors.archive.store import NotOurs
from daemon.output import fail, write
from daemon.progress import Progress
from daemon.settings import Config
from web.parameters import parse_time
from web.rest.dump import Job, dump
from web.rest.formats import FORMATS, file_name, missing

EX_FAILED = 1
EX_USAGE = 2


def time_of(text: str) -> int:
    """A time on the command line, in microseconds; argparse says what is wrong with it."""
    try:
        return us(parse_time(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text[:60]!r}") from None


def add_command(commands: Any, add_options: Callable[[argparse.ArgumentParser], None]) -> None:
    help = "write what the archive holds to a file"
    parser = commands.add_parser("export", help=help, description=help)
    add_options(parser)
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--exchange", help="of this exchange; default: every one")
    parser.add_argument("--symbol", help="of this symbol, as the exchange spells it; default: every one")
    parser.add_argument("--interval", help=f"needed for {' and '.join(sorted(WITH_INTERVAL))}")
    parser.add_argument("--start", type=time_of, default=0, help="first time: ISO 8601 or Unix milliseconds")
    parser.add_argument("--end", type=time_of, default=FAR, help="time to end before")
    parser.add_argument("--format", choices=FORMATS, help="default: by the file's suffix, else csv")
    parser.add_argument("--output", metavar="FILE", help="default: a name made of the above; - for stdout")


def run(config: Config, options: argparse.Namespace) -> int:
    """Returns the exit code."""
    suffixes = {form.suffix: name for name, form in FORMATS.items()}
    suffix = Path(options.output or "").suffix.removeprefix(".")
    format = options.format or suffixes.get(suffix, "csv")
    wrong = missing(format)
    if options.kind in WITH_INTERVAL and options.interval is None:
        wrong = f"{options.kind} needs --interval"
    elif options.kind not in WITH_INTERVAL and options.interval is not None:
        wrong = f"{options.kind} has no --interval"
    if wrong:
        return fail(wrong, EX_USAGE)
    where = (options.exchange, options.symbol, options.interval)
    job = Job(
        **dict(zip(("exchange", "symbol", "interval"), where, strict=True)),
        **{"path": config.archive.path, "kind": options.kind, "format": format},
        **{"start": options.start, "end": options.end},
    )
    output = options.output or file_name(options.kind, *where, format)
    try:
        with Progress(f"export {options.kind}") as progress:
            if output == "-":
                dump(job, sys.stdout.buffer.write, progress.show)
                sys.stdout.buffer.flush()
                return 0
            rows = _write(job, Path(output), progress)
    except BrokenPipeError:
        return EX_FAILED
    except (sqlite3.Error, NotOurs, OSError) as error:
        return fail(f"{config.archive.path}: {error}", EX_FAILED)
    write(sys.stdout, f"{rows} rows in {output}\n")
    return 0


def _write(job: Job, output: Path, progress: Progress) -> int:
    """The whole file or none: it gets its name when it is complete."""
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as file:
            rows = dump(job, file.write, progress.show)
        part.replace(output)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return rows
