"""Every figure of the README's section on speed, in one go, ready to be put there: some 25 minutes on a quiet machine.

    python -m pip install -e '.[dev,bench]'
    python -m tests.benchmarks.table [--repeats 5] [--seconds 10] [--only fanout,rest,topics,quiet,ingest,scale]

Runs the benchmarks one after the other, each as its own command with its own peers, and says for each figure the least,
the median and the most of its repeats. Linux only.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from .processes import ROOT, choose_cores, machine

NAMES = {"marketd": "marketd", "fastapi": "FastAPI + uvloop", "floor": "plain system calls"}


def spread(values: Sequence[float], digits: int = 1) -> str:
    """`median (least-most)`."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def fanout(report: Any) -> list[str]:
    told = ["| clients | marketd | FastAPI + uvloop | plain system calls | p99, marketd / FastAPI | kB per client |"]
    told.append("|---|---|---|---|---|---|")
    for clients in sorted({run["clients"] for run in report["runs"]}):
        mine = {
            name: [run for run in report["runs"] if (run["server"], run["clients"]) == (name, clients)]
            for name in NAMES
        }
        cpu = [spread([run["cpu"] for run in mine[name]]) + " µs" for name in NAMES]
        p99 = [spread([run["result"]["p99"] / 1000 for run in mine[name]]) for name in ("marketd", "fastapi")]
        kept = [median(run["memory_per_client"] / 1000 for run in mine[name]) for name in ("marketd", "fastapi")]
        told.append(f"| {clients} | {' | '.join(cpu)} | {' / '.join(p99)} ms | {kept[0]:.0f} / {kept[1]:.0f} |")
    return told


def rest(report: Any) -> list[str]:
    told = ["| REST | marketd | FastAPI + uvloop | plain system calls |", "|---|---|---|---|"]
    for route in dict.fromkeys(run["route"] for run in report["runs"]):
        costs = {
            name: [run["cpu"] for run in report["runs"] if (run["server"], run["route"]) == (name, route)]
            for name in NAMES
        }
        told.append(f"| {route} | {' | '.join(spread(cpu, 0) + ' µs' if cpu else '' for cpu in costs.values())} |")
    return told


def topics(report: Any) -> list[str]:
    told = ["| 100 topics on one socket | per update | passes of the scheduler |", "|---|---|---|"]
    passes = {server: count / updates for server, _, updates, _, count in report["counted"]}
    for server in dict.fromkeys(run[0] for run in report["runs"]):
        cpu = spread([run[1] for run in report["runs"] if run[0] == server], 0)
        told.append(
            f"| {server} | {cpu} µs | {passes[server]:.2f} |" if server in passes else f"| {server} | {cpu} µs | |"
        )
    return told


def quiet(report: Any) -> list[str]:
    told = ["| nothing happens | of a core |", "|---|---|"]
    for clients in dict.fromkeys(run[0] for run in report["runs"]):
        share = spread([run[1] for run in report["runs"] if run[0] == clients], 2)
        told.append(f"| {clients} idle clients | {share} % |")
    return told


def ingest(report: Any) -> list[str]:
    told = ["| frames in | each |", "|---|---|"]
    rows = report["rows"]
    told += [
        f"| {row['what']} | {row['cpu']:.1f} ({row['cpu_lowest']:.1f}-{row['cpu_highest']:.1f}) µs |" for row in rows
    ]
    return told


PARTS: dict[str, tuple[list[str], Callable[[Any], list[str]] | None]] = {
    "fanout": (["--clients", "100,500"], fanout),
    "rest": ([], rest),
    "topics": ([], topics),
    "quiet": (["--clients", "500"], quiet),
    "ingest": ([], ingest),
    "scale": (["--symbols", "300"], None),  # says in words what it saw; once
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if not PARTS.keys() >= set(wanted):
        parser.error(f"--only: some of {','.join(PARTS)}")
    sys.stdout.write(f"{machine(choose_cores())}\n")
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        for name in wanted:
            arguments, tell = PARTS[name]
            file = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", f"{__package__}.{name}", *arguments]
            if tell is not None:
                command += ["--repeats", str(options.repeats), "--seconds", str(options.seconds), "--json", str(file)]
            ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
            if ended.returncode:
                sys.stderr.write(f"{name} failed\n")
                return 1
            lines = tell(msgspec.json.decode(file.read_bytes())) if tell else ended.stdout.decode().splitlines()[1:]
            sys.stdout.write("\n".join(["", *lines, ""]))
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
