"""Rules for primitives of one's own: a FFI call as ONNX nodes, a Pallas kernel as one operator of a
domain of one's own.

Run it with `python -m examples.own_primitives`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas

import j2o
from j2o.passes.lower.table import Lowering


def rms_norm(x, eps=1e-5):
    """A kernel in C++ that XLA calls; nothing has to be registered with XLA for the export."""
    return jax.ffi.ffi_call("rms_norm", jax.ShapeDtypeStruct(x.shape, x.dtype))(
        x, eps=np.float32(eps)
    )


def _twice(x_ref, out_ref):
    out_ref[...] = 2 * x_ref[...]


def twice(x):
    return pallas.pallas_call(
        _twice, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), name="twice"
    )(x)


@j2o.lower("ffi_call")
def ffi_call(op: Lowering, *operands, target_name, attributes, **_):
    """One rule serves all FFI targets. Rules have JAX's signature: operands, then parameters by name."""
    if target_name != "rms_norm":
        raise j2o.UnsupportedError([f"ffi_call of {target_name!r}"])
    (x,), eps = operands, dict(attributes)["eps"]
    mean = op.ReduceMean(op.Mul(x, x), np.array([-1]), keepdims=1)
    return op.Div(x, op.Sqrt(op.Add(mean, eps)))


@j2o.lower("pallas_call")
def pallas_call(op: Lowering, *operands, name, **_):
    """An operator of a domain of one's own says which types it gives; a runtime must know it."""
    return op.apply(f"kernels.{name.title()}", *operands, types=list(op.out_types))


def model(x):
    return rms_norm(x) + jnp.sin(x)


if __name__ == "__main__":
    print(j2o.compile(model, [("B", 8)]).graph)
    print(j2o.compile(twice, [(4, 8)]).graph)
