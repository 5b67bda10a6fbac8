"""`marketd replay`: the whole daemon on a recording instead of the exchanges.

What is collected is what the recording's daemon was configured to collect; where to listen and how to log is this
configuration's. The events are the recording's, bit for bit the same each time.
"""

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from actors.clock import RecordedClock
from actors.exchanges.exchange import Exchange
from actors.recording.format import BadRecording, Recording
from actors.recording.replay import Replay
from daemon import main
from daemon.settings import Config, ExchangeSettings, OiVol, Streams, Supervision

log = structlog.get_logger()


class _Soonest(random.Random):
    """The chance that makes every wait before a restart the shortest: no sooner was it in any recording."""

    def random(self) -> float:
        return 1.0


def configured(config: Config, recording: Recording) -> Config:
    """`config` with the recording's part in place of its own. Raises BadRecording."""
    told: Mapping[str, Any] = recording.begin.config
    try:
        exchanges = msgspec.convert(told["exchanges"], dict[str, dict[str, Any]])
        return msgspec.structs.replace(
            config,
            streams=msgspec.convert(told["streams"], Streams),
            oi_vol=msgspec.convert(told["oi_vol"], OiVol),
            supervision=msgspec.convert(told["supervision"], Supervision),
            record=msgspec.structs.replace(config.record, path=None),  # it is recorded already
            archive=msgspec.structs.replace(config.archive, enabled=False),  # what it kept then is not asked now
            sink=(),  # they were written to then
            exchanges={
                name: msgspec.convert(settings | {"rest_url": "", "ws_url": ""}, ExchangeSettings)
                for name, settings in exchanges.items()
            },
        )
    except (KeyError, msgspec.MsgspecError) as error:
        raise BadRecording(f"the recording does not say what it collected: {error}") from None


async def run(
    config: Config,
    exchanges: Mapping[str, Exchange],
    recording: Recording,
    *,
    clock: RecordedClock,
    stop: trio.Event,
    delay: float = 0.0,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the recording until it ends, or `stop` is set. Raises BadRecording.

    `config`: from `configured`. `clock`: the one of the Trio run. `delay`: seconds of the machine's clock between
    listening and the recording's beginning.
    """
    if unknown := config.exchanges.keys() - exchanges.keys():
        raise BadRecording(f"the recording is of exchanges that are not known here: {', '.join(sorted(unknown))}")
    replay = Replay(clock, is_complete=recording.begin.is_complete)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(main.run, config, exchanges, stop=stop, upstream=replay, rng=_Soonest()))
        task_status.started(url)

        async def play() -> None:
            clock.start(delay)
            log.info("replay.started", run=recording.begin.run)
            await replay.play(recording.records())
            log.info("replay.finished", run=recording.begin.run)
            clock.finish()
            stop.set()

        async def play_until_stopped() -> None:
            async with trio.open_nursery() as playing:
                playing.start_soon(play)
                await stop.wait()
                clock.finish()
                playing.cancel_scope.cancel()

        nursery.start_soon(play_until_stopped)
