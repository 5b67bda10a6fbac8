"""freqtrade in dry-run on the façade, by hand: it is too large for the tests.

    python -m tests.clients.freqtrade FREQTRADE [--exchange binance] [--volume] [--seconds 90]

FREQTRADE is its program, from an environment of its own (`python -m venv`, `pip install freqtrade`). Its configuration
is the README's. With `--volume` it chooses its pairs itself, by their volume. Halfway a second bot is begun. Prints
what both logged at WARNING and above, whether they ran and entered a trade, and what the exchange was asked by the
first until then and by both afterwards.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.clients.servers import asked_of, running

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


VOLUME = {"method": "VolumePairList", "number_assets": 2, "sort_key": "quoteVolume", "refresh_period": 1800}


def configuration(name: str, url: str, *, by_volume: bool) -> dict[str, Any]:
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
        "exchange": {**exchange, "pair_whitelist": [] if by_volume else [PAIR[name]]},
        "pairlists": [VOLUME if by_volume else {"method": "StaticPairList"}],
        "db_url": "sqlite://",
    }


class Bot:
    def __init__(self, program: str, home: Path, config: dict[str, Any]) -> None:
        home.mkdir()
        (home / "config.json").write_text(json.dumps(config))
        (home / "strategy.py").write_text(STRATEGY)
        command = [program, "trade", "--config", "config.json", "--strategy", "Always"]
        self._log = home / "log"
        with self._log.open("wb") as log:
            command += ["--strategy-path", ".", "--userdir", "."]
            self._process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log)

    def end(self) -> bool:
        """Whether it did what it should."""
        self._process.terminate()
        self._process.wait(30)
        said = self._log.read_text()
        problems = [line for line in said.splitlines() if re.search(r"- (WARNING|ERROR|CRITICAL) -|Traceback", line)]
        runs, enters = "Changing state to: RUNNING" in said, "entry_fill" in said
        summary = f"runs: {runs}, enters a trade: {enters}, problems: {len(problems)}"
        sys.stdout.write("\n".join([*problems, summary, "" if runs else said[-3000:]]))
        return runs and enters and not problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("freqtrade")
    parser.add_argument("--exchange", choices=tuple(PAIR), default="binance")
    parser.add_argument("--volume", action="store_true", help="VolumePairList instead of StaticPairList")
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(options.exchange, share=0.95) as world:
        url = world.url.removesuffix(f"/as/{options.exchange}")
        config = configuration(options.exchange, url, by_volume=options.volume)
        marks, bots = [len(world.sim.requests)], []
        for number in range(2):
            bots.append(Bot(options.freqtrade, Path(folder) / str(number), config))
            time.sleep(options.seconds / 2)
            marks.append(len(world.sim.requests))
        fine = [bot.end() for bot in bots]
        for words, since, until in zip(("one bot", "two bots"), marks, marks[1:], strict=False):
            kinds = Counter(path for path, _ in asked_of(world, since, until).elements())
            sys.stdout.write(f"asked of the exchange with {words}: {dict(kinds)}\n")
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
