"""Who may do what: the scopes of a key, or of nobody in particular, and what each path needs.

Law: a key is checked on every request, and nothing remembers one. A bad key is told in one text, whether it is unknown,
expired or revoked, and refused also where none would have done: who is served less than they asked for does not notice
their mistake. A good key is never refused because of others' bad ones.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from actors import clock
from actors.errors import RateLimited
from actors.upstream.caller import CLIENT
from web.access.account import Account
from web.access.clients import Clients
from web.access.keys import Keys, KeysError, find_id, read_keys
from web.access.limits import Limits
from web.problems import Denied

FAILURE_COSTS = 10  # requests of the client's allowance
LOOK_EVERY = 1.0  # seconds between looks at the file and at what has expired
USED_EVERY = 3600.0  # seconds between two lines that say that a key is in use
OPEN = {"/health/live", "/health/ready", "/docs", "/redoc", "/openapi.json", "/asyncapi.json"}
SCOPE_OF = {"export": "export", "metrics": "metrics", "admin": "admin"}  # by the first part of a path
READ, ADMIN = "read", "admin"
REALM = 'Bearer realm="marketd"'

log = structlog.get_logger()


def scope_of(path: str) -> str | None:
    """What a path needs; None: nothing."""
    if path in OPEN or path.startswith(("/docs/", "/ui/")):
        return None
    return SCOPE_OF.get(path.split("/", 2)[1] if path.startswith("/") else "", READ)


class Visit(NamedTuple):
    """Whose a request or a connection is."""

    account: Account
    key: str | None  # the id of the one that was given
    scopes: Collection[str]


VISIT: ContextVar[Visit] = ContextVar("visit")
"""Of the request or the WebSocket that is being handled."""
ENDING: ContextVar[ExitStack] = ContextVar("ending")
"""What ends with it, however it ends."""


@contextmanager
def visiting(visit: Visit) -> Iterator[None]:
    """Within the block all is done for this client, what an exchange is asked too."""
    with ExitStack() as ending:
        ours, upstream, ends = VISIT.set(visit), CLIENT.set(visit.account.caller), ENDING.set(ending)
        try:
            yield
        finally:
            VISIT.reset(ours)
            CLIENT.reset(upstream)
            ENDING.reset(ends)


class Auth:
    """The keys there are, and what may be done without one."""

    def __init__(
        self,
        clients: Clients,
        *,
        anonymous: Collection[str] = (READ, "export", "metrics"),
        keys_file: Path | None = None,
        token_in_query: bool = True,
        in_clear: bool = False,
        may_log: Callable[[str], bool] = lambda event: True,
    ) -> None:
        """`anonymous`: scopes without a key. `keys_file` may be absent. `may_log` bounds the lines that clients cause.

        `in_clear`: keys come over the network as they are. Raises KeysError where the file cannot be used.
        """
        self._in_clear = in_clear
        self._may_log = may_log
        self.clients = clients
        self.failures: Counter[str] = Counter()  # by reason
        self.keys: Keys = {}
        self._limits: dict[str, Limits] = {}
        self._used: dict[str, float] = {}  # when a key's use was last told
        self._open: dict[str, dict[object, tuple[str, Callable[[Denied], None]]]] = {}  # by key: what it keeps open
        self.anonymous = frozenset(anonymous)
        self.token_in_query = token_in_query
        self.keys_file = keys_file
        self._seen = _mark(keys_file)
        self.adopt({} if keys_file is None else read_keys(keys_file))

    def change(self, limits: Limits, *, anonymous: Collection[str], token_in_query: bool) -> None:
        """Other settings from now on; what is open stays."""
        self.anonymous = frozenset(anonymous)
        self.token_in_query = token_in_query
        self.clients.change(limits)
        self.adopt(self.keys)

    def adopt(self, keys: Keys) -> None:
        """These are the keys, from now on. What others kept open ends."""
        if keys and self._in_clear:
            self._in_clear = False  # once is enough
            detail = "keys come over the network unencrypted: give the server a certificate, or a proxy that has one"
            log.warning("auth.in_clear", detail=detail)
        self.keys = keys
        self._limits = {id: key.limits_over(self.clients.limits) for id, key in keys.items()}
        self._used = {id: at for id, at in self._used.items() if id in keys}
        self.clients.renew()
        self.end_what_may_not_go_on()

    # --- requests ---

    def visit(self, keys: Collection[str], address: str) -> Visit:
        """Whose a request is. Raises Denied; RateLimited where too many bad keys came from there."""
        if not keys:
            return Visit(self.clients.of_address(address), None, self.anonymous)
        if len(keys) > 1:
            raise self._failed("two_keys", "two different keys were given", address)
        (text,) = keys
        visit = self.find(text, address)
        if visit is None:
            raise self._failed("bad_key", BAD_KEY, address)
        return visit

    def find(self, text: str, address: str) -> Visit | None:
        """Whose a key is; None where it is none that may be used."""
        id = find_id(text, self.keys)
        if id is None or ((key := self.keys[id]).expires is not None and key.is_over(clock.now())):
            return None
        account = self.clients.of_key(id, address, self._limits[id], is_exempt=ADMIN in key.scopes)
        now = trio.current_time()
        if now - self._used.get(id, -USED_EVERY) >= USED_EVERY:
            self._used[id] = now
            log.info("auth.key_used", id=id, name=key.name, client=address)
        return Visit(account, id, key.scopes)

    def check(self, visit: Visit, scope: str | None) -> None:
        """Raises Denied where a client may not do what needs `scope`."""
        if scope is None or scope in visit.scopes or ADMIN in visit.scopes:
            return
        if visit.key is None:
            self.failures["no_key"] += 1
            raise Denied("unauthorized", f"a key with the scope {scope} is needed here", REALM)
        self.failures["scope"] += 1
        raise _forbidden(scope)

    def _failed(self, reason: str, detail: str, address: str) -> Denied | RateLimited:
        self.failures[reason] += 1
        if self._may_log("auth.failed"):
            log.warning("auth.failed", reason=reason, client=address)
        account = self.clients.of_address(address)
        if wait := account.spend(FAILURE_COSTS):
            return account.refusal(wait)
        return Denied("unauthorized", detail, f'{REALM}, error="invalid_token"')

    # --- what stays open ---

    @contextmanager
    def staying(self, visit: Visit, scope: str, end: Callable[[Denied], None]) -> Iterator[None]:
        """Call `end` as soon as the client's key may not be used for `scope` any more, within the block."""
        if visit.key is None:
            yield
            return
        this, opened = object(), self._open.setdefault(visit.key, {})
        opened[this] = scope, end
        try:
            yield
        finally:
            opened.pop(this, None)
            if not opened and self._open.get(visit.key) is opened:
                del self._open[visit.key]

    def end_what_may_not_go_on(self) -> None:
        now = clock.now()
        for id, opened in list(self._open.items()):
            key = self.keys.get(id)
            for this, (scope, end) in list(opened.items()):
                if key is None or key.is_over(now):
                    denied = Denied("unauthorized", BAD_KEY, f'{REALM}, error="invalid_token"')
                elif scope in key.scopes or ADMIN in key.scopes:
                    continue
                else:
                    denied = _forbidden(scope)
                del opened[this]
                end(denied)

    async def watch(self) -> None:
        """Look at the file every second, for ever. One that cannot be used is told once; the keys stay as they were."""
        while True:
            await clock.tick(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Take what is new in the file, and end what has expired."""
        path = self.keys_file
        mark = await trio.to_thread.run_sync(_mark, path)
        if path is not None and mark != self._seen:
            self._seen = mark
            try:
                keys = await trio.to_thread.run_sync(read_keys, path)
            except KeysError as error:
                log.error("auth.keys_refused", reason=str(error))
            else:
                log.info("auth.keys_changed", keys=len(keys))
                self.adopt(keys)
                return
        self.end_what_may_not_go_on()


BAD_KEY = "this key cannot be used: it is unknown, has expired or was revoked"


def _forbidden(scope: str) -> Denied:
    challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
    return Denied("forbidden", f"this key lacks the scope {scope}", challenge)


def _mark(path: Path | None) -> tuple[int, ...] | None:
    """What is another whenever the file is; None where there is none."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode, found.st_ctime_ns
