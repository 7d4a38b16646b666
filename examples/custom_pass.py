"""A pass of one's own: clipping at 0 and 6 as one Clip. Run it with `python -m examples.custom_pass`."""

import jax

import j2o
from j2o.passes import rewrite


@rewrite("relu6", at="onnx", level=2)
def relu6(op, x):
    return op.Min(op.Max(x, 0.0), 6.0)


@relu6.becomes
def _(op, x):
    return op.Clip(x, 0.0, 6.0)


if __name__ == "__main__":
    pipeline = j2o.default_pipeline(opt_level=2).after("fold", relu6)
    model = j2o.compile(jax.nn.relu6, [("B", 8)], passes=pipeline)
    print(model.graph)
    print(model.report)
