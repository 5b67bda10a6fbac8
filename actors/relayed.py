"""Events that arrive numbered and encoded: what is told on from another node is the same there and here, byte for byte.

Only data lives here: no I/O. An event's text is decoded for whoever looks into it, and for nobody else.
"""

from typing import Any, NamedTuple

import msgspec

from actors.events import Event, FundingRate, LargeTrade, Liquidation, Ohlc, OiSpike, OpenInterest, Said, Trade

_decoders = {
    kind.type: msgspec.json.Decoder(kind)
    for kind in (Ohlc, Trade, LargeTrade, Liquidation, FundingRate, OpenInterest, OiSpike)
}


class Numbering(NamedTuple):
    """Who counts a topic, and how far: the name of the memory that the numbers belong to, and the last event's."""

    epoch: str
    seq: int


class Relayed:
    """An event as its writer numbered and encoded it; reads like the event. `text`: its JSON, in UTF-8."""

    __slots__ = ("_event", "seq", "text", "type")

    def __init__(self, type: str, seq: int, text: bytes) -> None:
        self.type, self.seq, self.text = type, seq, text
        self._event: Event | None = None

    @property
    def event(self) -> Event:
        """The event itself. Raises msgspec.ValidationError where the text is none of its type."""
        if self._event is None:
            self._event = _decoders[self.type].decode(self.text)
        return self._event

    def __getattr__(self, name: str) -> Any:
        """A field of the event: only what is no attribute of this object comes here."""
        return getattr(self.event, name)


class Renumbered(NamedTuple):
    """What was numbered until now is not continued: something was lost, or the memory is another one. `numbering`:
    after which event what follows begins."""

    numbering: Numbering


class Recalled(NamedTuple):
    """Something that was said before, and how long ago, in seconds."""

    said: Said | Relayed
    age: float


Told = Said | Relayed | Renumbered
"""All that a reader of a topic is given."""
