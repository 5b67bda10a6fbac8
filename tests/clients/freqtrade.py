"""freqtrade in dry-run on the demo's façade, by hand: it is too large for the tests.

    python -m tests.clients.freqtrade FREQTRADE [--exchange binance] [--seconds 90]

FREQTRADE is its program, from an environment of its own (`python -m venv`, `pip install freqtrade`). Its configuration
is the README's. Prints what it logged at WARNING and above, and whether it ran and entered a trade.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.clients.servers import demo

README = Path(__file__).parents[2] / "web/facade/README.md"
PAIR = {"binance": "BTC/USDT:USDT", "bybit": "BTC/USDT:USDT", "hyperliquid": "BTC/USDC:USDC"}
STRATEGY = """
from freqtrade.strategy import IStrategy

class Always(IStrategy):
    timeframe, stoploss, minimal_roi, can_short = "1m", -0.5, {"0": 10}, False
    startup_candle_count = 30
    def populate_indicators(self, dataframe, metadata): return dataframe
    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = 1
        return dataframe
    def populate_exit_trend(self, dataframe, metadata): return dataframe
"""


def configuration(name: str, url: str) -> dict[str, Any]:
    """The README's `exchange` stanzas, with the demo's address."""
    stanzas = re.findall(r"```json\n(.*?)```", README.read_text(), re.DOTALL)
    found = [json.loads(text.replace("127.0.0.1:8000", url.removeprefix("http://"))) for text in stanzas]
    exchange = next(stanza["exchange"] for stanza in found if stanza["exchange"]["name"] == name)
    return {
        "dry_run": True,
        "initial_state": "running",
        "trading_mode": "futures",
        "margin_mode": "isolated",
        "stake_currency": PAIR[name].split(":")[1],
        "stake_amount": 100,
        "max_open_trades": 1,
        "entry_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
        "exit_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
        "exchange": {**exchange, "pair_whitelist": [PAIR[name]]},
        "pairlists": [{"method": "StaticPairList"}],
        "db_url": "sqlite://",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("freqtrade")
    parser.add_argument("--exchange", choices=tuple(PAIR), default="binance")
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, demo() as url:
        home = Path(folder)
        (home / "config.json").write_text(json.dumps(configuration(options.exchange, url)))
        (home / "strategy.py").write_text(STRATEGY)
        command = [options.freqtrade, "trade", "--config", "config.json", "--strategy", "Always"]
        command += ["--strategy-path", ".", "--userdir", "."]
        with (home / "log").open("wb") as log:
            bot = subprocess.Popen(command, cwd=home, stdout=log, stderr=log)
            time.sleep(options.seconds)
            bot.terminate()
            bot.wait(30)
        said = (home / "log").read_text()
    problems = [line for line in said.splitlines() if re.search(r"- (WARNING|ERROR|CRITICAL) -|Traceback", line)]
    runs, enters = "Changing state to: RUNNING" in said, "entry_fill" in said
    sys.stdout.write("\n".join([*problems, f"runs: {runs}, enters a trade: {enters}, problems: {len(problems)}", ""]))
    if not runs:
        sys.stdout.write(said[-3000:])
    return 0 if runs and enters and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
