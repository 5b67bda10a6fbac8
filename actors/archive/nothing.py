"""Where an exchange was asked and has nothing, long after the fact. Remembered for a while and never written. No I/O.

An exchange may answer with nothing because it is in trouble, so what it does not have is not taken for known for ever;
but the same question is not put to it again and again.
"""

from actors.archive.series import Range, Series

FOR = 3_600_000_000  # microseconds that it is remembered
RANGES = 500  # of all series together; the oldest are forgotten first


class Nothing:
    def __init__(self) -> None:
        self._until: dict[tuple[Series, Range], int] = {}  # in the order in which they end

    def add(self, series: Series, empty: Range, now: int) -> None:
        self._until.pop((series, empty), None)
        self._until[series, empty] = now + FOR
        if len(self._until) > RANGES:
            del self._until[next(iter(self._until))]

    def ranges(self, series: Series, now: int) -> list[Range]:
        return [empty for (of, empty), until in self._until.items() if of == series and until > now]
