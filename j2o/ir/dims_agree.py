"""A check at samples that two expressions of sizes agree.

**What it is.** `==` of two expressions is a proof, but JAX's proofs do not reach far: it does not see
that `T//128*128 + T%128` is `T`. `agree` then computes both at up to 300 points, a size for each symbol,
that the constraints allow. They agree where all numbers are equal. The points are always the same ones:
an answer does not change from run to run.

**What it is not.** It is no proof. "Yes" may be wrong. "No" is certain where a point told them apart.

**How probable a wrong "yes" is.** Let two expressions differ at a share q of the points that are drawn.
Then all 300 points miss it with a probability of (1 - q)^300:

    q     missed
    10%   2e-14
    3%    1e-4
    1%    5%
    0.1%  74%     `(3*T + 500)%1009//1008` is 1 at one size in 1009; `agree` takes it for 0

Sums and products are safe. Two polynomials of degree d that are not the same are equal at a point with a
probability of at most d * p (Schwartz and Zippel). Here p is the probability of the likeliest size: 10 %,
where no constraint pins a size. `max`, `min`, quotients and rests change their course at the numbers that
they are written with. Six sizes in ten are therefore drawn from around those numbers, their differences
and small multiples; the others are from 1 to 100,000.

What remains are expressions that differ at rare sizes alone, which no number in them tells: at one rest
of many as above, or where two symbols are equal (`100//(100 + 37*(B - T)^2)`). Constraints that few
points fulfil make it worse. Where no point fulfils them, the answer is "no".

**Where it may be used.** Where both expressions stand for a size that JAX has computed, and a wrong "yes"
costs a message: a rule's results against the types that JAX told, the number of elements of a reshape
that JAX has let pass. It may not decide what a program computes, such as whether a slice, a branch or a
check at run time may go: use `==` and `dims.known_ge` there.
"""

from __future__ import annotations

import ast
import functools
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction

from j2o.ir.dims import (
    ON_NUMBERS,
    Constraint,
    Functions,
    compare,
    constraints_of,
    evaluate_tree,
    numbers_in,
    parse_constraint,
    parse_expression,
    scope_of,
    symbols,
)
from j2o.ir.types import Dim, Shape

POINTS = 300
FAR = 10**5  # sizes from far away are smaller
NEAR_SHARE = 0.6  # of the sizes, drawn from around the numbers that are written
# a quotient that is taken to have no rest
_WITHOUT_REST: Functions = {**ON_NUMBERS, "floordiv": Fraction}


@functools.lru_cache(maxsize=4096)
def agree(a: Dim, b: Dim, divisible: bool = False) -> bool:
    """Return True where two expressions give the same numbers at all of many sizes: no proof, see above.

    Both are of one scope. `divisible` takes it that quotients have no rest: `2 * (T // 2)` agrees with `T`.
    """
    if a == b:
        return True
    if type(a) is int and type(b) is int:
        return False
    names = {*symbols(a), *symbols(b)}
    scope = scope_of(b if type(a) is int else a)
    constraints = [parse_constraint(text) for text in constraints_of(scope)]
    left, right = _tree(a), _tree(b)
    functions = _WITHOUT_REST if divisible else ON_NUMBERS
    is_tried = False
    for point in _points(names, [left, right], constraints):
        try:
            one = evaluate_tree(left, point, functions)
            other = evaluate_tree(right, point, functions)
        except ArithmeticError:  # a division by zero
            continue
        if one != other:
            return False
        is_tried = True
    return is_tried


def agree_shapes(a: Shape, b: Shape) -> bool:
    """`agree` axis by axis."""
    return len(a) == len(b) and all(map(agree, a, b))


def _tree(dim: Dim) -> ast.expr:
    """A size as a syntax tree."""
    return ast.Constant(dim) if type(dim) is int else parse_expression(dim)


def _points(
    names: set[str], trees: list[ast.expr], constraints: Sequence[Constraint]
) -> Iterator[dict[str, int]]:
    """Yield sizes that the constraints allow, each symbol's on its own."""
    sides = [side for c in constraints for side in (c.left, c.right)]
    names = names.union(*(c.symbols for c in constraints))
    near = _near([number for tree in trees + sides for number in numbers_in(tree)])
    choose = random.Random(0)
    for _ in range(POINTS):
        point = {name: _drawn(choose, near) for name in sorted(names)}
        for constraint in constraints:
            _bend(point, constraint)
        if all(constraint.holds(point) for constraint in constraints):
            yield point


def _near(written: list[int]) -> list[int]:
    """Return sizes around written numbers, their differences, and small multiples of both."""
    numbers = {abs(n - m) for n in (*written, 0) for m in (*written, 0)} | {1}
    multiples = {n * factor for n in numbers for factor in (1, 2, 3, 5)}
    return sorted({max(n + step, 1) for n in multiples for step in (-1, 0, 1)})


def _drawn(choose: random.Random, near: list[int]) -> int:
    """A random size, often one near those that the expressions name."""
    if choose.random() < NEAR_SHARE:
        return choose.choice(near)
    return choose.randrange(1, FAR)


def _bend(point: dict[str, int], constraint: Constraint) -> None:
    """Move a size to where it fulfils a constraint that is a bound of it, or tells its rest; leave others."""
    match constraint.left:
        case ast.Name(id=name):
            bound = evaluate_tree(constraint.right, point)
            if not compare(point[name], constraint.sign, bound):
                point[name] = bound
        case ast.Call(
            func=ast.Name(id="mod"),
            args=[ast.Name(id=name), ast.Constant(value=int(divisor))],
        ):
            rest = evaluate_tree(constraint.right, point)
            point[name] += (rest - point[name]) % divisor
        case _:
            pass
