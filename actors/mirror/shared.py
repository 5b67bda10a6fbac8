"""An exchange whose symbols several nodes collect together: a topic is told by the mirror, whoever collects it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from actors.connector import Connector
from actors.errors import NotReady, UnknownSymbol
from actors.events import Topic
from actors.mirror.feed import MirrorFeed
from actors.mirror.mirror import Mirror


class Shared:
    """`symbols`: those that are configured, for all nodes; may change."""

    def __init__(self, connector: Connector, mirror: Mirror, symbols: Collection[str]) -> None:
        self.symbols = symbols
        self._connector, self._mirror = connector, mirror

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[MirrorFeed]:
        """What tells `topic`, which one of the nodes is asked to collect for as long as the block lasts.

        Raises UnknownSymbol, UnknownInterval or NotReady.
        """
        with self._mirror.reading(topic._replace(symbol=self._find(topic))) as feed:
            yield feed

    def _find(self, topic: Topic) -> str:
        """The symbol as the exchange spells it."""
        connector = self._connector
        connector.check_interval(topic.interval)
        if topic.symbol in self.symbols and not connector.catalogue.instruments:
            return topic.symbol  # its clients may wait for the catalogue, too
        symbol = connector.catalogue.resolve(topic.symbol).symbol
        if problem := connector.catalogue.problem_of(symbol):
            raise UnknownSymbol(f"{symbol} cannot be collected: {problem}")
        if not connector.on_demand and symbol not in self.symbols:
            raise UnknownSymbol(f"{symbol} is not collected here and on_demand is off for {connector.name}")
        return symbol


class Elsewhere:
    """Of a node that collects and tells nobody: `where` says who does."""

    def __init__(self, where: Callable[[], str]) -> None:
        self._where = where

    @contextmanager
    def reading(self, topic: Topic) -> Iterator[MirrorFeed]:
        """Raises NotReady."""
        raise NotReady(self._where())
        yield
