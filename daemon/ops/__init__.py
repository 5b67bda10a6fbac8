"""`marketd ops`: files for those who run the daemon for others, data beside this module.

`@MARKETD@` in one of them is where this installation's own program is.
"""

import argparse
import shutil
import sys
from importlib.resources import files
from pathlib import Path

from daemon import output

FILES = {
    "systemd": "marketd.service",
    "compose": "compose.yaml",
    "compose-cluster": "compose-cluster.yaml",
    "kubernetes": "kubernetes.yaml",
    "alerts": "alerts.yaml",
    "grafana": "grafana.json",
}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    help = "print a file for running the daemon as a service"
    command = commands.add_parser("ops", help=help, description=help)
    command.add_argument("name", metavar="NAME", choices=FILES, help=f"one of {', '.join(FILES)}")


def run(name: str) -> int:
    """Write a file of FILES to stdout; returns the exit code."""
    return output.result(text_of(name))


def text_of(name: str) -> str:
    return (files(__name__) / FILES[name]).read_text(encoding="utf-8").replace("@MARKETD@", _program())


def _program() -> str:
    beside = Path(sys.executable).with_name("marketd")
    return str(beside) if beside.is_file() else shutil.which("marketd") or "/usr/local/bin/marketd"
