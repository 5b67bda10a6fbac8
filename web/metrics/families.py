"""How numbers are told: a family of one name, of rows of labels and a value.

Law: labels come from the configuration and the program; no client can make one.
"""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from actors.counts import BOUNDS, Histogram

Labels = tuple[str, ...]
Rows = Iterable[tuple[Labels, float]]


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
