"""What clients asked for and were sent since the start, as plain numbers, kept where things happen."""

from collections import Counter, defaultdict

from actors.counts import Histogram
from actors.events import Kind

CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")  # of HTTP's status codes
OTHER = "other"  # the route of what no route answers: nothing that a client writes is a label


class WebCounts:
    """`deliveries` counts an event once per client that it was written to, `sent` their bytes."""

    def __init__(self) -> None:
        self.deliveries: defaultdict[Kind, int] = defaultdict(int)
        self.sent: defaultdict[Kind, int] = defaultdict(int)
        self.delivery = Histogram()  # received from the exchange -> written to the last client
        self.sse = 0  # clients of /sse at the moment
        self.requests: Counter[tuple[str, str]] = Counter()  # by route's template, and "2xx" to "5xx"
        self.request_seconds: defaultdict[str, Histogram] = defaultdict(Histogram)

    def written(self, kind: Kind, deliveries: int, size: int) -> None:
        """Events to clients, with so many bytes in all."""
        self.deliveries[kind] += deliveries
        self.sent[kind] += size

    def answered(self, route: str, status: int, seconds: float) -> None:
        self.requests[route, CLASSES[status // 100]] += 1
        self.request_seconds[route].observe(seconds)
