"""What a client of Hyperliquid's sockets subscribes to, and the name of the stream that it is.

A name is the kind, a coin and an interval; what else a subscription says (a user, a dex, how a book is rounded) is the
name's end, as JSON. Frames do not say that again: only streams with the same end can be told apart on one connection.
Values are checked, since the exchange cuts the connection for some that it does not know.

Source: https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/websocket/subscriptions
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from actors.exchanges.hyperliquid.facade import FIXED

OF_COINS = ("trades", "activeAssetCtx", "l2Book", "bbo", "candle", "activeAssetData")

_encode = msgspec.json.encode
_decode = msgspec.json.decode

Check = Callable[[Any], bool]


def _is_user(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{40}", value) is not None


def _is_dex(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9]{0,16}", value) is not None


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_one_of(*numbers: int) -> Check:
    return lambda value: type(value) is int and value in numbers


NOTHING: Mapping[str, Check] = {}
USER: Mapping[str, Check] = {"user": _is_user}
USER_ON_DEX: Mapping[str, Check] = {"user": _is_user, "dex": _is_dex}

# Kind -> what may be said beside coin and interval. Accounts are public, too: whoever has an address is told of it.
SAID: Mapping[str, Mapping[str, Check]] = {
    **dict.fromkeys(("trades", "activeAssetCtx", "bbo", "candle"), NOTHING),
    "l2Book": {"nSigFigs": _is_one_of(2, 3, 4, 5), "mantissa": _is_one_of(1, 2, 5), "fast": _is_flag},
    "allMids": {"dex": _is_dex},
    "userFills": {"user": _is_user, "aggregateByTime": _is_flag},
    **dict.fromkeys(("orderUpdates", "userEvents", "notification", "activeAssetData", "spotState"), USER),
    **dict.fromkeys(("userFundings", "userNonFundingLedgerUpdates", "userHistoricalOrders", "webData2"), USER),
    **dict.fromkeys(("userTwapSliceFills", "userTwapHistory", "webData3"), USER),
    **dict.fromkeys(("clearinghouseState", "openOrders", "twapStates"), USER_ON_DEX),
}
OF_USERS = frozenset(kind for kind, checks in SAID.items() if "user" in checks)
EVENTS = ("orderUpdates", "userEvents", "notification")  # all others tell a state, or begin with a snapshot
CHANNELS = {"user": "userEvents"}  # of frames, where they are not called as the subscription is


def name_of(subscription: Mapping[str, Any]) -> str | None:
    """The stream that a subscription is of; None for one that does not exist, or is not served.

    Raises KeyError or TypeError for what is no subscription.
    """
    told = {key: value for key, value in subscription.items() if value is not None}
    kind = told.pop("type")
    checks = SAID.get(kind)
    if checks is None or ("user" in checks) != ("user" in told):
        return None
    parts = [kind]
    if kind in OF_COINS:
        parts.append(told.pop("coin"))
    if kind == "candle":
        parts.append(interval := told.pop("interval"))
        if interval not in (*FIXED, "1M"):
            return None
    if not all(isinstance(part, str) and " " not in part for part in parts):
        return None
    if not all(name in checks and checks[name](value) for name, value in told.items()):
        return None
    return " ".join(parts) + (f" {_encode(told, order='deterministic').decode()}" if told else "")


def end_of(name: str) -> str:
    """What frames do not say of their stream; empty where they say it all."""
    _, brace, end = name.partition(" {")
    return brace + end


def subscription_of(name: str) -> dict[str, Any]:
    end = end_of(name)
    parts = name.removesuffix(end).split(" ")
    told: dict[str, Any] = dict(zip(("type", "coin", "interval"), parts, strict=False))
    return told | (_decode(end) if end else {})
