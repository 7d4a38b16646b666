"""Expressions of sizes as text: what they stand for, and that no text takes long or breaks anything."""

import ast
import time

import pytest

import j2o
from j2o.ir import DimScope
from j2o.ir.dims import parse_constraint
from j2o.ir.expressions import read_constraint


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", "()"),
        (" B , 2*T,T//2, 8,", "(B, 2*T, floordiv(T, 2), 8)"),
        ("B**2 + B^2", "(2*B^2,)"),
        ("2**3 - -1", "(9,)"),
        ("-B + 2*B", "(B,)"),
        ("7//2*2 % 4", "(2,)"),
        ("-2**2 + 6", "(2,)"),
        ("(B + 1)*(B - 1)", "(B^2 - 1,)"),
        (
            "max(B, 4), mod(T, 3), non_negative(B - 3)",
            "(max(B, 4), mod(T, 3), max(B - 3, 0))",
        ),
        ("ﬁ", "(fi,)"),
        ("9223372036854775807", "(9223372036854775807,)"),
        ("B*" * 600 + "1", "(B^600,)"),
    ],
)
def test_what_expressions_stand_for(text, sizes):
    assert str(DimScope().shape(text)) == sizes


MANY = 100_000
ATTACKS = {
    "power of powers": (
        "9**9**9**9",
        "exponent of a power must be a number from 0 to 63",
    ),
    "large power": ("9**99", "exponent of a power must be a number from 0 to 63"),
    "symbolic power": ("B**T", "exponent of a power must be a number from 0 to 63"),
    "negative power": ("2**-1", "exponent of a power must be a number from 0 to 63"),
    "many terms": ("(A + B + C + D)**20", "more than 1000 terms"),
    "product of sums": (
        "*".join(f"(A{i} + 1)" for i in range(40)),
        "more than 1000 terms",
    ),
    "long sum": ("B+" * MANY + "1", "more than 1000 terms"),
    "long product": ("B*" * MANY + "1", "more than 4000 parts"),
    "large product": ("*".join(["99999"] * MANY), r"numbers above 2\*\*63 - 1"),
    "brackets": ("(" * MANY + "B" + ")" * MANY, "nested deeper than 50"),
    "signs": ("-" * MANY + "B", "nested deeper than 50"),
    "calls": ("mod(" * MANY + "B", "nested deeper than 50"),
    "long number": ("1" * MANY, r"numbers above 2\*\*63 - 1"),
    "large number": ("9223372036854775808", r"numbers above 2\*\*63 - 1"),
    "large coefficient": ("9223372036854775807*B*2", r"numbers above 2\*\*63 - 1"),
    "zero": ("B//(T - T)", "a size is divided by zero"),
    "spaces": ("B" + " " * MANY + "B", "not an expression of sizes"),
    "keyword": ("for", "'for' is no name for a size"),
    "constant": ("True", "'True' is no name for a size"),
    "fraction": ("2.5", "not an expression of sizes"),
    "nul": ("B\0", "not an expression of sizes"),
    "function": ("__import__('os')", "not an expression of sizes|no function of sizes"),
    "unknown function": (
        "f(B)",
        "'f' is no function of sizes; floordiv, mod, max, min, non_negative are",
    ),
    "operands": ("max(B)", "max takes 2 operands, given 1"),
    "attribute": ("B.real", "not an expression of sizes"),
    "tuple": ("(B, T)", "not an expression of sizes"),
    "digit that is none": ("²", "no name for a size"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_texts_that_are_no_sizes(name):
    text, words = ATTACKS[name]
    start = time.process_time()
    with pytest.raises(j2o.DimensionError, match=words) as error:
        DimScope().shape(text)
    with pytest.raises(j2o.J2OError):
        j2o.compile(lambda x: x, [f"f32[{text}]"])
    with pytest.raises(j2o.J2OError):
        j2o.compile(lambda x: x, [("B", 3)], constraints=[f"B >= {text}"])
    assert time.process_time() - start < 1
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_long_sums_are_evaluated_without_recursion():
    names = [f"a{i}" for i in range(300)]
    (size,) = DimScope().shape("+".join(names))
    assert all(name in str(size) for name in names)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("T <= 512", "T <= 512"),
        ("T % 16 == 0", "mod(T, 16) == 0"),
        ("T//2 >= B^2 + 1", "floordiv(T, 2) >= B ** 2 + 1"),
    ],
)
def test_constraints(text, read):
    left, sign, right = parse_constraint(text)
    assert f"{ast.unparse(left)} {sign} {ast.unparse(right)}" == read
    DimScope([text])


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "B < 3",
        "B > 3",
        "B = 3",
        "1 <= B <= 3",
        "B == 3, T == 2",
        "",
        "B >= 3 and T >= 2",
    ],
)
def test_what_is_no_comparison(text):
    for read in (read_constraint, lambda text: DimScope([text])):
        with pytest.raises(
            j2o.DimensionError,
            match=r"not one comparison by .* such as|not an expression of sizes",
        ):
            read(text)
