"""What an exchange lists: its instruments, and which one a client means by a spelling. No I/O."""

from collections.abc import Callable, Sequence

from actors.errors import NotReady, UnknownSymbol
from actors.events import Instrument
from actors.exchanges.units import Unit, unit_of

RETRY = 2.0  # seconds after which a client may ask again


class Catalogue:
    def __init__(
        self,
        exchange: str,
        aliases: Callable[[Instrument], Sequence[str]],
        on_unknown: Callable[[], None] = lambda: None,
    ) -> None:
        self._exchange = exchange
        self._aliases = aliases
        self._on_unknown = on_unknown  # a symbol was asked for that is not listed, or not traded, as far as is known
        self.instruments: dict[str, Instrument] = {}  # sessions hold this very dict
        self._by_asset: dict[str, list[Instrument]] = {}
        self._folded: dict[str, str | None] = {}  # upper-case spelling -> symbol, None where it could be several
        self.problem: str | None = "the catalogue has not arrived yet"

    def adopt(self, instruments: Sequence[Instrument]) -> None:
        """Replace the catalogue."""
        self.instruments.clear()
        self.instruments.update((instrument.symbol, instrument) for instrument in instruments)
        self._folded = {}
        self._by_asset = {}
        for instrument in instruments:
            self._by_asset.setdefault(unit_of(instrument.base).asset, []).append(instrument)
            for spelling in {instrument.symbol.upper(), *self._aliases(instrument)}:
                self._folded[spelling] = None if spelling in self._folded else instrument.symbol
        self.problem = None

    def resolve(self, symbol: str) -> Instrument:
        """The instrument of a symbol in any case. UnknownSymbol where none; NotReady before `adopt`."""
        if not self.instruments:
            raise NotReady(f"{self._exchange}: {self.problem}", retry_after=RETRY)
        exact = self.instruments.get(symbol) or self.instruments.get(self._folded.get(symbol.upper()) or "")
        if exact is None:
            self._on_unknown()
            raise UnknownSymbol(f"{self._exchange} lists no {symbol[:60]!r}")
        return exact

    def of_asset(self, unit: Unit) -> Instrument:
        """The contract that stands for an asset: in the same unit if there is one, trading, perpetual, in dollars.

        UnknownSymbol where none.
        """
        if not self.instruments:
            raise NotReady(f"{self._exchange}: {self.problem}", retry_after=RETRY)
        found = [row for row in self._by_asset.get(unit.asset, ()) if row.is_trading]
        if not found:
            self._on_unknown()
            raise UnknownSymbol(f"{self._exchange} lists nothing for {unit.asset[:60]!r}")
        return min(found, key=lambda row: (unit_of(row.base) != unit, *_preference(row)))

    def check_trading(self, symbol: str) -> None:
        """Raises UnknownSymbol, as far as is known, where a symbol that is asked for cannot be collected."""
        if self.instruments and (problem := self.problem_of(symbol)):
            self._on_unknown()
            raise UnknownSymbol(f"{symbol} cannot be collected: {problem}")

    def problem_of(self, symbol: str) -> str | None:
        """Why a symbol cannot be collected; None when it can."""
        instrument = self.instruments.get(symbol)
        if instrument is None:
            return f"{self._exchange} lists no {symbol}"
        return None if instrument.is_trading else f"{symbol} is not trading: {instrument.status}"


def _preference(instrument: Instrument) -> tuple[bool, int, str]:
    quotes = ("USDT", "USDC", "USD")
    rank = quotes.index(instrument.quote) if instrument.quote in quotes else len(quotes)
    return instrument.funding_interval_hours is None, rank, instrument.symbol
