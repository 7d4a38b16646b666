"""`fronts` with whole programs: operands that are the same for a whole batch, one for each head."""

import jax.numpy as jnp
import pytest

from tests.harness import agrees, normal, operators

# how a program writes the product, the specs of its operands, and what it becomes
CASES = [
    ("bhqd,hpd->bhqp", ["f32[B,4,T,8]", "f32[4,5,8]"], ["Transpose", "MatMul"]),
    (
        "bqhd,khd->bhqk",
        ["f32[B,T,4,8]", "f32[S,4,8]"],
        ["Transpose", "Transpose", "MatMul"],
    ),
    (
        "bthd,hde->bthe",
        ["f32[B,T,4,8]", "f32[4,8,5]"],
        ["Transpose", "MatMul", "Transpose"],
    ),
    ("hpd,bkhd->bhpk", ["f32[4,5,8]", "f32[B,S,4,8]"], ["Transpose", "MatMul"]),
]
SIZES = [{"B": 2, "T": 3, "S": 6}, {"B": 1, "T": 1, "S": 1}, {"B": 3, "T": 9, "S": 1}]


@pytest.mark.parametrize(("equation", "specs", "wanted"), CASES)
def test_one_operand_is_broadcast(equation, specs, wanted):
    for sizes in SIZES:
        args = [normal(*_shape(spec, sizes)) for spec in specs]
        model = agrees(
            lambda x, y: jnp.einsum(equation, x, y), args, specs, rtol=1e-5, atol=1e-5
        )
        assert operators(model) == wanted


def _shape(spec, sizes):
    entries = spec[4:-1].split(",")
    return [sizes.get(entry) or int(entry) for entry in entries]
