"""What this version costs beside another one: the same short runs of both in turns, CPU per unit of work.

    git clone . ../before && git -C ../before checkout COMMIT, with a .venv of its own
    python -m tests.benchmarks.against ../before [--rounds 5] [--seconds 5] [--only fanout rest ingest]

Linux only. Each round runs each benchmark once in either checkout, with that checkout's own Python, benchmark and
program, and every other round the other one first: whatever the machine does besides meets both. Metrics are on and
there are no keys, as in each version's defaults. Reported per row: the medians, and the median of the rounds' ratios,
which is the figure to trust on a machine that others use.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from .processes import ROOT

COMMANDS = {
    "fanout": ["fanout", "--server", "marketd", "--clients", "100,500"],
    "rest": ["rest", "--server", "marketd"],
    "ingest line": ["ingest", "--only", "line"],
    "ingest daemon": ["ingest", "--only", "daemon"],
    "ingest reader": ["ingest", "--only", "reader"],
    "ingest paced": ["ingest", "--only", "paced"],
}
PATIENCE = 300.0  # seconds of one benchmark's run, beside its windows


class Row(msgspec.Struct, frozen=True):
    """What the rows of all benchmarks have in common: microseconds of CPU, and what they are of."""

    cpu: float
    clients: int | None = None
    route: str | None = None
    what: str | None = None

    @property
    def name(self) -> str:
        return f"{self.clients} clients" if self.clients else self.route or self.what or ""


class Report(msgspec.Struct, frozen=True):
    rows: list[Row]


def run(checkout: Path, command: Sequence[str], seconds: float) -> dict[str, float]:
    """CPU by row. Raises CalledProcessError, TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        told = Path(folder) / "rows.json"
        python = [str(checkout / ".venv/bin/python"), "-m", f"tests.benchmarks.{command[0]}", *command[1:]]
        bounds = ["--repeats", "1", "--seconds", f"{seconds:g}", "--json", str(told)]
        subprocess.run(
            [*python, *bounds], cwd=checkout, check=True, capture_output=True, timeout=PATIENCE + 10 * seconds
        )
        return {row.name: row.cpu for row in msgspec.json.decode(told.read_bytes(), type=Report).rows}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.against",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="the other checkout, with its own .venv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window (default 5)")
    parser.add_argument("--only", nargs="+", default=[*COMMANDS], help="names, or how they begin")
    options = parser.parse_args()
    chosen = [name for name in COMMANDS if name.startswith(tuple(options.only))]
    pairs: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        for name in chosen:
            order = [options.before, ROOT] if number % 2 == 0 else [ROOT, options.before]
            try:
                found = {checkout: run(checkout, COMMANDS[name], options.seconds) for checkout in order}
            except subprocess.CalledProcessError as error:  # a machine that is too busy: this round does not count
                sys.stderr.write(f"{number + 1}/{options.rounds} {name}: {error.stderr.decode()[-500:]}\n")
                continue
            for row, cpu in found[ROOT].items():
                before = found[options.before][row]
                pairs.setdefault(f"{name.split()[0]} {row}", []).append((before, cpu))
                sys.stderr.write(f"{number + 1}/{options.rounds} {name} {row}: {before:.2f} then {cpu:.2f} us\n")
    sys.stdout.write(f"{'what':<20} {'before':>8} {'now':>8} {'ratio':>7} {'spread':>13}\n")
    for row, both in pairs.items():
        ratios = sorted(now / before for before, now in both)
        before, cpu = (median(values) for values in zip(*both, strict=True))
        spread = f"{ratios[0]:.3f}..{ratios[-1]:.3f}"
        sys.stdout.write(f"{row:<20} {before:>8.2f} {cpu:>8.2f} {median(ratios):>7.3f} {spread:>13}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
