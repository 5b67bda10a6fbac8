"""What clients want of one exchange, whatever node they are at, and what of it is collected here."""

from contextlib import ExitStack
from math import inf

import structlog
import trio

from actors.connector import Connector
from actors.errors import MarketError, NotReady
from actors.relay.takeover import topic_named

REFUSED = 5.0  # seconds that it stands that there is no room for something
AGAIN = REFUSED / 3

log = structlog.get_logger()


class Wanted:
    """`names`: of topics that are wanted."""

    def __init__(self, connector: Connector) -> None:
        self.names: set[str] = set()
        self._connector = connector
        self._holds: dict[str, ExitStack] = {}
        self._left: set[str] = set()  # symbols that others are to collect now
        self.refused: dict[str, str] = {}  # what there is no room for here, and why
        self._said_at: dict[str, float] = {}  # when others were told of that

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
            except NotReady:
                continue  # before there is a catalogue
            except MarketError as error:
                if name not in self.refused:
                    log.warning("wanted.refused", topic=name, reason=str(error))
                self.refused[name] = str(error)
            else:
                self._holds[name] = hold
        self.refused = {name: reason for name, reason in self.refused.items() if name in names - set(self._holds)}

    def to_refuse(self) -> dict[str, str]:
        """What others are to be told now for REFUSED: the refusals that are new, or were told a while ago."""
        now = trio.current_time()
        due = {name: reason for name, reason in self.refused.items() if self._said_at.get(name, -inf) <= now - AGAIN}
        self._said_at = {name: at for name, at in self._said_at.items() if name in self.refused} | dict.fromkeys(
            due, now
        )
        return due

    def end_the_unread(self) -> None:
        """Of what others collect now: at once, and not after a while as where nobody wants it any more."""
        for symbol in self._left:
            self._connector.end_if_unread(symbol)
        self._left.clear()
