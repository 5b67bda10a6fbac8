"""What clients want of one exchange, whatever node they are at, and what of it is collected here."""

from contextlib import ExitStack

import structlog

from actors.connector import Connector
from actors.errors import MarketError
from actors.relay.takeover import topic_named

log = structlog.get_logger()


class Wanted:
    """`names`: of topics that are wanted."""

    def __init__(self, connector: Connector) -> None:
        self.names: set[str] = set()
        self._connector = connector
        self._holds: dict[str, ExitStack] = {}
        self._left: set[str] = set()  # symbols that others are to collect now
        self._refused: set[str] = set()

    @property
    def symbols(self) -> set[str]:
        return {topic_named(name).symbol for name in self.names}

    def collect(self, names: set[str]) -> None:
        """Those of them that are to be collected here, from now on."""
        for name in set(self._holds) - names:
            self._holds.pop(name).close()
            if name in self.names:
                self._left.add(topic_named(name).symbol)
        for name in names - set(self._holds):
            hold = ExitStack()
            try:
                hold.enter_context(self._connector.reading(topic_named(name)))
            except MarketError as error:
                if name not in self._refused:
                    log.warning("wanted.refused", topic=name, reason=str(error))
                self._refused.add(name)
            else:
                self._holds[name] = hold
        self._refused &= names

    def end_the_unread(self) -> None:
        """Of what others collect now: at once, and not after a while as where nobody wants it any more."""
        for symbol in self._left:
            self._connector.end_if_unread(symbol)
        self._left.clear()
