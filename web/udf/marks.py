"""What is written on a chart beside its bars: liquidations, settlements of funding, gaps. No I/O."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from msgspec import Struct

from actors.archive.flows import LiquidationBar
from actors.events import FundingRate, Gap
from web.udf.history import seconds

DOWN, UP, NEUTRAL, WARNING = "#b54708", "#007a5a", "#0b62c4", "#8a5a00"


class Marks(Struct, frozen=True, kw_only=True):
    """Columns: liquidations per bar and side, at the bar's time."""

    id: list[str]
    time: list[int]
    color: list[str]
    text: list[str]
    label: list[str]
    labelFontColor: list[str]
    minSize: list[int]


class TimescaleMark(Struct, frozen=True, kw_only=True):
    """One mark below the chart. `tooltip`: lines."""

    id: str
    time: int
    color: str
    label: str
    tooltip: list[str]


def of_liquidations(bars: Iterable[LiquidationBar], quote: str) -> Marks:
    """A mark for each side that was liquidated within a bar."""
    rows = [
        (bar.timestamp, label, word, color, value)
        for bar in bars
        for label, word, color, value in (
            ("L", "Longs", DOWN, bar.long_value),
            ("S", "Shorts", UP, bar.short_value),
        )
        if value > 0
    ]
    return Marks(
        id=[f"{label}{seconds(time)}" for time, label, *_ in rows],
        time=[seconds(time) for time, *_ in rows],
        color=[color for *_, color, _ in rows],
        text=[f"{word} liquidated: {_grouped(value)} {quote}" for *_, word, _, value in rows],
        label=[label for _, label, *_ in rows],
        labelFontColor=["#ffffff"] * len(rows),
        minSize=[14] * len(rows),
    )


def _grouped(value: float) -> str:
    return f"{value:,}".removesuffix(".0")


def joined(bars: Iterable[LiquidationBar], interval: str) -> list[LiquidationBar]:
    """Days' bars as those of a longer interval: weeks begin on Monday, months on the 1st."""
    found: dict[datetime, LiquidationBar] = {}
    for bar in bars:
        time = _open_of(bar.timestamp, interval)
        sums = found.get(time)
        found[time] = LiquidationBar(
            exchange=bar.exchange,
            symbol=bar.symbol,
            timestamp=time,
            interval=interval,
            count=bar.count + (sums.count if sums else 0),
            long_value=float(f"{bar.long_value + (sums.long_value if sums else 0.0):.12g}"),
            short_value=float(f"{bar.short_value + (sums.short_value if sums else 0.0):.12g}"),
        )
    return list(found.values())


def _open_of(day: datetime, interval: str) -> datetime:
    match interval:
        case "1w":
            return day - timedelta(days=day.weekday())
        case "1M":
            return day.replace(day=1)
    return day  # within its bar


def of_settlements(rates: Iterable[FundingRate]) -> list[TimescaleMark]:
    return [
        TimescaleMark(
            id=f"F{seconds(rate.funding_time)}",
            time=seconds(rate.funding_time),
            color=NEUTRAL,
            label="F",
            tooltip=[
                f"Funding {float(f'{rate.funding_rate * 100:.12g}')} %",
                *([f"for {rate.funding_interval_hours:g} h"] if rate.funding_interval_hours is not None else []),
            ],
        )
        for rate in rates
    ]


def of_gaps(gaps: Iterable[tuple[str, Gap]]) -> list[TimescaleMark]:
    """Of (topic, gap): what was lost for good."""
    return [
        TimescaleMark(
            id=f"G{seconds(gap.start)}-{topic}",
            time=seconds(gap.start),
            color=WARNING,
            label="G",
            tooltip=[f"Not all of {topic} was received", f"until {gap.end:%Y-%m-%d %H:%M:%S} UTC", gap.reason],
        )
        for topic, gap in gaps
        if not gap.repaired
    ]
