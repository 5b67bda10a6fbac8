"""One line on a terminal that says how far something is. Where stderr is no terminal, nothing at all."""

import sys
import time

EVERY = 0.1  # seconds between two looks of the line
WIDTH = 24  # characters of the bar


class Progress:
    """Used in a `with` block, so that the line is ended whatever happens."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._shown_at = float("-inf")
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal and self._shown_at > 0:
            sys.stderr.write("\n")

    def show(self, rows: int, share: float) -> None:
        """`rows` so far, `share` of the whole (0 to 1)."""
        now = time.monotonic()
        if not self._is_terminal or (now - self._shown_at < EVERY and share < 1):
            return
        self._shown_at = now
        sys.stderr.write(f"\r\x1b[K{line(self._what, rows, share, now - self._began)}")
        sys.stderr.flush()


def line(what: str, rows: int, share: float, seconds: float) -> str:
    """What is shown after so many seconds."""
    share = min(max(share, 0.0), 1.0)
    bar = "#" * round(share * WIDTH)
    left = f"{duration(seconds / share - seconds)} left" if share > 0 else "estimating"
    tail = left if share < 1 else f"in {duration(seconds)}"
    return f"{what} [{bar:<{WIDTH}}] {share:4.0%} {rows:,} rows, {tail}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
