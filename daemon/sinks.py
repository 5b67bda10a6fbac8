"""Sinks, as they are configured: their client is imported where there is one and never else."""

from collections.abc import Callable, Sequence
from functools import partial

from actors.sinks import patterns
from actors.sinks.rows import Writing
from actors.sinks.sink import Sink, SinkSettings
from actors.sinks.sinks import Sinks
from daemon.kinds import ConfigError
from daemon.settings import Config
from daemon.settings import Sink as Settings


def open_sinks(config: Config) -> Sinks | None:
    """None where there are none. They write when they run. Raises ConfigError."""
    if not config.sink:
        return None
    check(config)
    return Sinks([_sink(name, settings) for name, settings in zip(_names(config.sink), config.sink, strict=True)])


def check(config: Config) -> None:
    """Whether they can be used as they are configured. Raises ConfigError."""
    names = _names(config.sink)
    for number, settings in enumerate(config.sink):
        where = f"sink.{number}"
        if names.index(names[number]) < number:
            raise ConfigError(f"{where}.name", f"another sink is called {names[number]!r} too")
        for text in settings.topics:
            exchange = patterns.parsed(text).exchange
            if exchange != "*" and exchange not in config.exchanges:
                raise ConfigError(f"{where}.topics", f"{text!r} names no known exchange: {', '.join(config.exchanges)}")
        try:
            from actors.sinks import kafka  # 20 MB that nobody else needs
        except ImportError as error:
            what = f"needs the extra `kafka` (pip install 'marketd[kafka]'): {error}"
            raise ConfigError(f"{where}.kind", what) from None
        try:
            kafka.check(settings.url)
        except kafka.BadSettings as error:
            raise ConfigError(f"{where}.url", str(error)) from None


def _names(sinks: Sequence[Settings]) -> list[str]:
    return [settings.name or settings.kind for settings in sinks]


def _sink(name: str, settings: Settings) -> Sink:
    wanted = [patterns.parsed(text) for text in settings.topics]
    about = SinkSettings(name, settings.kind, wanted, settings.kafka_topic, settings.min_value_usd)
    return Sink(about, _connector(settings.url))


def _connector(url: str) -> Callable[[], Writing]:
    from actors.sinks.kafka import Kafka

    return partial(Kafka, url)
