"""What is a number of an asset, and what is only a name with digits in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import UnknownSymbol
from actors.events import Instrument
from actors.exchanges.catalogue import Catalogue
from actors.exchanges.units import Unit, scaled, unit_of


@pytest.mark.parametrize(
    ("base", "asset", "many"),
    [
        ("1000PEPE", "PEPE", 1000),
        ("kPEPE", "PEPE", 1000),
        ("PEPE", "PEPE", 1),
        ("pepe", "PEPE", 1),
        ("1000shib", "SHIB", 1000),
        ("SHIB1000", "SHIB", 1000),
        ("kBONK", "BONK", 1000),
        ("10000SATS", "SATS", 10_000),
        ("1000000MOG", "MOG", 1_000_000),
        ("1MBABYDOGE", "BABYDOGE", 1_000_000),
        ("1000CAT", "CAT", 1000),
    ],
)
def test_assets_counted_in_thousands_are_one(base: str, asset: str, many: int) -> None:
    assert unit_of(base) == Unit(asset, many)


@pytest.mark.parametrize(
    "name",
    [
        *("1INCH", "100XYZ", "1000X", "1000", "10SET", "2000RUSSELL", "1001NIGHTS", "0X", "1000币安人生"),
        *("KAVA", "KAS", "K", "KPEPE", "SPX500", "US100", "XYZ100", "A1000", "ETH2", "1MX", "1M", "M1MAA", "币安人生"),
    ],
)
def test_other_names_with_digits_or_a_k_are_their_own(name: str) -> None:
    assert unit_of(name) == Unit(name.upper(), 1)


# Fifteen digits: so many a float keeps wherever the point stands.
@given(st.decimals(min_value=0, max_value=99_999_999, places=7), st.sampled_from([1, 1000, 10**6]))
def test_scaling_moves_the_point_and_back(number: object, by: int) -> None:
    value = float(str(number))
    assert scaled(scaled(value, by), 1, by) == value
    assert scaled(0.0045123, 1000) == 4.5123
    assert scaled(0.0045123, 1, 1000) == 0.0000045123


def listed(*bases: str, status: str = "TRADING") -> Catalogue:
    catalogue = Catalogue("x", lambda instrument: ())
    catalogue.adopt(
        [
            Instrument(
                exchange="x",
                symbol=f"{base}USDT",
                base=base,
                quote="USDT",
                settle="USDT",
                status=status,
                tick_size=None,
                step_size=None,
                funding_interval_hours=8.0,
            )
            for base in bases
        ]
    )
    return catalogue


def test_the_contract_in_the_same_unit_is_preferred() -> None:
    catalogue = listed("1000PEPE", "PEPE", "KAVA", "1000X")
    assert catalogue.of_asset(unit_of("kPEPE")).base == "1000PEPE"
    assert catalogue.of_asset(unit_of("PEPE")).base == "PEPE"
    assert listed("1000PEPE").of_asset(unit_of("PEPE")).base == "1000PEPE"
    for stranger in ("AVA", "X", "EPEPE"):
        with pytest.raises(UnknownSymbol):
            catalogue.of_asset(unit_of(stranger))
    with pytest.raises(UnknownSymbol):
        listed("1000PEPE", status="SETTLING").of_asset(unit_of("PEPE"))
