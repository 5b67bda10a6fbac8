"""What the simulated market trades, and how lively each of it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asset:
    """What is traded, and how lively. One asset is one instrument on every simulated exchange.

    `tick` and `step` are spelled with as many decimals as prices and quantities have on the wire.
    """

    name: str  # the key in Market.tapes; the base asset, unless that has several instruments
    price: str
    tick: str
    step: str
    trades: float  # per second
    funding_hours: int = 8
    base: str = ""  # default: name
    listed_days: int = 1600
    delisted_days: int = 0  # > 0: trading ended so many days before genesis
    dated: bool = False  # a quarterly contract: no funding
    path: str = ""  # assets with the same path move together; default: name
    shape: str = ""  # assets with the same shape, price and liveliness share template days: cheap
    large_every: float = 60.0  # seconds between trades of 100,000 and more, on average
    liquidation_every: float = 60.0  # seconds between forced orders, on average


ASSETS = (
    Asset("BTC", "84000.00", "0.10", "0.001", 5.0, large_every=6, liquidation_every=5, listed_days=2600),
    Asset("ETH", "2900.00", "0.01", "0.001", 3.0, large_every=9, liquidation_every=7, listed_days=2500),
    Asset("SOL", "135.0000", "0.0100", "0.01", 2.0, large_every=12, liquidation_every=9),
    Asset("BNB", "860.000", "0.010", "0.01", 1.0),
    Asset("XRP", "2.1000", "0.0001", "0.1", 1.5, large_every=25, liquidation_every=15),
    Asset("DOGE", "0.145000", "0.000010", "1", 1.0, liquidation_every=20),
    Asset("1000PEPE", "0.0045000", "0.0000001", "1", 1.0, funding_hours=4, liquidation_every=25),
    Asset("ADA", "0.42000", "0.00010", "1", 0.5),
    Asset("LINK", "13.500", "0.001", "0.01", 0.5),
    Asset("币安人生", "0.12000", "0.00001", "1", 0.7, funding_hours=1, listed_days=400),
    Asset("BLZ", "0.03140", "0.00001", "1", 1 / 45, large_every=1e6, liquidation_every=900),  # quiet
    Asset("OCEAN", "0.2800", "0.0001", "1", 0.5, delisted_days=3),
    Asset("BTC-quarter", "84700.0", "0.1", "0.001", 0.3, base="BTC", path="BTC", dated=True, listed_days=170),
)  # fmt: skip


def synthetic(count: int) -> tuple[Asset, ...]:
    """So many cheap assets, `S000`, `S001`, ...: for tests of scale."""
    return tuple(Asset(f"S{i:03}", "2.0000", "0.0001", "0.1", 0.2, shape="synthetic") for i in range(count))
