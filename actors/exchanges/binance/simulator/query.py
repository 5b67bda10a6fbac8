"""How the simulated Binance USD-M reads a query: what is missing or odd is refused with its documented code."""

from actors.exchanges.binance.simulator.rows import PERPETUAL


class Refused(Exception):
    """Raised with a code and a message: HTTP 400."""


def missing(name: str) -> Refused:
    return Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def integer(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text:
        raise Refused(-1105, f"Parameter '{name}' was empty.")
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        legal = "legal range is '^[0-9]{1,20}$'."
        raise Refused(-1100, f"Illegal characters found in parameter '{name}'; {legal}")
    return int(text)


def limit_of(query: dict[str, str], default: int, most: int) -> int:
    found = integer(query, "limit")
    if found is None:
        return default
    if not 1 <= found <= most:
        raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
    return found


def times(query: dict[str, str]) -> tuple[int | None, int | None]:
    start, end = integer(query, "startTime"), integer(query, "endTime")
    if start is not None and end is not None and start > end:
        raise Refused(-1023, "Start time is greater than end time.")
    far = PERPETUAL  # no calendar overflow, whatever the client sends
    return start if start is None else min(start, far), end if end is None else min(end, far)
