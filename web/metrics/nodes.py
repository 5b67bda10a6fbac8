"""What is told of one node among several: the engine between them, and the nodes that an edge asks."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from actors.feeds.everything import ALL
from actors.mirror.ingests import Ingests
from actors.node import Node
from web.metrics.families import counter, gauge


def of_node(node: Node) -> Iterator[Metric]:
    of, relays, mirrors = ("exchange",), node.relays, node.mirrors
    yield gauge("engine_up", "Whether the engine takes and tells events", (), [((), float(node.links.state == "live"))])
    yield counter("engine_failures", "Calls that the engine did not answer", (), [((), node.links.failures)])
    led = [((name,), float(sum(lane.lease is not None for lane in relay.lanes))) for name, relay in relays.items()]
    yield gauge("engine_lanes_led", "Lanes that this node leads", of, led)
    said = [((name,), sum(lane.entries for lane in relay.lanes)) for name, relay in relays.items()]
    yield counter("engine_said", "Events, gaps and states said to the engine", of, said)
    bursts = [((name,), sum(lane.said for lane in relay.lanes)) for name, relay in relays.items()]
    yield counter("engine_bursts", "Bursts that carried them", of, bursts)
    gaps = [((name,), sum(lane.writer.gaps for lane in relay.lanes)) for name, relay in relays.items()]
    yield counter("engine_gaps", "Topics of which nobody could tell a while, at takeovers", of, gaps)
    holes = [*(((name,), mirror.holes) for name, mirror in mirrors.items()), ((ALL,), node.everywhere.holes)]
    yield counter("engine_holes", "Lanes that had to be read anew", of, holes)


def of_ingests(ingests: Ingests) -> Iterator[Metric]:
    for name, what, counts in (
        ("answered", "Questions that a node that collects answered", ingests.answered),
        ("failed", "Times that such a node was not reached, or went away", ingests.failed),
    ):
        rows = [((node,), float(count)) for node, count in counts.items()]
        yield counter(f"ingest_{name}", what, ("node",), rows)
