"""The compiled model: saving it, running it, comparing it with JAX."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from j2o.arguments import flag
from j2o.compare import Comparison, check_tolerance, difference
from j2o.errors import SpecError, VerificationError, shown
from j2o.frontend.versions import enable_x64
from j2o.ir.graph import Graph
from j2o.ir.sizes import fit
from j2o.ir.types import Type
from j2o.nchw import to_nchw, to_nhwc
from j2o.report import Report, count_ops
from j2o.values import accept, by_place, misfit, other_keywords, to_graph, to_jax

if TYPE_CHECKING:
    import onnx

    from j2o.backend.session import Session

EXAMPLE = "{'prefill.onnx': prefill, 'decode.onnx': decode}"
MANY_SHAPES = 1000  # sizes that are remembered to fit


@dataclass(frozen=True)
class Boundary:
    """How the function's pytrees and the graph's flat inputs and outputs belong together.

    `types` and `out_types` are those of the function's leaves: complex and key dtypes as JAX has
    them. `in_tree` is the structure of the tuple of arguments by place and of that by `keywords`;
    `tree_with_empty` is the same with the static containers that are empty. `places` has the
    parameters of the former, `left_out` those that were settled while compiling.
    """

    types: tuple[Type, ...]
    out_types: tuple[Type, ...]
    in_tree: Any
    tree_with_empty: Any
    out_tree: Any
    places: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    inputs_as_nchw: tuple[int, ...] = ()
    outputs_as_nchw: tuple[int, ...] = ()


class Model:
    """What `j2o.compile` gives. Call it to run it; `save` writes it; `graph` is the optimised IR."""

    def __init__(
        self,
        fn: Callable[..., Any],
        graph: Graph,
        boundary: Boundary,
        opset: int,
        report: Report,
        name: str,
        state: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.fn = fn
        self.graph = graph
        self.report = report
        self.opset = opset
        self.name = name
        # the arrays that the function's state has had, to begin with
        self.state = dict(state)
        self._boundary = boundary
        self._session: Session | None = None
        self._lock = threading.RLock()
        self._known_shapes: set[tuple[tuple[int, ...], ...]] = set()
        self._x64 = _x64_mode()

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes a session of its own."""
        state = self.__dict__.copy()
        del state["_session"]
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = None
        self._lock = threading.RLock()

    @property
    def input_names(self) -> list[str]:
        return list(self.graph.input_names)

    @property
    def output_names(self) -> list[str]:
        return list(self.graph.output_names)

    # ----------------------------------------------------------------- writing

    def to_proto(self, *, sources: bool = True) -> onnx.ModelProto:
        """The model as a protobuf message, weights inside.

        SaveError above protobuf's 2 GB. `sources` as in `save`.
        """
        from j2o.backend.proto import to_proto

        return to_proto(self.graph, self.opset, sources=flag("sources", sources))

    def save(
        self,
        path: str | os.PathLike[str],
        external_data: bool | None = None,
        *,
        max_file_bytes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        sources: bool = True,
    ) -> None:
        """Write the model to `path`.

        With `external_data` its weights go to `path + ".data"`; by default they do above 1 GiB.

        What stands at `path` is at every instant the complete old model or the complete new one, also
        when the process is killed, the disk is full or two processes save to the same path. An older
        model keeps its data file until it is replaced: where `path + ".data"` has other contents, the
        new one is `path + ".<digest>.data"`. Left-overs of killed saves end in `.partial`; the next
        save removes them. The same program gives the same bytes.

        `max_file_bytes` splits the data into files of at most that size (`path + ".1.data"`, …).
        `progress` is called with the bytes of weights written and to be written. Weights lie aligned
        and with checksums that `j2o check --deep` verifies; those of equal contents lie in the data
        once.

        `sources` lets each node carry the line and the module of the program that it comes from, as
        metadata: paths start at the package or the project that a file belongs to, and are the same
        on every machine. False leaves them out; names of nodes tell the module as well.

        A link at `path` is replaced, and what it leads to stays as it is: runtimes look for the data
        beside the path that they are given. Raises SaveError, with what stood at `path` untouched,
        where the folder does not exist or cannot be written, where a folder, a device, a pipe or a
        socket stands at `path`, where a single file would exceed protobuf's 2 GiB, and where `progress`
        raises. Ctrl-C at any time leaves a complete model and nothing else.
        """
        from j2o.backend.external import save

        save(
            self.graph,
            self.opset,
            path,
            external_data=external_data,
            max_file_bytes=max_file_bytes,
            progress=progress,
            sources=flag("sources", sources),
        )

    # ----------------------------------------------------------------- running

    @property
    def session(self) -> Session:
        """The onnxruntime session, made once, at first use."""
        if self._session is None:
            from j2o.backend.session import Session

            with self._lock:
                if self._session is None:
                    self._session = Session(self.to_proto())
        return self._session

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run in onnxruntime, on the function's own pytrees.

        Arguments come by place and by keyword as they were given to `compile`, and those by place
        by their parameter's name too; frozen weights and static values are left out. The result is
        the function's pytree, of JAX arrays. Values are taken where nothing of them is lost (see
        `j2o.values`). Raises SpecError where an argument does not fit its spec, DimensionError where
        sizes break a constraint, TraceError inside of a JAX transformation. Several threads may call
        at once.
        """
        return self._run(self._accept(args, kwargs))

    def _accept(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The leaves of the arguments as arrays that fit the model."""
        boundary = self._boundary
        names = self.graph.input_names
        if kwargs:
            args, kwargs = by_place(args, kwargs, boundary.places)
        if tuple(sorted(kwargs)) != boundary.keywords:
            raise SpecError(
                other_keywords(
                    kwargs, boundary.keywords, boundary.left_out, boundary.places
                )
            )
        named = tuple([kwargs[keyword] for keyword in boundary.keywords])
        try:
            leaves, tree = jax.tree.flatten((tuple(args), named))
        # such as a dict whose keys cannot be ordered
        except (TypeError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise SpecError(f"arguments: no pytree of arrays: {why}") from error
        if tree not in (boundary.in_tree, boundary.tree_with_empty):
            raise SpecError(
                misfit(boundary.in_tree, args, kwargs, names, boundary.types)
            )
        wanted = zip(leaves, boundary.types, names, strict=True)
        flat = [accept(leaf, type, name) for leaf, type, name in wanted]
        shapes = tuple([x.shape for x in flat])
        if shapes not in self._known_shapes:
            self._check_sizes(shapes)
            if len(self._known_shapes) >= MANY_SHAPES:
                self._known_shapes.clear()
            self._known_shapes.add(shapes)
        return flat

    def _check_sizes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """DimensionError names input, axis, constraint and value where sizes do not fit."""
        where: list[str] = []
        axes: list[Any] = []
        sizes: list[int] = []
        types = self._boundary.types
        for name, wanted, shape in zip(self.input_names, types, shapes, strict=True):
            where += [f"input {name!r}, axis {axis}" for axis in range(len(shape))]
            axes += wanted.shape
            sizes += shape
        fit(where, axes, sizes, self.graph.root.dims.constraints)

    def _run(self, flat: Sequence[Any]) -> Any:
        """The function's result for leaves that fit."""
        boundary = self._boundary
        arrays = [to_graph(value) for value in flat]
        for i in boundary.inputs_as_nchw:
            arrays[i] = to_nchw(arrays[i])
        feeds = dict(zip(self.graph.input_names, arrays, strict=True))
        results = list(self.session.run(feeds))
        for i in boundary.outputs_as_nchw:
            results[i] = to_nhwc(results[i])
        with self._as_compiled():
            leaves = list(map(to_jax, results, boundary.out_types))
        return jax.tree.unflatten(boundary.out_tree, leaves)

    def _as_compiled(self) -> contextlib.AbstractContextManager[Any]:
        """JAX's 64-bit mode as it was when the function was compiled.

        In another one, its 64-bit results would wrap or round.
        """
        if _x64_mode() == self._x64:
            return contextlib.nullcontext()
        return enable_x64(self._x64)

    def verify(
        self, *args: Any, rtol: float = 1e-4, atol: float = 1e-5, **kwargs: Any
    ) -> Comparison:
        """Run the function in JAX and the model in onnxruntime, and compare every output.

        Floats may differ by `atol + rtol * |JAX's|`; integers, bools and keys may not. Raises
        VerificationError where they do, SpecError for arguments that do not fit or a tolerance that
        is no finite number of 0 or more.
        """
        rtol = check_tolerance("rtol", rtol)
        atol = check_tolerance("atol", atol)
        flat = self._accept(args, kwargs)
        got = jax.tree.leaves(self._run(flat))
        want = self._in_jax(flat)
        if len(got) != len(want):
            raise VerificationError(f"{len(got)} outputs instead of {len(want)}")
        rows = []
        try:
            for name, ours, theirs in zip(self.output_names, got, want, strict=True):
                rows.append(difference(name, ours, theirs, rtol, atol))
        except VerificationError as error:
            if self._repeats(flat, want):
                raise
            why = "the function itself gives other values when called again"
            guess = "dropout, random numbers, state that it keeps?"
            raise VerificationError(f"{error}; {why} ({guess})") from None
        absolute, relative = zip(*rows, strict=True)
        quantisation = tuple(self.report.quantisation.items())
        return Comparison(tuple(self.output_names), absolute, relative, quantisation)

    def _in_jax(self, flat: Sequence[Any]) -> list[Any]:
        """What the function itself gives, as JAX arrays; it gets copies, as it may donate them."""
        with self._as_compiled():
            copies = list(map(_copied, flat, self._boundary.types))
            args, named = jax.tree.unflatten(self._boundary.in_tree, copies)
            kwargs = dict(zip(self._boundary.keywords, named, strict=True))
            result = self.fn(*args, **kwargs)
            return [jnp.asarray(y) for y in jax.tree.leaves(result)]

    def _repeats(self, flat: Sequence[Any], want: Sequence[Any]) -> bool:
        """Return True where the function gives the same again."""
        try:
            for w, again in zip(want, self._in_jax(flat), strict=True):
                difference("", again, w, 0.0, 0.0)
        except (VerificationError, ValueError):
            return False
        return True

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from j2o.page.notebook import model_html

        return model_html(self)

    def __repr__(self) -> str:
        takes = _signature(self.input_names, self._boundary.types)
        gives = _signature(self.output_names, self._boundary.out_types)
        nodes = sum(count_ops(self.graph).values())
        mebibytes = self.report.weights_bytes / 2**20
        size = f"{nodes} nodes, {mebibytes:.1f} MiB of weights"
        signature = f"{self.name}({takes}) -> ({gives})"
        return f"<j2o.Model {signature}, opset {self.opset}, {size}>"


def save_models(
    models: Mapping[str | os.PathLike[str], Model],
    data: str | os.PathLike[str],
    *,
    max_file_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    sources: bool = True,
) -> None:
    """Write models by their paths, with their weights in one data file: those of equal contents once.

    All lie in one folder. Each path holds at every instant the complete old model or the complete new
    one, as with `Model.save`; the models are replaced one after the other. Where `data` has other
    contents, which older models may need, the new file is `STEM.<digest>.SUFFIX`, and what no file in
    the folder speaks of any more is removed. The options are those of `Model.save`. SpecError where
    `models` has no models; SaveError, with all that stood there untouched, as `Model.save` raises it,
    and where the paths do not name different files of one folder.
    """
    from j2o.backend import shared

    if not isinstance(models, Mapping) or not models:
        needed = "a mapping from paths to models is needed"
        raise SpecError(f"models={shown(models)}: {needed}, as in {EXAMPLE}")
    for path, model in models.items():
        if not isinstance(model, Model):
            what = "what j2o.compile gives is needed"
            raise SpecError(f"models[{shown(path)}]: {shown(model)}; {what}")
    shared.save_models(
        {path: (model.graph, model.opset) for path, model in models.items()},
        data,
        max_file_bytes=max_file_bytes,
        progress=progress,
        sources=flag("sources", sources),
    )


def _signature(names: Sequence[str], types: Sequence[Type]) -> str:
    """`x: f32[B,4], y: i32[B]`."""
    rows = zip(names, types, strict=True)
    return ", ".join(f"{name}: {type}" for name, type in rows)


def _copied(value: Any, type: Type) -> Any:
    """A copy of an array as a JAX array."""
    return value.copy() if type.dtype.is_key else jnp.array(value, copy=True)


def _x64_mode() -> bool:
    """Return True where JAX's 64-bit mode is on in this thread."""
    config: Any = jax.config
    return config.jax_enable_x64
