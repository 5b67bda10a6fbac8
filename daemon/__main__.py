"""Arguments, then trio.run. Exit codes: 0 stopped by a signal, 2 usage, 78 bad configuration, 1 crash."""

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from math import inf, isfinite
from pathlib import Path

import structlog
import trio

from actors import turns
from actors.clock import RecordedClock, fixed_order
from actors.exchanges.exchange import Exchange, load_exchanges
from actors.recording.format import BadRecording, Recording
from daemon import backfill, demo, export, garbage, keys, log, named, notify, ops, output, replay, sinks
from daemon import main as daemon
from daemon.collecting import exchange_defaults
from daemon.config import Override, load
from daemon.dump import dump
from daemon.kinds import EX_CONFIG, ConfigError
from daemon.listening import CannotListen
from daemon.reload import Reloader
from daemon.settings import Config, Server

EX_CRASH = 1
PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
NOT_READ = "is set and not read: a proxy to the exchanges is given in [upstream] or an exchange's own section"
HARMLESS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # what else may be sent to a daemon, and would end it

Program = Callable[[trio.Event], Awaitable[None]]
"""What runs until the event is set."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return _run(_parser().parse_args(arguments))
    finally:
        output.finish()


def _run(options: argparse.Namespace) -> int:
    if options.command in (None, "demo", "replay"):
        for number in HARMLESS:
            signal.signal(number, signal.SIG_IGN)
    if options.command == "ops":
        return ops.run(options.name)
    exchanges = load_exchanges()
    doubts: list[str] = []

    def configured(listening: Server | None = None) -> Config:
        defaults = exchange_defaults(exchanges)
        return load(
            options.config,
            os.environ,
            _overrides(options),
            defaults=defaults,
            warn=doubts.append if listening is None else _doubt,
            listening=listening,
        )

    try:
        if options.command == "key":
            return keys.run(options, configured)
        config = configured()
    except ConfigError as error:
        return _fail(error, EX_CONFIG)
    if options.command in ("check", "export"):
        output.write(sys.stderr, "".join(f"marketd: {doubt}\n" for doubt in doubts))
    if options.command == "check":
        output.write(sys.stderr, "".join(f"marketd: {name} {NOT_READ}\n" for name in PROXY_NAMES if name in os.environ))
        try:
            named.check(config)
            sinks.check(config)
        except ConfigError as error:
            return _fail(error, EX_CONFIG)
        return output.result(dump(config))
    if options.command == "export":
        return export.run(config, options)
    log.configure(config.log.level, config.log.format)
    for doubt in doubts:
        _doubt(doubt)
    if options.command == "replay":
        return _replay(options, config, exchanges)
    manager = notify.from_environment(os.environ)
    reloader = Reloader(configured)
    code = 0

    async def program(stop: trio.Event) -> None:
        nonlocal code
        turns.bound()
        if options.command == "backfill":
            code = await backfill.run(config, exchanges, options, stop)
        elif options.command == "demo":
            await demo.run(config, exchanges, stop=stop, announce=_announce)
        else:
            await daemon.run(config, exchanges, stop=stop, manager=manager, reloader=reloader)

    async def reload_when_asked() -> None:
        """At SIGHUP, for as long as the program runs."""
        with trio.open_signal_receiver(signal.SIGHUP) as asked:
            async for _ in asked:  # several that came meanwhile are one
                manager.reloading()
                with suppress(ConfigError):  # the log says what is wrong; what ran goes on
                    reloader.reload()
                manager.tell("READY=1")

    try:
        with garbage.left_alone():
            trio.run(_until_signalled, program, reload_when_asked if options.command is None else None)
    except* ConfigError as group:
        code = _fail(group, EX_CONFIG)
    except* CannotListen as group:
        code = _fail(group, EX_CRASH)
    return code


def _replay(options: argparse.Namespace, config: Config, exchanges: Mapping[str, Exchange]) -> int:
    """Run `marketd replay`; returns the exit code."""
    code = 0
    try:
        recording = Recording(options.files)
        recorded = replay.configured(config, recording)
        clock = RecordedClock(recording.begin.at, options.speed)

        async def program(stop: trio.Event) -> None:
            await replay.run(recorded, exchanges, recording, clock=clock, delay=options.delay, stop=stop)

        with fixed_order(), garbage.left_alone():
            trio.run(_until_signalled, program, clock=clock, instruments=[clock])
    except* (BadRecording, ConfigError, CannotListen) as group:
        code = _fail(group, EX_CRASH)
    return code


def _fail(error: BaseException, code: int) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return output.fail(error, code)


def _doubt(text: str) -> None:
    structlog.get_logger().warning("config.doubtful", detail=text)


def _announce(text: str) -> None:
    output.write(sys.stdout, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="marketd", description="Market data of crypto derivatives exchanges, over REST and WebSocket."
    )
    parser.add_argument("--version", action="version", version=f"marketd {version('marketd')}")
    # The same options before and after the command; SUPPRESS keeps the latter from undoing the former.
    _add_options(parser, default=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, help in (
        ("demo", "run against built-in simulated exchanges: no network, no account"),
        ("check", "print the effective configuration and exit"),
    ):
        _add_options(commands.add_parser(name, help=help, description=help), default=argparse.SUPPRESS)
    help = "run on a recording (see [record] in config.toml) instead of the exchanges"
    command = commands.add_parser("replay", help=help, description=help)
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="every part of one recording")
    command.add_argument(
        "--speed", type=_speed, default=1.0, metavar="N", help='recorded seconds per second; "max": no waits; default 1'
    )
    command.add_argument(
        "--delay", type=_seconds, default=0.0, metavar="S", help="seconds before it begins: time for clients to connect"
    )
    _add_options(command, default=argparse.SUPPRESS)
    keys.add_command(commands)
    ops.add_command(commands)
    for module in (export, backfill):
        module.add_command(commands, partial(_add_options, default=argparse.SUPPRESS))
    return parser


def _speed(text: str) -> float:
    speed = inf if text in ("max", "0") else _seconds(text)
    if speed == 0:
        raise argparse.ArgumentTypeError("too slow")
    return speed


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = inf
    if not isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def _add_options(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", default=default, help="default: ./config.toml")
    parser.add_argument("--host", default=default, help="address to listen on")
    parser.add_argument("--port", default=default, help="port to listen on; 0 lets the system choose")
    parser.add_argument("--log-level", default=default, help="DEBUG, INFO, WARNING or ERROR")


def _overrides(options: argparse.Namespace) -> list[Override]:
    keys = {"host": "server.host", "port": "server.port", "log_level": "log.level"}
    return [
        Override(f"--{name.replace('_', '-')}", key, value)
        for name, key in keys.items()
        if (value := getattr(options, name)) is not None
    ]


async def _until_signalled(program: Program, beside: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run until SIGTERM or SIGINT; a second one ends it at once. `beside` runs as long as the program."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for _ in signals:
                    if stop.is_set():
                        nursery.cancel_scope.cancel()
                    stop.set()

            nursery.start_soon(listen)
            if beside is not None:
                nursery.start_soon(beside)
            await program(stop)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
