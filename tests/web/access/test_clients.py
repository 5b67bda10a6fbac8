"""Who a client is, and what it may have: on a virtual clock, without sockets."""

import ipaddress
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import web.access.clients
from actors.errors import RateLimited
from web.access.account import Account
from web.access.clients import Clients
from web.access.limits import Limits

ALICE, BOB = "203.0.113.7", "203.0.113.8"


def clients(*, slots: int = 0, **limits: Any) -> Clients:
    return Clients(Limits(**limits), slots=slots)


def asks(account: Account, times: int) -> list[bool]:
    """Which of so many requests are let through."""
    answers = []
    for _ in range(times):
        try:
            account.request()
        except RateLimited:
            answers.append(False)
        else:
            answers.append(True)
    return answers


def refused(what: Callable[[], object]) -> RateLimited:
    with pytest.raises(RateLimited) as refusal:
        what()
    return refusal.value


async def test_a_burst_then_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    account = clients(requests_per_second=20.0, request_burst=100).of_address(ALICE)
    assert asks(account, 101) == [True] * 100 + [False]
    await trio.sleep(0.05)
    assert asks(account, 2) == [True, False]
    await trio.sleep(0.5)
    assert asks(account, 11) == [True] * 10 + [False]
    await trio.sleep(100)
    assert asks(account, 101) == [True] * 100 + [False], "more than the burst is never saved"


async def test_a_refusal_says_what_and_when(autojump_clock: trio.testing.MockClock) -> None:
    account = clients(requests_per_second=0.5, request_burst=2).of_address(ALICE)
    asks(account, 2)
    refusal = refused(account.request)
    assert (refusal.code, refusal.limit, refusal.retry_after) == ("rate_limited", "requests_per_second", 2.0)
    await trio.sleep(1.25)
    assert refused(account.request).retry_after == 0.75, "being refused costs nothing"
    await trio.sleep(0.75)
    account.request()


async def test_the_allowance_is_told_as_the_draft_spells_it(autojump_clock: trio.testing.MockClock) -> None:
    account = clients().of_address(ALICE)
    asks(account, 3)
    assert account.headers() == {"RateLimit-Policy": '"requests";q=100;w=5', "RateLimit": '"requests";r=97;t=1'}
    asks(account, 97)
    assert account.headers()["RateLimit"] == '"requests";r=0;t=5'
    asks(account, 1)
    assert account.headers()["RateLimit"] == '"requests";r=0;t=5'
    await trio.sleep(2.5)
    assert account.headers()["RateLimit"] == '"requests";r=50;t=3'
    await trio.sleep(100)
    assert account.headers()["RateLimit"] == '"requests";r=100;t=0'


@pytest.mark.parametrize("off", [{"requests_per_second": 0.0}, {"request_burst": 0}])
async def test_zero_is_no_limit(off: dict[str, Any]) -> None:
    account = clients(**off).of_address(ALICE)
    assert all(asks(account, 1000))
    assert account.headers() == {}


async def test_exempt_peers_have_no_limits() -> None:
    table = clients(requests_per_second=1.0, request_burst=1, connections=1, topics=1, exempt=("10.0.0.0/8", "::1/128"))
    for address in ("10.1.2.3", "::1", "::ffff:10.1.2.3", ""):
        account = table.of_address(address)
        assert (account.is_exempt, account.headers()) == (True, {}), address
        assert all(asks(account, 10))
        assert [table.seat(address) is not None for _ in range(10)] == [True] * 10
    assert not table.of_address("127.0.0.1").is_exempt


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:203.0.113.7", ALICE, True),
        ("fe80::1%eth0", "fe80::2", True),
        (ALICE, BOB, False),
    ],
)
def test_an_address_is_a_client_and_of_ipv6_its_64_bits(one: str, other: str, same: bool) -> None:
    table = clients()
    assert (table.of_address(one) is table.of_address(other)) is same


def test_a_key_is_a_client_wherever_it_comes_from() -> None:
    table = clients(requests_per_second=1.0, request_burst=1)
    own = Limits(requests_per_second=5.0, request_burst=3)
    key = table.of_key("abcd1234", ALICE, own, is_exempt=False)
    assert key is table.of_key("abcd1234", BOB, own, is_exempt=False)
    assert key is not table.of_address(ALICE)
    assert (key.id, key.limits.request_burst, key.is_exempt) == ("abcd1234", 3, False)
    assert key.caller == ("abcd1234", False, own.upstream_share)
    local = table.of_key("abcd1234", "127.0.0.1", own, is_exempt=False)
    assert (local.id, local.is_exempt) == ("abcd1234", True)
    assert table.of_key("admin123", ALICE, own, is_exempt=True).is_exempt


