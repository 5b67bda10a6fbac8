"""Chromium for tests, one for all that a module visits, and a wire to the daemon that can be cut."""

import shutil
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import trio

T = TypeVar("T")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHIN = 30_000  # ms, for whatever a page is waited for

# Kept by the page itself: what its socket brought, and how often it asked.
NOTES = """
window.frames_seen = 0; window.asked = 0;
const Plain = WebSocket;
window.WebSocket = class extends Plain {
    constructor(...told) {
        super(...told);
        this.addEventListener("message", ({ data }) => {
            const frames = JSON.parse(data);
            window.frames_seen += Array.isArray(frames) ? frames.length : 1;
        });
    }
};
const plain = window.fetch;
window.fetch = (...told) => { window.asked += 1; return plain(...told); };
"""


class Visit:
    """One page, as seen from the browser's thread."""

    def __init__(self, page: Any, token: trio.lowlevel.TrioToken) -> None:
        self.page = page
        self._token = token

    def wait(self, condition: str, argument: object = None) -> None:
        """Until an expression is true, or what a function of the argument gives."""
        function = f"() => {condition}" if argument is None else condition  # a bare one is eval, which the CSP forbids
        self.page.wait_for_function(function, arg=argument, timeout=WITHIN, polling=50)

    def look(self, expression: str, argument: object = None) -> Any:
        return self.page.evaluate(expression, argument)

    def another(self) -> "Visit":
        """Beside this one."""
        return Visit(self.page.context.new_page(), self._token)

    def call(self, act: Callable[..., Awaitable[T]], *told: object) -> T:
        """Done by the test's own loop."""
        return trio.from_thread.run(act, *told, trio_token=self._token)

    def soon(self, act: Callable[..., T], *told: object) -> T:
        return trio.from_thread.run_sync(act, *told, trio_token=self._token)


class Browser:
    """All of it happens in one thread: Playwright's objects belong to the one that made them."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._open).result()

    def _open(self) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

    def close(self) -> None:
        self._thread.submit(self._chromium.close).result()
        self._thread.submit(self._playwright.stop).result()
        self._thread.shutdown()

    async def visit(self, act: Callable[[Visit], None], *, expected: str = "\0", **context: Any) -> None:
        """Let `act` use a page of its own. What it complains of, or asks of a host that is not this machine, fails.

        `expected`: what complaints may contain.
        """
        job = self._thread.submit(self._visit, act, trio.lowlevel.current_trio_token(), expected, context)
        await trio.to_thread.run_sync(job.result)

    def _visit(
        self, act: Callable[[Visit], None], token: trio.lowlevel.TrioToken, expected: str, context: dict[str, Any]
    ) -> None:
        opened = self._chromium.new_context(**context)
        try:
            opened.set_default_timeout(WITHIN)
            opened.add_init_script(NOTES)
            with _quiet(opened, expected):
                act(Visit(opened.new_page(), token))
        finally:
            opened.close()


@contextmanager
def _quiet(context: Any, expected: str) -> Iterator[None]:
    complaints: list[str] = []
    foreign: list[str] = []

    def on_console(said: Any) -> None:
        if said.type in ("error", "warning"):
            complaints.append(said.text)

    def on_request(asked: Any) -> None:
        if not asked.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            foreign.append(asked.url)

    context.on("console", on_console)
    context.on("weberror", lambda told: complaints.append(str(told.error)))
    context.on("request", on_request)
    yield
    unexpected = [text for text in complaints if expected not in text]
    assert unexpected == [], unexpected
    assert foreign == [], foreign


class Wire:
    """Between a browser and the daemon, on a port of its own."""

    def __init__(self, url: str, nursery: trio.Nursery) -> None:
        self._port, self._nursery = int(url.rpartition(":")[2]), nursery
        self._carried: set[trio.CancelScope] = set()
        self.is_open = True
        self.url = ""

    async def open(self) -> None:
        (listener,) = await self._nursery.start(partial(trio.serve_tcp, self._carry, 0, host="127.0.0.1"))
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"

    def cut(self) -> None:
        """All connections end, and no other comes through until it is mended."""
        self.is_open = False
        for scope in self._carried:
            scope.cancel()

    def mend(self) -> None:
        self.is_open = True

    async def _carry(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._carried.add(scope)
            try:
                if self.is_open:
                    await self._join(client, scope)
            finally:
                self._carried.discard(scope)
                await trio.aclose_forcefully(client)

    async def _join(self, client: trio.SocketStream, scope: trio.CancelScope) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, client, server, scope)
            nursery.start_soon(_pump, server, client, scope)


async def _pump(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await target.send_all(data)
    scope.cancel()
