"""Numbers by value: units, percent, signs and decimals."""

from __future__ import annotations

import pytest

from sectow_fast.judges.numbers import equal_values, value_of, values_in


def same(found: str, wanted: str) -> bool:
    a, b = value_of(found), value_of(wanted)
    assert a is not None and b is not None
    return equal_values(a, b)


# What 6000 of the first unit of each kind is in the others: units are compared in all pairs.
LINES = (
    "6000 m;6000 metres;6000 meter;6 km;6 kilometres;6 kilometers;600000 cm;6000000 mm;6e12 nm;"
    "6e9 um;6e9 \u00b5m;6e9 \u03bcm",
    "6000 kg;6000 kilograms;6e6 g;6e6 grams;6e9 mg;6 t",
    "6000 s;6000 seconds;6e6 ms;100 min;100 minutes;1.6666666667 h;1.6666666667 hours",
    "6000 l;6000 L;6000 litres;6000 liters;6e6 ml;6e6 mL",
    "6000 V;6000 v;6e6 mV;6 kV;0.006 MV",
    "6000 A;6e6 mA",
    "6000 W;6e6 mW;6 kW;0.006 MW",
    "6000 J;6e6 mJ;6 kJ;0.006 MJ",
)
KINDS = [line.split(";") for line in LINES]


def test_units_of_one_kind_are_converted_and_those_of_two_never_agree():
    for kind in KINDS:
        for one in kind:
            value, first = value_of(one), value_of(kind[0])
            assert value is not None and value.number == pytest.approx(6000), one
            assert value.kind == first.kind and equal_values(value, first), one
    for kind, other in zip(KINDS, [*KINDS[1:], KINDS[0]], strict=True):
        assert not same(kind[0], other[0])


def test_where_one_side_has_a_unit_the_numbers_are_compared_as_they_are_written():
    assert same("5 km", "5") and same("5", "5 km") and not same("5 km", "5000")


def test_an_unknown_unit_is_no_number():
    assert value_of("5 bados") is None and value_of("5 percent").kind == "%"
    assert value_of("5%") == value_of("5 Percent") and value_of("five") is None
    (found,) = values_in("about 5 bados")
    assert (found.number, found.kind, found.written) == (5.0, "", 5.0)


def test_a_share_may_be_told_in_percent_either_way():
    assert same("50%", "0.5") and same("0.5", "50%") and same("50%", "50")
    assert not same("50%", "5000") and not same("0.5", "51%") and same("50%", "50 percent")


def test_signs():
    assert value_of("-5").number == -5 and value_of("+5").number == 5 and value_of("-0.5%")
    assert not same("-5%", "5%") and not same("-5 m", "5 m")


def test_two_decimals_and_small_numbers_by_their_own_size():
    assert same("1.234", "1.23") and not same("1.24", "1.23") and not same("1.004", "1.006")
    # Under 1 two decimals say nothing: within two hundredths of itself.
    assert same("0.5", "0.503") and not same("0.001", "0.002") and same("0.00101", "0.001")
    assert not same("0.00103", "0.001") and same("0", "0.001") is False and same("0.001", "0")
