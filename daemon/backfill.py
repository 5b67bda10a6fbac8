"""`marketd backfill`: history into the archive, as far back as it is told to and the exchange has it.

The archive knows what it holds, so a run that was stopped goes on where it was. Half of the request budget that a
daemon gives its own background work is used: one may run at the same time, from the same address.
"""

import argparse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
import trio

from actors.archive.archive import Archive
from actors.archive.kept import KeptRest
from actors.archive.reads import Unreadable
from actors.archive.recall import Recall, fetch_of
from actors.archive.refill import fill, page_of
from actors.archive.series import FETCHABLE, WITH_INTERVAL, Series, from_us, step_of, us
from actors.errors import UnknownInterval, UnknownSymbol, Unsupported
from actors.events import Instrument
from actors.exchanges.catalogue import Catalogue
from actors.exchanges.exchange import Exchange, Rest
from actors.upstream.budget import Budget, Window
from actors.upstream.rest import RestClient, open_http, tls_for
from daemon.collecting import open_archive, way_of
from daemon.export import EX_FAILED, EX_USAGE, time_of
from daemon.output import fail
from daemon.progress import Progress, duration
from daemon.settings import Config
from daemon.supervisor import Change, RestartPolicy, supervise

SHARE = 0.5  # of the budget
POLICY = RestartPolicy(delay=1.0, max_delay=30.0, max_attempts=6, stable_after=5.0)

log = structlog.get_logger()


class GaveUp(Exception):
    """It cannot be done; the text says why."""


def add_command(commands: Any, add_options: Callable[[argparse.ArgumentParser], None]) -> None:
    help = "fetch history from an exchange into the archive; a stopped run can be repeated and goes on"
    parser = commands.add_parser("backfill", help=help, description=help)
    add_options(parser)
    parser.add_argument("--exchange", required=True)
    parser.add_argument("--symbol", required=True, action="append", help="may be given several times")
    parser.add_argument("--kind", required=True, choices=FETCHABLE, help=", ".join(FETCHABLE))
    parser.add_argument("--interval", help=f"needed for {' and '.join(sorted(WITH_INTERVAL))}")
    parser.add_argument("--since", required=True, type=time_of, help="first time: ISO 8601 or Unix milliseconds")
    parser.add_argument("--until", type=time_of, help="time to end before; default: now")


def problem_of(config: Config, exchanges: Mapping[str, Exchange], options: argparse.Namespace) -> str | None:
    """What is wrong with the command; None: nothing."""
    if options.exchange not in exchanges:
        return f"there is no exchange {options.exchange!r}; known: {', '.join(exchanges)}"
    exchange = exchanges[options.exchange]
    known = exchange.intervals if options.kind == "ohlc" else exchange.open_interest_periods
    if options.kind in WITH_INTERVAL and not known:
        return f"{exchange.name} has no {options.kind}"
    if options.kind in WITH_INTERVAL and options.interval not in known:
        return f"--interval must be one of {', '.join(known)}"
    if options.kind not in WITH_INTERVAL and options.interval is not None:
        return f"{options.kind} has no --interval"
    if options.until is not None and options.until <= options.since:
        return "--until must be after --since"
    if not config.archive.enabled:
        return "the archive is switched off: see [archive] in the configuration"
    if options.kind not in config.archive.keep:
        return f"archive.keep does not name {options.kind}"
    return None


async def run(config: Config, exchanges: Mapping[str, Exchange], options: argparse.Namespace, stop: trio.Event) -> int:
    """Returns the exit code: 0 when everything that the exchange has is in the archive."""
    if problem := problem_of(config, exchanges, options):
        return fail(problem, EX_USAGE)
    archive = open_archive(config)
    assert archive is not None
    code = EX_FAILED
    async with trio.open_nursery() as keeping:
        keeping.start_soon(archive.run)
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                nonlocal code
                code = await _backfill(config, exchanges[options.exchange], options, archive)
                nursery.cancel_scope.cancel()

            nursery.start_soon(work)
            await stop.wait()
            fail("stopped; the same command goes on from here", EX_FAILED)
            nursery.cancel_scope.cancel()
        keeping.cancel_scope.cancel()
    return code


async def _backfill(config: Config, exchange: Exchange, options: argparse.Namespace, archive: Archive) -> int:
    problems: list[str] = []

    async def attempt() -> None:
        try:
            await _fetch(config, exchange, options, archive)
        except (GaveUp, Unreadable, UnknownSymbol, UnknownInterval, Unsupported) as error:
            problems.append(str(error))  # another try would end alike

    def changed(change: Change) -> None:
        if change.state == "failed":
            problems.append(f"{change.reason}; the same command goes on from here")

    await supervise("backfill", attempt, POLICY, on_change=changed, context={"exchange": exchange.name})
    return fail(problems[0], EX_FAILED) if problems else 0


async def _fetch(config: Config, exchange: Exchange, options: argparse.Namespace, archive: Archive) -> None:
    settings = config.exchanges[exchange.name]
    await _written(archive)  # the file is there
    offset = timedelta(0)

    def now() -> datetime:
        return datetime.now(UTC) + offset

    tls = tls_for(settings.rest_url)
    async with open_http(settings.rest_url, tls, way_of(settings)) as http:
        budget = Budget({name: Window(int(w.limit * SHARE), w.seconds) for name, w in exchange.budget.items()})
        client = RestClient(http, budget, exchange.explain, caller="background", used_header=exchange.used_header)
        plain = exchange.open_rest(client, now)
        offset = await plain.server_time() - datetime.now(UTC)
        catalogue = Catalogue(exchange.name, exchange.aliases)
        catalogue.adopt(await plain.instruments())
        recall = Recall(archive, exchange, now)
        rest = KeptRest(plain, recall)
        for symbol in options.symbol:
            await _fetch_symbol(recall, rest, catalogue.resolve(symbol), options, now())


async def _fetch_symbol(
    recall: Recall, rest: Rest, instrument: Instrument, options: argparse.Namespace, now: datetime
) -> None:
    exchange, archive = recall.exchange, recall.archive
    series = Series(options.kind, exchange.name, instrument.symbol, options.interval or "")
    since, until = options.since, min(options.until or us(now), us(now))
    if series.kind == "open_interest_history" and exchange.open_interest_kept is not None:
        since = max(since, us(now - exchange.open_interest_kept))
    holes = [piece for piece in await recall.coverage(series, since, until) if not piece.is_held]
    whole = sum(hole.end - hole.start for hole in holes)
    rows = whole // (step_of(series) // timedelta(microseconds=1))
    what = {"exchange": exchange.name, "symbol": instrument.symbol, "kind": series.kind}
    log.info(
        "backfill.begins", **what, since=from_us(since).isoformat(), rows=rows, requests=rows // page_of(series) + 1
    )
    began, fetched = trio.current_time(), 0
    with Progress(f"backfill {exchange.name} {instrument.symbol}") as progress:

        def reached(at: datetime, count: int) -> None:
            nonlocal fetched
            if archive.is_failing:
                raise GaveUp(f"the archive does not take it: {archive.report().reason}")
            fetched += count
            done = sum(min(us(at), hole.end) - hole.start for hole in holes if hole.start < us(at))
            progress.show(fetched, done / whole)

        await fill(recall, series, fetch_of(rest, series, instrument), holes, reached)
    await _written(archive)
    log.info("backfill.done", **what, rows=fetched, took=duration(trio.current_time() - began))


async def _written(archive: Archive) -> None:
    await archive.flush()
    if archive.is_failing:
        raise GaveUp(f"{archive.path}: {archive.report().reason}")
