"""How numbers are told: a family of one name, of rows of labels and a value.

Law: labels come from the configuration and the program; no client can make one.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from actors.counts import BOUNDS, Histogram
from actors.events import Kind

KINDS: tuple[Kind, ...] = ("ohlc", "trades", "large_trades", "liquidations", "funding", "oi")
"""Of events, as labels."""

Labels = tuple[str, ...]
Rows = Iterable[tuple[Labels, float]]


def by_kind(counts: Mapping[Kind, float]) -> Rows:
    """With zeros: the first of a kind is a rise only where there was a zero before it."""
    return [((kind,), count) for kind, count in {**dict.fromkeys(KINDS, 0), **counts}.items()]


def gauge(name: str, about: str, labels: Labels, rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"marketd_{name}", about, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def counter(name: str, about: str, labels: Labels, rows: Rows) -> Metric:
    family = CounterMetricFamily(f"marketd_{name}", about, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def histogram(name: str, about: str, labels: Labels, rows: Iterable[tuple[Labels, Histogram]]) -> Metric:
    family = HistogramMetricFamily(f"marketd_{name}", about, labels=labels)
    for values, counted in rows:
        total, buckets = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), counted.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(values, buckets, counted.sum)
    return family
