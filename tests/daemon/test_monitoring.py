"""The alerts and the dashboard of `marketd ops`, judged by Prometheus' own tool and by a running daemon."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml

from daemon.ops import text_of
from daemon.settings import Archive, Metrics
from tests.daemon.fixtures import world

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's package prometheus) is not installed")

ONE = '{instance="a:8000"}'
OF_BINANCE = '{instance="a:8000", exchange="binance"}'
LAG = 'marketd_event_lag_seconds_bucket{instance="a:8000", exchange="binance", kind="trades", le='
LATE = 'marketd_loop_lag_seconds_bucket{instance="a:8000", le='

# Of each alert: what the daemon says (a value each 15 s), when the alert must be on, and when it must not be yet.
CASES: dict[str, tuple[dict[str, str], str, str]] = {
    "MarketdAbsent": ({}, "2m", "30s"),
    "MarketdExchangeDown": ({f"marketd_exchange_up{OF_BINANCE}": "1x4 0x40"}, "4m", "2m"),
    "MarketdNoTrades": (
        {
            'marketd_event_age_seconds{instance="a:8000", exchange="binance", kind="trades"}': "0+15x40",
            f"marketd_lines{OF_BINANCE}": "1x40",
        },
        "2m",
        "1m",
    ),
    "MarketdGap": (
        {'marketd_gaps_total{instance="a:8000", exchange="binance", kind="trades", repaired="false"}': "0x8 1x40"},
        "4m",
        "1m",
    ),
    "MarketdBanned": ({f"marketd_budget_closed_seconds{OF_BINANCE}": "0x4 600-15x40"}, "2m", "1m"),
    "MarketdBudgetShort": (
        {'marketd_budget_used_ratio{instance="a:8000", exchange="binance", bucket="weight"}': "0.93x80"},
        "12m",
        "8m",
    ),
    "MarketdLate": ({f'{LAG}"2.5"}}': "0x80", f'{LAG}"5"}}': "0+10x80", f'{LAG}"+Inf"}}': "0+10x80"}, "8m", "3m"),
    "MarketdBusy": ({f'{LATE}"0.25"}}': "0x80", f'{LATE}"0.5"}}': "0+10x80", f'{LATE}"+Inf"}}': "0+10x80"}, "8m", "3m"),
    "MarketdArchiveFailing": ({f"marketd_archive_up{ONE}": "1x4 0x40"}, "4m", "2m"),
    "MarketdDiskFull": ({f"marketd_archive_free_bytes{ONE}": "100000-20x400"}, "1h", "10m"),
    "MarketdSinkFailing": ({'marketd_sink_up{instance="a:8000", sink="kafka"}': "1x4 0x40"}, "4m", "2m"),
    "MarketdSinkLosing": ({'marketd_sink_dropped_total{instance="a:8000", sink="kafka"}': "0x8 1x40"}, "4m", "1m"),
    "MarketdDescriptors": (
        {f"process_open_fds{ONE}": "900x40", f"process_max_fds{ONE}": "1000x40", f"marketd_build_info{ONE}": "1x40"},
        "6m",
        "3m",
    ),
    "MarketdConnections": (
        {
            'marketd_connections{instance="a:8000", kind="http"}': "20x40",
            'marketd_connections{instance="a:8000", kind="websocket"}': "65x40",
            f"marketd_connections_limit{ONE}": "100x40",
        },
        "6m",
        "3m",
    ),
    "MarketdReloadFailed": (
        {'marketd_config_reloads_total{instance="a:8000", result="failed"}': "0x8 1x40"},
        "4m",
        "1m",
    ),
}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(text_of("alerts"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode(text_of("grafana"))["panels"]
    return found


def expressions() -> list[str]:
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    return asked + [rule["expr"] for rule in rules()]


def test_every_alert_waits_weighs_and_says_what_to_do() -> None:
    assert {rule["alert"] for rule in rules()} == CASES.keys()
    for rule in rules():
        assert rule["for"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert len(rule["annotations"]["summary"]) > 40


def test_the_dashboard_chooses_its_source_and_has_a_row_for_each_group() -> None:
    dashboard = msgspec.json.decode(text_of("grafana"))
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == [
        "Feeds",
        "Lines",
        "Events",
        "REST of the exchanges",
        "Clients",
        "HTTP",
        "Archive",
        "Sinks",
        "Process",
    ]
    shown = [panel for panel in panels() if panel["type"] != "row"]
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in shown)
    assert len({panel["id"] for panel in panels()}) == len(panels())
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()}
    assert len(places) == len(panels()), "none covers another"


async def test_what_they_ask_for_is_there(tmp_path: Path) -> None:
    archive = Archive(path=str(tmp_path / "marketd.db"))
    async with world(rate=2.0, archive=archive, metrics=Metrics(enabled=True)) as w:  # and no sink, as in the demo
        page = (await w.client.get("/metrics")).text
    declared = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    asked = {name for text in expressions() for name in re.findall(r"\b(?:marketd|process)_\w+", text)}
    assert {name.removesuffix("_bucket") for name in asked} <= declared
    told = {name for name in declared if name.startswith("marketd_")}
    shown = {name.removesuffix("_bucket") for name in asked}
    assert told - shown == set(), "whatever is told is shown"
    if PROMTOOL is not None:
        command = [PROMTOOL, "check", "metrics"]
        checked = await trio.run_process(
            command, stdin=page.encode(), capture_stdout=True, capture_stderr=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


@needs_promtool
def test_prometheus_takes_the_rules_and_each_fires_when_it_should(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    (tmp_path / "alerts.yaml").write_text(text_of("alerts"))
    checked = subprocess.run(
        [PROMTOOL, "check", "rules", str(tmp_path / "alerts.yaml")], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = []
    for name, (series, on, off) in CASES.items():
        rule = next(rule for rule in rules() if rule["alert"] == name)
        input_series = [{"series": one, "values": values} for one, values in series.items()]
        fired = {"exp_labels": _labels(name, series) | rule["labels"], "exp_annotations": {"summary": "…"}}
        tests.append(
            {
                "interval": "15s",
                "input_series": input_series,
                "alert_rule_test": [
                    {"eval_time": off, "alertname": name, "exp_alerts": []},
                    {"eval_time": on, "alertname": name, "exp_alerts": [fired]},
                ],
            }
        )
    (tmp_path / "without.yaml").write_text(_without_summaries(text_of("alerts")))
    file = {"rule_files": ["without.yaml"], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(file, allow_unicode=True))
    tested = subprocess.run(
        [PROMTOOL, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def _labels(name: str, series: dict[str, str]) -> dict[str, str]:
    """Those of the alert: what all of its series say, but for what it sums over."""
    if name == "MarketdAbsent":
        return {}
    first = next(iter(series))
    found = dict(re.findall(r'(\w+)="([^"]*)"', first))
    if name in ("MarketdLate", "MarketdBusy"):
        del found["le"]
    return {key: text for key, text in found.items() if not (name == "MarketdConnections" and key == "kind")}


def _without_summaries(text: str) -> str:
    """The same rules: that a summary is written out is promtool's to check, what it says is for people."""
    return re.sub(r'summary: ".*"', 'summary: "…"', text)
