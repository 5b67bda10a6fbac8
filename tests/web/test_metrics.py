"""`/metrics`: what the contract names is there, two parsers read it, and nothing that a client writes is in it."""

import re

import httpx
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from actors.counts import BOUNDS, Histogram
from daemon.settings import Archive, Metrics
from tests.daemon.fixtures import eventually, world
from tests.patience import WITHIN
from tests.programs import free_port
from web.metrics.page import KEPT

NAMES = set(
    """
    archive_bytes archive_commit_seconds archive_dropped_rows_total archive_free_bytes archive_pending_rows
    archive_rows_total archive_up auth_failures_total budget_closed_seconds budget_spent_total budget_used_ratio
    budget_waiting build_info clients_cut_total clock_skew_seconds config_reload_timestamp_seconds
    config_reloads_total connections connections_limit connections_refused_total connections_total deliveries_total
    delivery_seconds duplicates_total event_age_seconds event_lag_seconds events_total exchange_up exports fanouts
    facade_requests_total facade_saved_weight_total feeds gap_seconds_total gaps_total http_request_seconds
    http_requests_total line_connects_total
    line_disconnects_total lines log_lines_total loop_lag_seconds on_demand_feeds outbox_bytes rate_limited_total
    resume_bytes sent_bytes_total subscriptions tasks upstream_bad_frames_total upstream_bytes_total
    upstream_frames_total upstream_request_seconds upstream_requests_total
    """.split()  # noqa: SIM905 (read as prose)
)
OPEN = "application/openmetrics-text; version=1.0.0"


async def scrape(client: httpx.AsyncClient, accept: str = "*/*") -> str:
    response = await client.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    return response.text


def families(text: str) -> set[str]:
    """Every family that the page declares, as it is told of in the contract."""
    return {name.removeprefix("marketd_") for name in re.findall(r"^# TYPE (marketd_\S+)", text, re.MULTILINE)}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text).get((f"marketd_{name}", frozenset(labels.items())), 0.0)


@pytest.fixture
def _unkept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.metrics.page.KEPT", 0.0)


@pytest.mark.usefixtures("_unkept")
async def test_every_name_is_there_in_both_formats_and_read_by_the_parsers_of_both() -> None:
    async with world(archive=Archive(path="archive.db")) as w:
        await w.settled()
        plain, opened = await scrape(w.client), await scrape(w.client, OPEN)
        assert families(plain) >= NAMES
        assert opened.endswith("# EOF\n")
        read = openmetrics_parser.text_string_to_metric_families(opened)  # type: ignore[no-untyped-call]
        found = {sample.name for family in read for sample in family.samples}
        assert {name for name, _ in samples(plain)} <= found
        assert plain.count("\n") < 1500
        zeros = {name for (name, _), count in samples(plain).items() if count == 0}
        for name in ("line_disconnects", "duplicates", "gap_seconds", "upstream_requests", "deliveries", "sent_bytes"):
            assert f"marketd_{name}_total" in zeros, "the first is a rise only where there was a zero before it"
        for histogram in ("event_lag_seconds", "delivery_seconds", "http_request_seconds"):
            assert f"marketd_{histogram}_bucket" in plain


@pytest.mark.usefixtures("_unkept")
async def test_what_happened_is_counted_once() -> None:
    async with (
        world(rate=2.0) as w,
        w.stream("/ws/binance/BTCUSDT/trades") as trades,
        w.stream("/ws/binance/BTCUSDT/trades"),
    ):
        await trades.at_least(5)
        text = await scrape(w.client)
        assert value(text, "connections", kind="websocket") == 2
        assert value(text, "subscriptions", kind="trades") == 2
        assert value(text, "exchange_up", exchange="binance") == 1
        assert value(text, "feeds", exchange="binance", state="live") == 1
        events, delivered = (
            value(text, "events_total", exchange="binance", kind="trades"),
            value(text, "deliveries_total", kind="trades"),
        )
        assert 0 < delivered <= 2 * events
        assert value(text, "sent_bytes_total", kind="trades") > 100 * delivered
        await w.get("/binance/ohlc/BTCUSDT/1m", limit=3)
        await w.problem("/binance/ohlc/NOPE/1m", 404, "unknown_symbol")
        await w.problem("/nothing/at/all", 404, "not_found")
        later = await scrape(w.client)
        route = "/{exchange}/ohlc/{symbol}/{interval}"
        assert value(later, "http_requests_total", route=route, status="2xx") == 1
        assert value(later, "http_requests_total", route=route, status="4xx") == 1
        assert value(later, "http_requests_total", route="other", status="4xx") == 1
        assert value(later, "http_request_seconds_count", route=route) == 2
        for (name, labels), before in samples(text).items():
            if name.endswith(("_total", "_count", "_bucket")):
                assert samples(later)[name, labels] >= before, (name, labels)


@pytest.mark.usefixtures("_unkept")
async def test_nothing_that_a_client_writes_is_a_label() -> None:
    async with world(live=False) as w:
        for path in ("/marker-abc/ohlc/marker-abc/1m", "/binance/ohlc/marker-abc/marker-abc", "/marker-abc"):
            await w.client.get(path, params={"marker-abc": "marker-abc"}, headers={"X-API-Key": "marker-abc"})
        text = await scrape(w.client)
        assert "marker" not in text
        assert value(text, "http_requests_total", route="other", status="4xx") >= 1


@pytest.mark.usefixtures("_unkept")
async def test_counters_do_not_fall_when_a_connection_is_lost() -> None:
    async with world(rate=2.0) as w, w.stream("/ws/binance/BTCUSDT/trades") as trades:
        await trades.at_least(3)
        before = samples(await scrape(w.client))
        w.sim.drop()
        await eventually(lambda: w.sim.connections_total >= 2, what="another connection")
        await trades.at_least(len(trades.frames) + 3)
        text = await scrape(w.client)
        lost = sum(v for (name, _), v in samples(text).items() if name == "marketd_line_disconnects_total")
        assert lost == 1
        assert value(text, "line_connects_total", exchange="binance") == 2
        after = samples(text)
        assert all(after[key] >= was for key, was in before.items() if key[0].endswith(("_total", "_count")))


async def test_an_answer_is_kept_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.metrics.page.KEPT", 60 * KEPT)
    async with world() as w:
        assert await scrape(w.client) == await scrape(w.client)


async def test_series_per_symbol_are_for_those_who_ask_for_them() -> None:
    async with world(metrics=Metrics(symbols=True)) as w:
        await w.settled()
        text = await scrape(w.client)
        assert value(text, "feed_up", exchange="binance", symbol="BTCUSDT") == 1
    async with world() as w:
        assert "feed_up" not in await scrape(w.client)


async def test_it_can_be_switched_off_and_moved_away() -> None:
    port = free_port()
    async with world(live=False, metrics=Metrics(enabled=False)) as w:
        await w.problem("/metrics", 404, "not_found")
    async with world(live=False, metrics=Metrics(listen=f"127.0.0.1:{port}")) as w:
        await w.problem("/metrics", 404, "not_found")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN) as monitoring:
            assert NAMES - families(await scrape(monitoring)) <= {n for n in NAMES if n.startswith("archive_")}
            assert (await monitoring.get("/health")).status_code == 404
            assert (await monitoring.head("/metrics")).headers["content-length"] != "0"


def test_a_histogram_counts_each_duration_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram()
    for seconds in (-1.0, 0.0, BOUNDS[0], BOUNDS[0] + 1e-9, 10.0, 11.0):
        histogram.observe(seconds)
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (3, 1, 1, 1)
    assert sum(histogram.counts) == 6
