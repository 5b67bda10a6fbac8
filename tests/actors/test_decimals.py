"""Decimal strings of exchanges: what is a number and what is not, and products of two to the bit."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors import decimals
from actors.decimals import amount, number, product, valued
from actors.errors import BadMessage


@pytest.mark.parametrize("text", ["1", "0", "0.10", "83434.40", "1e-8", "123456789012345.6"])
def test_an_amount(text: str) -> None:
    assert amount(text) == number(text) == float(text)


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-Infinity", "1e999", "", "abc", "0x10", "--1", "1.2.3"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(BadMessage):
        number(text)
    with pytest.raises(BadMessage):
        amount(text)


def test_an_amount_is_not_negative_but_a_number_may_be() -> None:
    assert number("-0.0375") == -0.0375
    with pytest.raises(BadMessage):
        amount("-0.0375")


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_a_bad_message(text: str) -> None:
    try:
        value = amount(text)
    except BadMessage:
        return
    assert 0 <= value < float("inf")


def test_a_complaint_quotes_no_more_than_it_must() -> None:
    with pytest.raises(BadMessage) as refused:
        number("x" * 10_000)
    assert len(str(refused.value)) < 100


DECIMALS = st.one_of(
    st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,9})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,20})?", fullmatch=True),
    st.sampled_from(
        ["0", "0.0", "-0", "+5", "5.", ".5", "1e5", "1e-9", "2.5e-320", "1e308", "0.1", "0.29", "1000000000"]
    ),
    st.sampled_from(["", "nan", "inf", "1_0", " 1", "1 ", "-1", "1e999", "1.2.3", "9" * 400]),
    st.text('0123456789.-+eE_ \t"\\,[]{}:\x00\ud800\N{ARABIC-INDIC DIGIT ONE}', max_size=8),
)


@given(DECIMALS, DECIMALS)
@example("83434.40", "0.016")
@example("0.1", "0.7")  # 0.1 * 0.7 as floats is not 0.07
@example("100000000.000000001", "1")  # more digits than a float holds
@example("6\\u0030", "1")  # what msgspec, which reads both at once, takes for 60
@example("60", '2","3')  # and for three numbers
@example('60","2', "3")
@example("60", "null")
@example("60", "true")
@example("-0", "0.016")
def test_a_value_is_the_decimal_product_to_the_bit(price: str, quantity: str) -> None:
    try:
        wanted = repr((amount(price), amount(quantity), product(price, quantity)))
    except BadMessage:
        with pytest.raises(BadMessage):
            valued(price, quantity)
    else:
        assert repr(valued(price, quantity)) == wanted


def test_most_values_need_no_decimals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decimals, "product", None)
    for price, quantity, value in (
        ("83434.40", "0.016", 1334.9504),
        ("0.1", "0.7", 0.07),
        ("0.0112300", "99999", 1122.98877),
        ("0.02", "0.01", 0.0002),
    ):
        assert valued(price, quantity) == (float(price), float(quantity), value)
