"""Keys and limits as clients meet them: the whole daemon, on a port of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import pytest
import trio
import trio_websocket

import web.access.auth
import web.streams.multiplex
from daemon.settings import Archive, Auth, Server
from tests.daemon.fixtures import World, eventually, world
from tests.patience import WITHIN
from web.access.keys import Key, new_key, write_keys
from web.access.limits import Limits

Json = dict[str, Any]
TRADES, OTHER = "binance:BTCUSDT:trades", "binance:BTCUSDT:oi"
EARLY, LATE = "/binance/funding/BTCUSDT", "/ws-catalog"  # answered from memory before Quart, and by Quart


class KeyFile:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.toml"
        self.keys: dict[str, Key] = {}

    def add(self, *scopes: str, expires: timedelta | None = None, **limits: float) -> str:
        text, id, sha256 = new_key()
        now = datetime.now(UTC)
        self.keys[id] = Key("test", sha256, scopes, now, now + expires if expires else None, limits)  # type: ignore[arg-type]
        self.write()
        return text

    def revoke(self, text: str) -> None:
        del self.keys[text.split("_")[1]]
        self.write()

    def write(self) -> None:
        write_keys(self.path, self.keys)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path)


@asynccontextmanager
async def guarded(
    keys: KeyFile | None = None,
    *,
    anonymous: tuple[Literal["read", "export"], ...] = (),
    limits: Limits | None = None,
    **changes: Any,
) -> AsyncIterator[World]:
    file = "none.toml" if keys is None else str(keys.path)
    auth = Auth(keys_file=file, anonymous=anonymous if keys else ("read", "export"))
    async with world(auth=auth, limits=limits or Limits(), live=False, **changes) as w:
        await w.subscribed("btcusdt@aggTrade")
        await w.pass_time(1000)
        yield w


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(w: World, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return await w.client.get(path, headers=headers)


async def answers(w: World, path: str, status: int, headers: dict[str, str] | None = None) -> None:
    """Wait until a request is answered so."""
    with trio.fail_after(WITHIN):
        while (await ask(w, path, headers)).status_code != status:  # noqa: ASYNC110 - asked over the network
            await trio.sleep(0.05)


async def warm(w: World) -> None:
    """The early answer is there."""
    await answers(w, EARLY, 200)


# --- allowances ---


async def test_over_the_rate_is_429_and_every_answer_says_what_is_left() -> None:
    limits = Limits(exempt=(), requests_per_second=0.001, request_burst=12)
    async with guarded(limits=limits) as w:
        seen = []
        for path in [LATE, EARLY, "/nothing/here", "/health?x=1"] * 3:
            answer = await ask(w, path)
            assert answer.status_code in (200, 404, 422)
            assert answer.headers["ratelimit-policy"] == '"requests";q=12;w=12000'
            seen.append(answer.headers["ratelimit"])
        assert [text.split(";")[1] for text in seen] == [f"r={left}" for left in range(11, -1, -1)]
        for path in (LATE, EARLY, "/nothing/here"):
            answer = await ask(w, path)
            told = answer.json()
            assert (answer.status_code, told["code"], told["limit"]) == (429, "rate_limited", "requests_per_second")
            assert answer.headers["content-type"] == "application/problem+json"
            assert 990 <= int(answer.headers["retry-after"]) == told["retry_after"] <= 1000
            assert answer.headers["ratelimit"].startswith('"requests";r=0;t=')
        live = await ask(w, "/health/live")
        assert live.status_code == 200, "who restarts us may share the address"
        with pytest.raises(trio_websocket.ConnectionRejected) as refused:
            async with w.stream("/ws"):
                pass
        assert refused.value.status_code == 429


async def test_exempt_clients_are_told_of_no_limit() -> None:
    limits = Limits(requests_per_second=0.001, request_burst=1, connections=1)
    async with guarded(limits=limits) as w:
        for path in (LATE, EARLY) * 3:
            answer = await ask(w, path)
            assert answer.status_code == 200
            assert not {"ratelimit", "ratelimit-policy"} & set(answer.headers)


async def test_a_limited_answer_from_memory_is_that_of_quart(keys: KeyFile) -> None:
    """Byte for byte, but for the numbers of the allowance."""
    key = keys.add("read")
    async with guarded(
        keys, limits=Limits(exempt=()), anonymous=("read",), server=Server(port=0, cors_origins="*")
    ) as w:
        await warm(w)
        for headers in ({}, bearer(key), {"X-API-Key": key, "Origin": "https://page.example"}):
            early = await ask(w, EARLY, headers)
            late = await w.client.get(EARLY, headers={**headers, "TE": "trailers"})  # unusual: Quart answers
            drop = {"date", "ratelimit"}
            shown = [
                [(name, value) for name, value in answer.headers.multi_items() if name not in drop]
                for answer in (early, late)
            ]
            assert shown[0] == shown[1]
            assert "ratelimit" in early.headers
            assert "ratelimit" in late.headers
            assert early.content == late.content


# --- keys ---


async def test_each_way_to_give_a_key(keys: KeyFile) -> None:
    key = keys.add("read")
    async with guarded(keys) as w:
        for path in (LATE, "/health", "/", EARLY):
            for headers in (bearer(key), {"X-API-Key": key}, {"authorization": f"bearer  {key}", "X-Api-Key": key}):
                assert (await ask(w, path, headers)).status_code == 200, (path, headers)
            none = await ask(w, path)
            assert (none.status_code, none.json()["code"]) == (401, "unauthorized")
            assert none.headers["www-authenticate"] == 'Bearer realm="marketd"'
        ways: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
            ("", bearer(key), ()),
            ("", {"X-API-Key": key}, ()),
            ("", {}, ("marketd", f"marketd.key.{key}")),
            (f"?token={key}", {}, ()),
            (f"?batch_ms=0&token={key}", {}, ()),
        ]
        for query, more, protocols in ways:
            async with w.stream(f"/ws{query}", more, protocols) as stream:
                await stream.say({"op": "ping"})
                assert await stream.at_least(1) == [{"type": "pong"}]
                assert stream.subprotocol == ("marketd" if protocols else None)
        async with w.client.stream("GET", "/sse", params={"topics": TRADES, "token": key}) as sse:
            assert sse.status_code == 200
        for path in (LATE, EARLY, "/binance/ohlc/BTCUSDT/1m"):
            told = await w.client.get(path, params={"token": key}, headers=bearer(key))
            assert (told.status_code, told.json()["code"]) == (422, "invalid_parameter"), path
        for name in ("/health/live", "/docs", "/docs/assets/docs.js", "/openapi.json", "/asyncapi.json"):
            assert (await ask(w, name)).status_code == 200, name
            assert (await ask(w, name, bearer("wrong"))).status_code == 200, name
        assert (await ask(w, "/health/ready")).status_code in (200, 503)


@pytest.mark.parametrize("anonymous", [(), ("read",)])
async def test_a_key_in_a_query_that_takes_none(keys: KeyFile, anonymous: tuple[Literal["read"], ...]) -> None:
    """Refused as the mistake it is, whether or not it would have been needed: 422, never a 401 that asks for a key."""
    key = keys.add("read")
    async with guarded(keys, anonymous=anonymous) as w:
        facade = "/as/binance/fapi/v1/ticker/bookTicker?symbol=BTCUSDT"
        for path in (LATE, EARLY, "/nothing", "/export/ohlc", "/", "/udf/config", facade):
            for headers in ({}, bearer(key)):
                told = await ask(w, f"{path}{'&' if '?' in path else '?'}token={key}", headers)
                assert (told.status_code, told.json()["code"]) == (422, "invalid_parameter"), path
                assert [error["parameter"] for error in told.json()["errors"]] == ["token"]
                assert key[12:] not in told.text
        assert (await ask(w, f"{LATE}?token={key}", bearer(key[:-1]))).status_code == 401
        frame, code, _ = await w.refused(f"/as/binance/ws?token={key}")
        assert (frame["code"], code) == ("invalid_parameter", 1008)
    off = Auth(keys_file=str(keys.path), anonymous=anonymous, token_in_query=False)
    async with world(auth=off, live=False) as w:
        for path in ("/ws", "/ws/binance/BTCUSDT/trades"):
            frame, code, _ = await w.refused(f"{path}?token={key}")
            assert (frame["code"], code) == ("invalid_parameter", 1008)
        told = await ask(w, f"/sse?topics={TRADES}&token={key}")
        assert (told.status_code, told.json()["code"]) == (422, "invalid_parameter")


async def test_below_the_facade_a_missing_key_is_refused_as_the_exchange_would(keys: KeyFile) -> None:
    key, path = keys.add("read"), "/as/binance/fapi/v1/ping"
    async with guarded(keys) as w:
        for headers in ({}, bearer(key[:-1])):
            told = await ask(w, path, headers)
            assert (told.status_code, told.headers["content-type"]) == (401, "application/json")
            assert told.json()["code"] == -2015
            assert "key" in told.json()["msg"]
        assert (await ask(w, path, {"X-API-Key": key})).json() == {}


async def test_a_bad_key_is_refused_in_one_text_also_where_none_would_do(keys: KeyFile) -> None:
    good, expired, revoked = keys.add("read"), keys.add("read", expires=timedelta(seconds=-1)), keys.add("read")
    keys.revoke(revoked)
    bad = [expired, revoked, good[:-1], good + "x", "", "mk_x", f"{good[:12]}{revoked[12:]}"]
    async with guarded(keys, anonymous=("read",)) as w:
        texts = set()
        for key in bad:
            for path in (LATE, EARLY):
                answer = await ask(w, path, {"X-API-Key": key})
                told = answer.json()
                assert (answer.status_code, told["code"]) == (401, "unauthorized"), key
                assert answer.headers["www-authenticate"] == 'Bearer realm="marketd", error="invalid_token"'
                texts.add(told["detail"])
            frame, code, _ = await w.refused("/ws", {"X-API-Key": key})
            assert (frame["type"], frame["code"], code) == ("error", "unauthorized", 4401)
            texts.add(frame["detail"])
        assert len(texts) == 1
        two = await ask(w, LATE, {**bearer(good), "X-API-Key": revoked})
        assert (two.status_code, two.json()["detail"]) == (401, "two different keys were given")
        assert (await ask(w, LATE)).status_code == 200
        assert (await ask(w, LATE, {"Authorization": "Basic dTpw"})).status_code == 200, "a proxy's own password"
        assert (await ask(w, LATE, {"Authorization": "mk_x"})).status_code == 401


async def test_scopes(keys: KeyFile) -> None:
    read, export, admin = keys.add("read"), keys.add("export"), keys.add("admin")
    async with guarded(keys, anonymous=("read",)) as w:
        for key, path, status in (
            (read, "/export/ohlc", 403),
            (export, "/export/ohlc", 404),  # the archive is switched off here
            (admin, "/export/ohlc", 404),
            (export, LATE, 403),
            (export, EARLY, 403),
            (admin, EARLY, 200),
            (read, "/admin/reload", 403),
            (read, "/metrics", 403),
        ):
            answer = await ask(w, path, bearer(key))
            assert answer.status_code == status, (path, answer.text)
            if status == 403:
                scope = {"export": "export", "admin": "admin", "metrics": "metrics"}.get(path.split("/")[1], "read")
                assert answer.json()["code"] == "forbidden"
                said = f'Bearer realm="marketd", error="insufficient_scope", scope="{scope}"'
                assert answer.headers["www-authenticate"] == said
        assert (await ask(w, "/export/ohlc")).status_code == 401
        frame, code, _ = await w.refused("/ws", bearer(export))
        assert (frame["code"], code) == ("forbidden", 4403)


async def test_what_a_revoked_key_kept_open_ends_and_nothing_else(keys: KeyFile) -> None:
    revoked, kept = keys.add("read"), keys.add("read")
    async with guarded(keys) as w:
        await answers(w, EARLY, 200, bearer(revoked))
        async with (
            w.stream("/ws", bearer(revoked)) as one,
            w.stream("/ws/binance/BTCUSDT/trades", {}, ("marketd", f"marketd.key.{revoked}")) as two,
            w.stream("/ws", bearer(kept)) as other,
            w.client.stream("GET", "/sse", params={"topics": TRADES}, headers=bearer(revoked)) as sse,
        ):
            keys.revoke(revoked)
            for stream in (one, two):
                assert await stream.end() == (4401, "unauthorized")
                assert stream.frames[-1]["type"] == "error"
            with trio.fail_after(WITHIN):
                async for _ in sse.aiter_bytes():
                    pass
            await other.say({"op": "ping"})
            await other.at_least(1)
        assert (await ask(w, EARLY, bearer(revoked))).status_code == 401
        assert (await ask(w, EARLY, bearer(kept))).status_code == 200


async def test_an_expiring_key_and_a_lost_scope_end_what_they_opened(keys: KeyFile) -> None:
    brief, narrowed = keys.add("read", expires=timedelta(seconds=2.5)), keys.add("read")
    async with guarded(keys) as w, w.stream("/ws", bearer(narrowed)) as two:
        async with w.stream("/ws", bearer(brief)) as one:
            assert (await one.end())[0] == 4401
        id = narrowed.split("_")[1]
        keys.keys[id] = msgspec.structs.replace(keys.keys[id], scopes=("export",))
        keys.write()
        assert await two.end() == (4403, "forbidden")


async def test_a_file_that_becomes_unusable_changes_nothing_and_is_told_once(keys: KeyFile) -> None:
    key = keys.add("read")
    async with guarded(keys) as w:
        keys.path.write_text("[")
        await eventually(lambda: w.logged("auth.keys_refused"), what="the line")
        assert (await ask(w, LATE, bearer(key))).status_code == 200
        keys.path.chmod(0o644)
        await eventually(lambda: len(w.logged("auth.keys_refused")) == 2, what="another line")
        other = keys.add("read")
        await eventually(lambda: w.logged("auth.keys_changed"), what="the good one")
        assert (await ask(w, LATE, bearer(other))).status_code == 200
        keys.path.unlink()
        await answers(w, LATE, 401, bearer(key))
        assert len(w.logged("auth.keys_refused")) == 2


async def test_bad_keys_cost_ten_requests_and_lock_no_good_one_out(keys: KeyFile) -> None:
    good = keys.add("read")
    limits = Limits(exempt=(), requests_per_second=0.001, request_burst=35)
    async with guarded(keys, limits=limits, anonymous=("read",)) as w:
        seen = [(await ask(w, LATE, bearer("wrong"))).status_code for _ in range(5)]
        assert seen == [401, 401, 401, 429, 429]
        assert (await ask(w, LATE)).headers["ratelimit"].startswith('"requests";r=4;')
        for path in (LATE, EARLY):
            answer = await ask(w, path, bearer(good))
            assert answer.status_code == 200
        assert answer.headers["ratelimit"].startswith('"requests";r=33;'), "it has an allowance of its own"


async def test_a_keys_own_limits_and_an_admin_has_none(keys: KeyFile) -> None:
    small, admin = keys.add("read", request_burst=2, requests_per_second=0.001), keys.add("admin")
    async with guarded(keys, limits=Limits(exempt=(), request_burst=50)) as w:
        seen = [await ask(w, LATE, bearer(small)) for _ in range(3)]
        assert [answer.status_code for answer in seen] == [200, 200, 429]
        assert seen[0].headers["ratelimit-policy"] == '"requests";q=2;w=2000'
        id = small.split("_")[1]
        keys.keys[id] = msgspec.structs.replace(keys.keys[id], limits={})
        keys.write()
        await answers(w, LATE, 200, bearer(small))
        for _ in range(60):
            answer = await ask(w, LATE, bearer(admin))
            assert answer.status_code == 200
        assert "ratelimit" not in answer.headers


# --- what is open ---


async def test_topics_and_filters_are_counted_over_all_connections_and_the_connection_stays() -> None:
    async with guarded(limits=Limits(exempt=(), topics=3, filtered_topics=1)) as w:  # noqa: SIM117
        async with w.stream("/ws") as one, w.stream("/ws") as two, w.stream("/ws/binance/BTCUSDT/trades"):
            await one.say({"op": "subscribe", "id": 1, "topics": [TRADES, "all:large_trades?min_value_usd=1"]})
            await eventually(lambda: one.of("ack"))
            await two.say({"op": "subscribe", "id": 2, "topics": [OTHER]})
            await eventually(lambda: two.of("error"))
            (told,) = two.of("error")
            assert (told["code"], told["limit"], told["topic"], told["id"]) == ("rate_limited", "topics", OTHER, 2)
            assert told["retry_after"] >= 1
            frame, code, _ = await w.refused("/ws/binance/BTCUSDT/oi")
            assert (frame["limit"], code) == ("topics", 4429)
            refused = await w.client.get("/sse", params={"topics": OTHER})
            assert (refused.status_code, refused.json()["limit"]) == (429, "topics")
            assert refused.headers["retry-after"] == "1"
            await one.say({"op": "unsubscribe", "topics": [TRADES]})
            await eventually(lambda: len(one.of("ack")) == 2)
            await two.say({"op": "subscribe", "id": 3, "topics": ["all:large_trades?min_value_usd=2"]})
            await eventually(lambda: len(two.of("error")) == 2)
            assert two.of("error")[1]["limit"] == "filtered_topics"
            await two.say({"op": "subscribe", "id": 4, "topics": [OTHER]})
            await eventually(lambda: two.of("ack"))


async def test_on_demand_symbols_end_with_their_topics_where_a_client_holds_many() -> None:
    names = ["BTCUSDT", "ETHUSDT"]
    async with guarded(limits=Limits(exempt=(), on_demand_symbols=1)) as w, w.stream("/ws") as one:
        await w.until("/symbols", lambda found: len(found) == len(names))
        await one.say({"op": "subscribe", "topics": [f"binance:{name}:trades" for name in names]})
        await eventually(lambda: one.of("ack"))
        assert not one.of("error"), "the configured ones do not count"
        async with w.stream("/ws") as two:
            await two.say({"op": "subscribe", "topics": ["binance:ETHUSDT:oi"]})
            await eventually(lambda: two.of("ack"))
        assert await w.feed("ETHUSDT")
        await one.say({"op": "unsubscribe", "topics": ["binance:ETHUSDT:trades"]})
        await w.health(lambda health: "ETHUSDT" not in [feed["symbol"] for feed in health["feeds"]])


async def test_a_socket_without_a_topic_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guarded() as w, w.stream("/ws") as busy:
        await busy.say({"op": "subscribe", "topics": [TRADES]})
        await eventually(lambda: busy.of("ack"))
        monkeypatch.setattr(web.streams.multiplex, "TOPIC_WITHIN", 0.5)
        async with w.stream("/ws") as idle:
            assert (await idle.end())[0] == 4408
        await busy.say({"op": "unsubscribe", "topics": [TRADES]})
        assert (await busy.end())[0] == 4408
        assert len(busy.of("ack")) == 2


async def test_connections_of_a_key_and_of_an_address(keys: KeyFile) -> None:
    key = keys.add("read", connections=1)
    async with guarded(keys, limits=Limits(exempt=(), connections=4), anonymous=("read",)) as w:  # noqa: SIM117
        async with w.stream("/ws", bearer(key)):
            frame, code, _ = await w.refused("/ws", bearer(key))
            assert (frame["code"], frame["limit"], code) == ("rate_limited", "connections", 4429)
            assert (await ask(w, LATE, bearer(key))).json()["limit"] == "connections"


async def test_one_client_exports_once_at_a_time(tmp_path: Path) -> None:
    archive = Archive(path=str(tmp_path / "marketd.db"))
    async with guarded(limits=Limits(exempt=(), exports=1), archive=archive) as w:
        path = "/export/ohlc?interval=1m"
        for _ in range(2):
            assert (await ask(w, path)).status_code == 200
        seen: list[httpx.Response] = []

        async def export(interval: str) -> None:
            seen.append(await ask(w, f"/export/ohlc?interval={interval}"))  # equal ones would be one

        async with trio.open_nursery() as nursery:
            for interval in ("1m", "5m", "15m", "1h"):
                nursery.start_soon(export, interval)
        found = sorted(answer.status_code for answer in seen)
        assert found[0] == 200
        assert 429 in found
        refused = next(answer for answer in seen if answer.status_code == 429)
        assert (refused.json()["limit"], refused.headers["retry-after"]) == ("exports", "1")
        assert (await ask(w, path)).status_code == 200


async def test_bytes_over_the_limit_end_a_stream_and_refuse_requests() -> None:
    async with guarded(limits=Limits(exempt=(), egress_bytes_per_second=100)) as w:
        async with w.stream("/ws") as one:
            await one.say({"op": "subscribe", "topics": [TRADES]})
            for _ in range(40):
                await w.pass_time(1000)
                if one.closed:
                    break
            assert (await one.end())[0] == 4429
            assert (one.frames[-1]["code"], one.frames[-1]["limit"]) == ("rate_limited", "egress_bytes_per_second")
        refused = await ask(w, LATE)
        assert (refused.status_code, refused.json()["limit"]) == (429, "egress_bytes_per_second")


# --- secrets ---


async def test_no_secret_is_in_the_log_of_a_whole_run(keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    good, revoked, other = keys.add("read"), keys.add("read"), keys.add("export")
    keys.revoke(revoked)
    wrong = "mk_abcd1234_" + "Z" * 43
    async with guarded(keys, limits=Limits(exempt=(), request_burst=10_000)) as w:
        for key in (good, revoked, other, wrong):
            for path in (LATE, EARLY, "/export/ohlc", "/nothing", "/health/live", f"{LATE}?token={key}", "/sse"):
                for headers in ({}, bearer(key), {"X-API-Key": key}, {**bearer(key), "X-API-Key": good}):
                    answer = await ask(w, path, headers)
                    assert key not in answer.text
                    assert key[12:] not in str(answer.headers)
            sse = {"topics": "nothing", "token": key}
            assert key not in (await w.client.get("/sse", params=sse)).text
            for path, protocols in (
                *((f"/ws?token={key}", ()), (f"/ws?tok={key}&token={key}", ()), ("/ws", (f"marketd.key.{key}",))),
                *(("/ws", ("marketd", f"marketd.key.{key}")), (f"/ws/binance/NONE/trades?token={key}", ())),
            ):
                async with w.stream(path, {}, protocols) as stream:
                    with suppress(trio_websocket.ConnectionClosed):
                        await stream.say({"op": key})
                    await trio.sleep(0.02)
                    told = [frame for frame in stream.frames if "tok" not in path.split("token")[0]]
                    assert key[12:] not in str([frame for frame in told if frame.get("code") != "invalid_command"])
        assert w.logged("auth.failed")
        assert {entry["id"] for entry in w.logged("auth.key_used")} == {good.split("_")[1], other.split("_")[1]}
        assert len(w.logged("auth.key_used")) == 2, "once an hour"
        whole = "\n".join(map(str, w.logs))
        for key in (good, revoked, other, wrong):
            assert key[12:] not in whole
            assert web.access.auth.REALM not in whole
