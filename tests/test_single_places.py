"""`single_places` with whole programs: boxes whose corners are taken one by one."""

import jax.numpy as jnp

from tests.harness import agrees, normal, operators


def decoded(deltas, anchors):
    """Boxes from anchors, by their corners, and what is to be added to these."""
    width = anchors[:, 2] - anchors[:, 0]
    height = anchors[:, 3] - anchors[:, 1]
    x = anchors[:, 0] + deltas[..., 0] * width
    y = anchors[:, 1] + deltas[..., 1] * height
    w = jnp.exp(deltas[..., 2]) * width
    h = jnp.exp(deltas[..., 3]) * height
    return jnp.stack([x, y, x + w, y + h], -1)


def test_corners_of_boxes_keep_their_axis():
    for batch, count in [(2, 5), (1, 1), (3, 1)]:
        args = [normal(batch, count, 4), normal(count, 4)]
        model = agrees(decoded, args, ["f32[B,N,4]", "f32[N,4]"], rtol=1e-5)
        found = operators(model)
        assert found.count("Split") == 2
        assert not {"Gather", "Squeeze", "Unsqueeze"} & set(found)


def test_what_gets_no_axis_back_is_gathered():
    def fn(x, w):
        return x[:, 0] * w, x[:, 1] + w

    model = agrees(fn, [normal(3, 2), normal(3)], ["f32[B,2]", "f32[B]"])
    assert operators(model) == ["Gather", "Mul", "Gather", "Add"]