def test_connections_are_counted_and_no_more_are_had() -> None:
    table = clients(connections=2)
    seats = [table.seat(ALICE) for _ in range(3)]
    assert [seat is not None for seat in seats] == [True, True, False]
    assert table.seat(BOB) is not None
    assert seats[0] is not None
    seats[0].leave()
    assert table.seat(ALICE) is not None
    assert table.seat(ALICE) is None


@pytest.mark.parametrize("address", [ALICE, "127.0.0.1"])
@pytest.mark.parametrize("connections", [0, 50])
def test_one_address_never_has_more_than_half_of_all_slots(connections: int, address: str) -> None:
    table = clients(slots=10, connections=connections)
    assert sum(table.seat(address) is not None for _ in range(20)) == 5
    assert table.seat(BOB) is not None
    assert table.seat(address, is_proxy=True) is not None, "it brings others' requests"


def test_a_key_takes_a_connection_over_and_gives_the_address_its_place_back() -> None:
    table = clients(connections=1)
    key = table.of_key("abcd1234", ALICE, table.limits, is_exempt=False)
    first = table.seat(ALICE)
    assert first is not None
    first.take(key)
    first.take(key)
    second = table.seat(ALICE)
    assert second is not None, "the address has its place again"
    assert refused(lambda: second.take(key)).limit == "connections"
    first.leave()
    second.take(key)
    second.leave()
    assert (key.connections, table.of_address(ALICE).connections) == (0, 0)


async def test_other_limits_hold_for_what_is_opened_from_then_on() -> None:
    table = clients(connections=2)
    seats = [table.seat(ALICE) for _ in range(2)]
    table.change(Limits(connections=1, request_burst=1))
    assert table.seat(ALICE) is None
    assert asks(table.of_address(ALICE), 2) == [True, False]
    for seat in seats:
        assert seat is not None
        seat.leave()
    assert table.seat(ALICE) is not None
    table.change(Limits(exempt=(f"{ALICE}/32",)))
    assert table.of_address(ALICE).is_exempt


def test_the_table_is_bounded_and_forgets_nobody_who_has_something_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.access.clients, "ACCOUNTS_MAX", 100)
    table, rng = clients(), random.Random(1)
    seat = table.seat(ALICE)
    assert seat is not None
    for _ in range(5_000):
        table.of_address(str(ipaddress.IPv4Address(rng.getrandbits(32))))
    assert len(table) == 100
    assert table.of_address(ALICE).connections == 1
    seat.leave()
    for _ in range(200):
        table.of_address(str(ipaddress.IPv4Address(rng.getrandbits(32))))
    assert table.of_address(ALICE).connections == 0


def symbol(name: str) -> tuple[str, str]:
    return "binance", name


async def test_on_demand_symbols_are_held_while_there_are_topics_and_a_while_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    account, ended = clients(on_demand_symbols=4).of_address(ALICE), list[str]()

    def leave(name: str) -> None:
        assert account.symbols is not None
        account.leave(symbol(name), account.symbols[symbol(name)], lingers=60.0, end=lambda: ended.append(name))

    for name in "ABA":
        account.hold(symbol(name))
    leave("A")
    leave("A")
    assert (ended, set(account.symbols or ())) == ([], {symbol("A"), symbol("B")}), "half of them: kept for its return"
    for name in "CD":
        account.hold(symbol(name))
    leave("D")
    assert ended == ["D"], "over half: ends with its topic"
    account.hold(symbol("E"))
    account.hold(symbol("F"))
    assert ended == ["D", "A"], "what was left makes room"
    assert refused(lambda: account.hold(symbol("G"))).limit == "on_demand_symbols"
    account.hold(symbol("B"))
    for name in "EFBB":
        leave(name)
    assert not account.is_idle
    leave("C")
    await trio.sleep(61)
    account.forget_symbols()
    assert account.is_idle
    assert ended == ["D", "A", "E", "F"]


async def test_bytes_are_averaged_over_ten_seconds(autojump_clock: trio.testing.MockClock) -> None:
    account = clients(egress_bytes_per_second=1000).of_address(ALICE)
    account.sent(10_000)
    account.request()
    account.sent(2_000)
    refusal = refused(account.request)
    assert (refusal.limit, refusal.retry_after) == ("egress_bytes_per_second", 2.0)
    await trio.sleep(2)
    account.request()
