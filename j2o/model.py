"""The compiled model: saving it, running it, comparing it with JAX."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from j2o.errors import SpecError, VerificationError
from j2o.ir import dims
from j2o.ir.graph import Graph
from j2o.ir.types import KEY_NAMES, DType, Type
from j2o.report import Report, count_ops

if TYPE_CHECKING:
    import onnx

    from j2o.backend.session import Session


@dataclass(frozen=True)
class Boundary:
    """How the function's pytrees and the graph's flat inputs and outputs belong together.

    `types` and `out_types` are those of the function's leaves: complex and key dtypes as JAX has them. `frozen` holds the
    positions of arguments that `j2o.weights` marked; the caller leaves them out.
    """

    types: tuple[Type, ...]
    out_types: tuple[Type, ...]
    in_tree: Any
    out_tree: Any
    frozen_arguments: frozenset[int] = frozenset()
    inputs_as_nchw: frozenset[int] = frozenset()
    outputs_as_nchw: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Comparison:
    """What `Model.verify` found: for each output, the largest absolute and relative difference from JAX.

    `quantisation` has the weights that `weights_dtype` stores in another dtype, each with the root mean square of the error
    relative to that of the weight.
    """

    names: tuple[str, ...]
    absolute: tuple[float, ...]
    relative: tuple[float, ...]
    quantisation: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        rows = zip(self.names, self.absolute, self.relative, strict=True)
        lines = [f"{n}: largest difference {a:.3g} absolute, {r:.3g} relative" for n, a, r in rows]
        stored = [
            f"{n}: stored with an error of {e:.3g} relative to its root mean square" for n, e in self.quantisation
        ]
        return "\n".join(lines + stored)


class Model:
    """What `j2o.compile` gives. Call it to run it; `save` writes it; `graph` is the optimised IR."""

    def __init__(
        self, fn: Callable[..., Any], graph: Graph, boundary: Boundary, opset: int, report: Report, name: str
    ) -> None:
        self.fn, self.graph, self.report = fn, graph, report
        self.opset, self.name = opset, name
        self._boundary = boundary
        self._session: Session | None = None

    @property
    def input_names(self) -> list[str]:
        return list(self.graph.input_names)

    @property
    def output_names(self) -> list[str]:
        return list(self.graph.output_names)

    # ----------------------------------------------------------------- writing

    def to_proto(self) -> onnx.ModelProto:
        """The model as a protobuf message, weights inside; ValueError above protobuf's 2 GB."""
        from j2o.backend.proto import to_proto

        return to_proto(self.graph, self.opset)

    def save(
        self,
        path: str | os.PathLike[str],
        external_data: bool | None = None,
        *,
        max_file_bytes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write `path`, and its weights to `path + ".data"` with `external_data` (by default above 1 GiB of weights).

        What stands at `path` is at every instant the complete old model or the complete new one, also when the process is
        killed, the disk is full or two processes save to the same path. An older model keeps its data file until it is
        replaced: where `path + ".data"` has other contents, the new one is `path + ".<digest>.data"`. Left-overs of killed
        saves end in `.partial`; the next save removes them. The same program gives the same bytes.

        `max_file_bytes` splits the data into files of at most that size (`path + ".1.data"`, …). `progress` is called with
        the bytes of weights written and to be written. Weights lie aligned and with checksums that `j2o check --deep`
        verifies; those of equal contents lie in the data once.

        A link at `path` is replaced, and what it leads to stays as it is: runtimes look for the data beside the path that
        they are given. Raises SaveError, with what stood at `path` untouched, where the folder does not exist or cannot be
        written, where a folder, a device, a pipe or a socket stands at `path`, where a single file would exceed protobuf's
        2 GiB, and where `progress` raises. Ctrl-C at any time leaves a complete model and nothing else.
        """
        from j2o.backend.external import save

        save(
            self.graph, self.opset, path,
            external_data=external_data, max_file_bytes=max_file_bytes, progress=progress,
        )  # fmt: skip

    # ----------------------------------------------------------------- running

    @property
    def session(self) -> Session:
        """The onnxruntime session, made at first use."""
        if self._session is None:
            from j2o.backend.session import Session

            self._session = Session(self.to_proto())
        return self._session

    def __call__(self, *args: Any) -> Any:
        """Run in onnxruntime: takes the function's pytrees without frozen weights, gives its pytree, as JAX arrays.

        Raises SpecError where an argument does not fit its spec, DimensionError where sizes break a constraint.
        """
        import jax

        flat = self._flatten(args)
        self._sizes(flat)
        b = self._boundary
        feeds = [
            _permuted(_to_model(x), (0, 3, 1, 2)) if i in b.inputs_as_nchw else _to_model(x) for i, x in enumerate(flat)
        ]
        outputs = self.session.run(dict(zip(self.input_names, feeds, strict=True)))
        outputs = [_permuted(y, (0, 2, 3, 1)) if i in b.outputs_as_nchw else y for i, y in enumerate(outputs)]
        leaves = [_from_model(y, t) for y, t in zip(outputs, b.out_types, strict=True)]
        return jax.tree.unflatten(b.out_tree, leaves)

    def _flatten(self, args: Sequence[Any]) -> list[Any]:
        import jax

        leaves, tree = jax.tree.flatten(tuple(args))
        if tree != self._boundary.in_tree:
            raise SpecError(f"arguments: the model takes {self._boundary.in_tree}, given {tree}")
        for name, leaf, want in zip(self.input_names, leaves, self._boundary.types, strict=True):
            got = np.result_type(leaf) if not hasattr(leaf, "dtype") else leaf.dtype
            if len(np.shape(leaf)) != want.rank:
                raise SpecError(f"input {name!r}: given shape {np.shape(leaf)}, the model takes {want}")
            fits = want.dtype.is_key or not hasattr(leaf, "dtype") or got == want.dtype.numpy
            if not fits and not _narrows(got, want.dtype):
                raise SpecError(f"input {name!r}: given {got}, the model takes {want}")
        return [x if hasattr(x, "dtype") and (t.dtype.is_key or x.dtype == t.dtype.numpy) else np.asarray(x, t.dtype.numpy)
                for x, t in zip(leaves, self._boundary.types, strict=True)]  # fmt: skip

    def _sizes(self, flat: Sequence[Any]) -> dict[str, int]:
        """The size of every symbol; DimensionError names input, axis, constraint and value where sizes do not fit."""
        shapes = zip(self.input_names, self._boundary.types, flat, strict=True)
        rows = [
            (f"input {name!r}, axis {axis}", *sizes)
            for name, t, x in shapes
            for axis, sizes in enumerate(zip(t.shape, np.shape(x), strict=True))
        ]
        where, axes, sizes = zip(*rows, strict=True) if rows else ((), (), ())
        return dims.fit(where, axes, sizes, self.graph.root.dims.constraints)

    def verify(self, *args: Any, rtol: float = 1e-4, atol: float = 1e-5) -> Comparison:
        """Run the function in JAX and the model in onnxruntime; VerificationError where they differ by more."""
        import jax

        arrays = jax.tree.map(lambda x: jax.numpy.asarray(x) if isinstance(x, np.ndarray | np.generic) else x, args)
        want = jax.tree.leaves(self.fn(*arrays))
        got = jax.tree.leaves(self(*args))
        if len(got) != len(want):
            raise VerificationError(f"{len(got)} outputs instead of {len(want)}")
        absolute, relative = [], []
        for name, g, w in zip(self.output_names, got, want, strict=True):
            a, r = _difference(name, g, w, rtol, atol)
            absolute.append(a)
            relative.append(r)
        return Comparison(
            tuple(self.output_names), tuple(absolute), tuple(relative), tuple(self.report.quantisation.items())
        )

    def __repr__(self) -> str:
        ins = ", ".join(f"{n}: {t}" for n, t in zip(self.input_names, self._boundary.types, strict=True))
        outs = ", ".join(f"{n}: {t}" for n, t in zip(self.output_names, self._boundary.out_types, strict=True))
        nodes = sum(count_ops(self.graph).values())
        weights = f"{self.report.weights_bytes / 2**20:.1f} MiB of weights"
        return f"<j2o.Model {self.name}({ins}) -> ({outs}), opset {self.opset}, {nodes} nodes, {weights}>"


def _narrows(got: Any, want: DType) -> bool:
    """Whether JAX would take the array in that dtype when 64-bit values are off."""
    return np.dtype(got).kind == want.numpy.kind and np.dtype(got).itemsize == 8 and want.numpy.itemsize == 4


def _permuted(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(axes))


def _to_model(x: Any) -> np.ndarray:
    """A leaf as the graph takes it: keys as their data, complex numbers as a last axis of two."""
    import jax

    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(x))
    array: Any = np.asarray(x)
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1)
    return array


def _from_model(y: np.ndarray, type: Type) -> Any:
    import jax
    import jax.numpy as jnp

    if type.dtype.is_key:
        return jax.random.wrap_key_data(jnp.asarray(y), impl=KEY_NAMES[type.dtype])
    if type.dtype.is_complex:
        return jnp.asarray(np.ascontiguousarray(y).view(type.dtype.numpy)[..., 0])
    return jnp.asarray(y)


def _difference(name: str, got: Any, want: Any, rtol: float, atol: float) -> tuple[float, float]:
    g, w = _to_model(got), _to_model(want)
    if g.shape != w.shape or g.dtype != w.dtype:
        raise VerificationError(f"output {name!r}: {g.dtype}{list(g.shape)} instead of {w.dtype}{list(w.shape)}")
    g, w = g.astype(np.float64), w.astype(np.float64)
    close = np.isclose(g, w, rtol=rtol, atol=atol, equal_nan=True)
    with np.errstate(all="ignore"):
        gap = np.where((g == w) | (np.isnan(g) & np.isnan(w)), 0.0, np.abs(g - w))
        ratio = np.where(gap == 0, 0.0, gap / np.abs(w))
    if not close.all():
        where = tuple(int(i) for i in np.argwhere(~close)[0])
        raise VerificationError(
            f"output {name!r}: {int((~close).sum())} of {w.size} values differ by up to {np.nanmax(gap):.3g}; "
            f"at {where} the model gives {g[where]}, JAX {w[where]} (rtol {rtol}, atol {atol})"
        )
    return float(gap.max(initial=0.0)), float(ratio.max(initial=0.0))
