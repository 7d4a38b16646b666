"""Measures operators next to their parts on the installed onnxruntime: the table of `j2o/backend/forms.py`.

    python -m tools.forms

Each pair is run in turn at three sizes, and the least time of each counts. What is told is the geometric
mean of the three quotients. An operator is measured at the newest opset where it has a kernel. Run it where
nothing else runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from onnx import parser

from j2o.backend.kernels import table
from j2o.ir.target import OLDEST

SHAPES = ((1, 16, 64), (1, 128, 512), (4, 64, 3136))  # batch, channels, places
ROUNDS = 100


class Pair(NamedTuple):
    """An operator and its parts, each as the body of a function from x (and scale s, bias b) to y."""

    operator: str
    parts: str


PAIRS = {
    "Attention": Pair(
        "y = Attention <q_num_heads = 8, kv_num_heads = 8> (x, x, x)",
        """h = Reshape(x, heads) q = Transpose <perm = [0, 2, 1, 3]> (h)
        k2 = Transpose <perm = [0, 2, 3, 1]> (h) z = MatMul(q, k2)
        t = Mul(z, third) w = Softmax(t) v = MatMul(w, q)
        o = Transpose <perm = [0, 2, 1, 3]> (v) n = Shape(x) y = Reshape(o, n)""",
    ),
    "Clip": Pair("y = Clip(x, zero, six)", "a = Relu(x) y = Min(a, six)"),
    "Celu": Pair(
        "y = Celu(x)",
        """m = Relu(x) n = Min(x, zero) e = Exp(n) f = Sub(e, one) l = Log(e) q = Equal(f, zero)
        w = Where(q, one, l) d = Div(f, w) p = Mul(n, d) z = Where(q, n, p) y = Add(m, z)""",
    ),
    "Elu": Pair(
        "y = Elu(x)",
        """g = Greater(x, zero) n = Min(x, zero) e = Exp(n) f = Sub(e, one) l = Log(e) q = Equal(f, zero)
        w = Where(q, one, l) d = Div(f, w) p = Mul(n, d) z = Where(q, n, p) y = Where(g, x, z)""",
    ),
    "GroupNormalization": Pair(
        "y = GroupNormalization <num_groups = 8, epsilon = 1e-6> (x, s, b)",
        """r = Reshape(x, rows) i = InstanceNormalization <epsilon = 1e-6> (r, ones, zeros) h = Shape(x)
        z = Reshape(i, h) t = Reshape(s, column) u = Reshape(b, column) v = Mul(z, t) y = Add(v, u)""",
    ),
    "HardSigmoid": Pair(
        "y = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)",
        "a = Add(x, three) c = Relu(a) d = Min(c, six) y = Div(d, six)",
    ),
    "HardSwish": Pair(
        "y = HardSwish(x)",
        "a = Add(x, three) c = Relu(a) d = Min(c, six) e = Div(d, six) y = Mul(x, e)",
    ),
    "Mish": Pair("y = Mish(x)", "a = Softplus(x) c = Tanh(a) y = Mul(x, c)"),
    "RMSNormalization": Pair(
        "y = RMSNormalization <epsilon = 1e-6> (x, k)",
        """a = Mul(x, x) c = ReduceMean(a, last) d = Add(c, eps) e = Sqrt(d) f = Reciprocal(e) g = Mul(f, k)
        y = Mul(x, g)""",
    ),
    "RotaryEmbedding": Pair(
        """c = Slice(x, start, sixteenth, last)
        y = RotaryEmbedding <num_heads = 8> (x, c, c)""",
        """c = Slice(x, start, sixteenth, last) d = Unsqueeze(c, last)
        h = Reshape(x, heads) u, v = Split <axis = 3, num_outputs = 2> (h)
        e = Mul(u, d) f = Mul(v, d) g = Sub(e, f) i = Add(e, f)
        j = Concat <axis = 3> (g, i) n = Shape(x) y = Reshape(j, n)""",
    ),
    "Selu": Pair("y = Selu(x)", "a = Elu <alpha = 1.67> (x) y = Mul(a, three)"),
    "Softplus": Pair(
        "y = Softplus(x)",
        """m = Relu(x) n = IsNaN(x) a = Abs(x) c = Neg(a) e = Exp(c) f = Add(one, e) g = Sub(f, one)
        l = Log(f) q = Equal(g, zero) w = Where(q, one, g) d = Div(e, w) p = Mul(l, d) h = Abs(f)
        i = Equal(h, infinity) t = Where(i, l, p) j = Abs(g) o = Greater(j, zero) u = Where(o, t, e)
        v = Add(m, u) y = Where(n, x, v)""",
    ),
    "Swish": Pair("y = Swish(x)", "a = Sigmoid(x) y = Mul(x, a)"),
    "TensorScatter": Pair(
        """u = Slice(x, at, next, at) n = Shape <start = 0, end = 1> (x)
        i = ConstantOfShape <value = int64[1] {3}> (n) y = TensorScatter <axis = 1> (x, u, i)""",
        """u = Slice(x, at, next, at) n = Shape(u)
        i = ConstantOfShape <value = int64[1] {3}> (n) y = ScatterElements <axis = 1> (x, i, u)""",
    ),
}


def _model(body: str, shape: tuple[int, ...], opset: int) -> str:
    channels, places = shape[1:]
    ones, zeros = ", ".join(["1"] * 8), ", ".join(["0"] * 8)
    x = f"float[N, {channels}, {places}]"
    return f"""<ir_version: 11, opset_import: ["": {opset}]>
    pair ({x} x, float[{channels}] s, float[{channels}] b, float[{places}] k) => ({x} y)
    <float zero = {{0.0}}, float one = {{1.0}}, float three = {{3.0}}, float six = {{6.0}},
    float infinity = {{3.4e38}}, float eps = {{1e-6}}, float third = {{0.35}},
    int64[1] at = {{1}}, int64[1] next = {{2}},
    int64[4] heads = {{0, 0, 8, -1}}, int64[1] last = {{2}}, int64[3] column = {{1, -1, 1}},
    int64[1] start = {{0}}, int64[1] sixteenth = {{{places // 16}}},
    int64[3] rows = {{0, 8, -1}}, float[8] ones = {{{ones}}}, float[8] zeros = {{{zeros}}}>
    {{ {body} }}"""


def _session(body: str, shape: tuple[int, ...], opset: int) -> ort.InferenceSession:
    proto = parser.parse_model(_model(body, shape, opset))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _runs(kind: str, opset: int) -> bool:
    """Return True where onnxruntime runs the operator at an opset."""
    try:
        _session(PAIRS[kind].operator, SHAPES[0], opset)
    except Exception:  # onnxruntime and the parser have many
        return False
    return True


def _feeds(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    sizes = {"x": shape, "s": shape[1:2], "b": shape[1:2], "k": shape[2:]}
    return {name: random.normal(size=s).astype(np.float32) for name, s in sizes.items()}


def _least(
    session: ort.InferenceSession, feeds: Mapping[str, Any], known: float
) -> float:
    """The least time of a run, those before included."""
    session.run(None, feeds)
    started = time.perf_counter()
    session.run(None, feeds)
    return min(known, time.perf_counter() - started)


def _ratio(pair: Pair, shape: tuple[int, ...], opset: int) -> float:
    """The time of the operator over that of its parts."""
    operator, parts = (_session(body, shape, opset) for body in pair)
    feeds = _feeds(shape)
    mine = other = np.inf
    for _ in range(ROUNDS):
        mine = _least(operator, feeds, mine)
        other = _least(parts, feeds, other)
    return mine / other


def main() -> None:
    """Print the table."""
    known = table()
    opsets = range(OLDEST, known.newest + 1)
    for kind, pair in PAIRS.items():
        runs = [opset for opset in opsets if _runs(kind, opset)]
        with_kernel = [o for o in runs if f"onnx.{kind}" in known.rows(o)]
        best = (with_kernel or runs)[-1]
        ratios = [_ratio(pair, shape, best) for shape in SHAPES]
        ratio = math.prod(ratios) ** (1 / len(ratios))
        print(f'"onnx.{kind}": {ratio:.2f} (opset {best})')


if __name__ == "__main__":
    main()
