"""The nurseries: what collects, what keeps, and the front that clients meet, started and stopped in order.

Nothing else starts actors. `run` is startable and reports the address once clients are accepted, so that tests run the
real program on port 0.
"""

import random
from collections.abc import Mapping
from functools import partial

import structlog
import trio

from actors.exchanges.exchange import Exchange
from actors.upstream.seam import Upstream
from daemon.collecting import make_collecting, open_keepers, wanted
from daemon.front import make_front, open_door
from daemon.notify import Notify
from daemon.parts import Parts
from daemon.policy import Policy, with_policy
from daemon.reload import Reloader
from daemon.settings import Config
from daemon.several import open_edge, open_node
from web.access.clients import Clients
from web.connectors import Connectors
from web.streams.fanouts import Fanouts

NOBODY = Notify()
GRACE = 8.0  # seconds from the wish to stop until whatever is left is cut off

log = structlog.get_logger()


async def run(
    config: Config,
    exchanges: Mapping[str, Exchange],
    *,
    stop: trio.Event,
    upstream: Upstream | None = None,
    rng: random.Random | None = None,
    manager: Notify = NOBODY,
    reloader: Reloader | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until `stop` is set; reports the base URL when it listens.

    `upstream`: how exchanges are reached; None: as the configuration says. `rng`: the chance in the waits before a
    restart; None: the system's. `manager`: the service manager that is told.
    `reloader`: what a signal and `/admin/reload` use; None: the configuration stays.
    Raises CannotListen, and ConfigError where a file that the configuration names, a sink, or the engine of several
    nodes cannot be used.
    Ends within GRACE of the stop, whatever clients or exchanges do.
    """
    door = await open_door(config, exchanges)
    policy, loader = Policy(config.supervision), reloader or Reloader(lambda _: config)
    supervised = with_policy(policy, rng)
    keepers, running = open_keepers(config), wanted(config, exchanges)
    async with (
        open_node(config, running, supervised, door.url) as node,
        open_edge(config, running, node) as edge,
        trio.open_nursery() as keeping,
    ):
        collecting = make_collecting(config, running, keepers, supervised, node=node, edge=edge, upstream=upstream)
        door.start(keeping)
        keepers.start(keeping, supervised)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_limit_stop, stop, nursery.cancel_scope, manager)
            collecting.start(nursery, supervised)
            front = make_front(nursery, config, door, collecting, supervised, loader)
            front.start(nursery, supervised)
            loader.begin(config, Parts(collecting, front, policy).take)
            nursery.start_soon(_stop_streams, stop, front.fanouts)
            async with trio.open_nursery() as web:
                await front.accept(web, stop)
                log.info("web.listening", url=door.url)
                manager.tell("READY=1")
                nursery.start_soon(manager.watch, partial(_status, collecting.sources.connectors, door.auth.clients))
                task_status.started(door.url)
            nursery.cancel_scope.cancel()  # every client is gone
        keeping.cancel_scope.cancel()  # nobody says anything any more
    log.info("daemon.stopped")


async def _limit_stop(stop: trio.Event, scope: trio.CancelScope, manager: Notify) -> None:
    await stop.wait()
    manager.tell("STOPPING=1")
    log.info("daemon.stopping")
    scope.deadline = trio.current_time() + GRACE


async def _stop_streams(stop: trio.Event, fanouts: Fanouts) -> None:
    await stop.wait()
    fanouts.stop()


def _status(connectors: Connectors, clients: Clients) -> str:
    """What a service manager shows."""
    live = sum(connector.is_live for connector in connectors.values())
    return f"{live}/{len(connectors)} exchanges live, {clients.present()} clients"
