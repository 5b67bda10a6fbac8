"""Where recordings of the real exchanges are read from. They are no part of the project: tests skip without them."""

from pathlib import Path

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"
