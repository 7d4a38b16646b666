"""Times of linear algebra in onnxruntime, next to JAX's own on the CPU: `python -m tools.bench_linalg`."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import j2o

CASES: dict[str, tuple[Callable[..., Any], int]] = {
    "cholesky": (jnp.linalg.cholesky, 256),
    "solve": (lambda a: jnp.linalg.solve(a, a[:, 0]), 256),
    "qr": (jnp.linalg.qr, 64),
    "eigh": (jnp.linalg.eigh, 64),
    "svd": (jnp.linalg.svd, 64),
}


def best(run: Callable[[], Any], repeats: int = 5) -> float:
    """The shortest of several runs, in milliseconds, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def report(name: str, fn: Callable[..., Any], size: int) -> None:
    """Print the row of one function at a positive definite matrix."""
    root = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    matrix = root @ root.T / size + np.eye(size, dtype=np.float32)
    model = j2o.compile(fn, [(size, size)])
    feeds = {model.input_names[0]: matrix}
    jitted = jax.jit(fn)
    ours = best(lambda: model.session.run(feeds))
    theirs = best(lambda: jax.block_until_ready(jitted(matrix)))
    nodes = sum(model.report.ops_after.values())
    print(f"{name:8} {size:5} {ours:14.1f} {theirs:9.2f} {nodes:7}")


if __name__ == "__main__":
    print("case           onnxruntime ms    JAX ms   nodes")
    for name, (fn, size) in CASES.items():
        report(name, fn, size)
