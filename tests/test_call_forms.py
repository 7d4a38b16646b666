"""The forms of calls in docs/calls.md, a test each: what is compiled, and with what it is called."""

import dataclasses
import functools
import re
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import j2o

X = np.random.RandomState(0).randn(3, 4).astype(np.float32)
KEY = jax.random.key(3)


class Done(NamedTuple):
    """A compiled model, arguments for it, and the names of its inputs."""

    model: j2o.Model
    args: tuple[Any, ...]
    inputs: list[str]
    kwargs: Mapping[str, Any] = types.MappingProxyType({})


FORMS = {}


def form(name):
    """The function makes a `Done` of the form that has this name on the page."""

    def known(make):
        FORMS[name] = make
        return make

    return known


# ------------------------------------------------------------------------------------ arguments


def masked(x, y=None, *, mask, train=True, scale=1.0):
    assert train is False
    shown = jnp.where(mask, x, 0) * scale
    return shown if y is None else shown + y


@form("a keyword argument")
def by_keyword():
    kwargs = {"mask": "bool[B,4]", "train": False}
    model = j2o.compile(masked, [("B", 4)], kwargs=kwargs)
    return Done(model, (X,), ["x", "mask"], {"mask": X > 0})


@form("a positional parameter by keyword")
def positional_by_keyword():
    kwargs = {"y": ("B", 4), "x": ("B", 4), "mask": "bool[]", "train": False}
    model = j2o.compile(masked, [], kwargs=kwargs)
    given = {"mask": True, "x": X, "y": X}
    return Done(model, (), ["mask", "x", "y"], given)


@form("a static value by place")
def static_by_place():
    def summed(x, axis, y):
        return jnp.sum(x, axis) * y

    model = j2o.compile(summed, [("B", 4), j2o.static(1), ("B",)])
    return Done(model, (X, X[:, 0]), ["x", "y"])


@dataclasses.dataclass
class Config:
    act: Any
    widths: tuple[int, ...]


def configured(x, config, name, other=0):
    assert (config.widths, name, other) == ((4, 8), "net", None)
    return config.act(x)


@form("a configuration, a text and None")
def configuration():
    config = j2o.static(Config(jnp.tanh, (4, 8)))
    kwargs = {"config": config, "name": "net", "other": None}
    return Done(j2o.compile(configured, [("B", 4)], kwargs=kwargs), (X,), ["x"])


@form("a static value in a part of an argument")
def static_part():
    def scaled(inputs):
        return inputs["x"] ** inputs["power"]

    spec = {"x": ("B", 4), "power": j2o.static(3)}
    given = {"x": X, "power": None}
    return Done(j2o.compile(scaled, [spec]), (given,), ["inputs/x"])


@form("an empty tuple in a state")
def empty_part():
    def counted(state):
        assert state["rest"] == ()
        return {"count": state["count"] + 1, "rest": state["rest"]}

    model = j2o.compile(counted, [{"count": "f32[]", "rest": j2o.static(())}])
    model({"count": 1.0, "rest": None})
    state = model({"count": 1.0, "rest": ()})
    return Done(model, (state,), ["state/count"])


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


PARAMS = {"kernel": X.T @ X, "bias": X[0]}


@form("weights by keyword")
def weights_by_keyword():
    kwargs = {"params": j2o.weights(PARAMS), "x": ("B", 4)}
    model = j2o.compile(dense, [], kwargs=kwargs)
    assert initializers(model) == {"kernel", "bias"}
    return Done(model, (), ["x"], {"x": X})


@form("weights in a part of an argument")
def weights_part():
    def call(variables, x):
        return dense(variables["params"], x) + variables["shift"]

    spec = {"params": j2o.weights(PARAMS), "shift": "f32[]"}
    model = j2o.compile(call, [spec, ("B", 4)])
    assert initializers(model) == {"params/kernel", "params/bias"}
    given = {"params": None, "shift": 2.0}
    return Done(model, (given, X), ["variables/shift", "x"])


@form("static arguments of jax.jit")
def static_argnames():
    fn = jax.jit(masked, static_argnames="train")
    kwargs = {"mask": "bool[]", "train": False}
    model = j2o.compile(fn, [("B", 4)], kwargs=kwargs)
    return Done(model, (X,), ["x", "mask"], {"mask": True})


# ------------------------------------------------------------------------------------ pytrees


class Pair(NamedTuple):
    x: Any
    y: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Batch:
    x: Any
    y: Any
    kind: str = dataclasses.field(default="a", metadata={"static": True})


@flax.struct.dataclass
class Struct:
    x: Any
    y: Any
    kind: str = flax.struct.field(pytree_node=False, default="a")


class Module(eqx.Module):
    x: Any
    y: Any


@jax.tree_util.register_pytree_with_keys_class
class Own:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def tree_flatten_with_keys(self):
        keys = map(jax.tree_util.GetAttrKey, "xy")
        return tuple(zip(keys, (self.x, self.y), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)


def through(kind):
    """A form in which an argument and the result are pytrees of a class."""

    def swapped(pair):
        assert isinstance(pair, kind)
        return kind(x=pair.y * 2, y={"sum": pair.x.sum()})

    model = j2o.compile(swapped, [kind(x=("B", 4), y="f32[]")])
    assert model.output_names == ["x", "y/sum"]
    given = kind(x=X, y=np.float32(2))
    assert isinstance(model(given), kind)
    return Done(model, (given,), ["pair/x", "pair/y"])


@form("a NamedTuple")
def named_tuple():
    return through(Pair)


@form("a registered dataclass")
def registered_dataclass():
    return through(Batch)


@form("flax.struct")
def flax_struct():
    return through(Struct)


@form("chex.dataclass")
def chex_dataclass():
    chex = pytest.importorskip("chex")

    @chex.dataclass
    class Chex:
        x: Any
        y: Any

    return through(Chex)


@form("an Equinox module as an argument")
def equinox_argument():
    return through(Module)


@form("a class of your own")
def own_class():
    return through(Own)


# ------------------------------------------------------------------------------------ Flax linen


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
        return linen.Dropout(0.5, deterministic=not train)(x)

    def encode(self, x):
        return linen.tanh(x) * 2


NET = Net()
VARIABLES = NET.init(jax.random.key(0), X, False)


@form("linen: `apply`, for inference")
def linen_apply():
    specs = [j2o.weights(VARIABLES), ("B", 4)]
    model = j2o.compile(NET.apply, specs, kwargs={"train": False})
    assert "params/Dense_0/kernel" in initializers(model)
    return Done(model, (X,), ["args_0"])


@form("linen: `rngs` and `mutable`")
def linen_training():
    kwargs = {
        "train": j2o.static(True),
        "rngs": {"dropout": "key<fry>[]"},
        "mutable": j2o.static(["batch_stats"]),
    }
    specs = [j2o.weights(VARIABLES), (3, 4)]
    model = j2o.compile(NET.apply, specs, kwargs=kwargs)
    assert "1/batch_stats/BatchNorm_0/mean" in "".join(model.output_names)
    given = {"rngs": {"dropout": KEY}}
    return Done(model, (X,), ["args_0", "rngs/dropout"], given)


@form("linen: `method` by name")
def linen_method_name():
    specs = [j2o.weights(VARIABLES), ("B", 4)]
    model = j2o.compile(NET.apply, specs, kwargs={"method": "encode"})
    return Done(model, (X,), ["args_0"])


@form("linen: `method` as a function")
def linen_method():
    specs = [j2o.weights(VARIABLES), ("B", 4)]
    kwargs = {"method": j2o.static(Net.encode)}
    return Done(j2o.compile(NET.apply, specs, kwargs=kwargs), (X,), ["args_0"])


class Decoder(linen.Module):
    @linen.compact
    def __call__(self, x):
        attention = linen.MultiHeadDotProductAttention(num_heads=2, decode=True)
        return attention(x, deterministic=True)


@form("linen: a cache that goes in and out")
def linen_cache():
    decoder = Decoder()
    shapes = decoder.init(jax.random.key(0), jnp.ones((1, 6, 4)))
    cache = jax.tree.map(jnp.zeros_like, shapes["cache"])
    variables = {"params": j2o.weights(shapes["params"]), "cache": cache}
    kwargs = {"mutable": j2o.static(["cache"])}
    model = j2o.compile(decoder.apply, [variables, (1, 1, 4)], kwargs=kwargs)
    for step in X:
        given = {"params": None, "cache": cache}
        _, changed = model(given, step[None, None])
        want = decoder.apply(
            {**shapes, "cache": cache}, step[None, None], mutable=["cache"]
        )
        jax.tree.map(close, changed["cache"], want[1]["cache"])
        cache = changed["cache"]
    assert [name.rpartition("/")[2] for name in model.input_names] == [
        "cache_index",
        "cached_key",
        "cached_value",
        "args_0",
    ]
    return Done(model, (given, X[0][None, None]), model.input_names)


@form("linen: a bound module")
def linen_bound():
    model = j2o.compile(NET.bind(VARIABLES), [("B", 4)], kwargs={"train": False})
    return Done(model, (X,), ["x"])


# ------------------------------------------------------------------------------------ Flax nnx


class Block(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x, *, train=False):
        return self.norm(self.dense(x), use_running_average=not train)

    def encode(self, x, factor):
        return jnp.tanh(self.dense(x)) * factor


@form("nnx: a module")
def nnx_module():
    model = j2o.compile(Block(nnx.Rngs(0)), [("B", 4)], kwargs={"train": False})
    assert "dense/kernel" in initializers(model)
    return Done(model, (X,), ["x"])


@form("nnx: a method of a module")
def nnx_method():
    specs = [("B", 4)]
    kwargs = {"factor": "f32[]"}
    model = j2o.compile(Block(nnx.Rngs(0)).encode, specs, kwargs=kwargs)
    return Done(model, (X,), ["x", "factor"], {"factor": 2.0})


@form("nnx: a method of the class, the module as a value")
def nnx_static_module():
    block = Block(nnx.Rngs(0))
    specs = [j2o.static(block), ("B", 4), "f32[]"]
    model = j2o.compile(Block.encode, specs)
    assert "self/dense/kernel" in initializers(model)
    return Done(model, (X, 3.0), ["x", "factor"])


@form("nnx: `nnx.jit`")
def nnx_jitted():
    @nnx.jit
    def call(block, x):
        return block(x) * 2

    block = Block(nnx.Rngs(0))
    block.eval()
    model = j2o.compile(call, [j2o.static(block), ("B", 4)])
    return Done(model, (X,), ["x"])


@form("nnx: `nnx.split` and `nnx.merge`")
def nnx_split():
    graphdef, params, rest = nnx.split(Block(nnx.Rngs(0)), nnx.Param, ...)

    def call(params, rest, x):
        block = nnx.merge(graphdef, params, rest)
        y = block(x, train=True)
        return y, nnx.state(block, nnx.BatchStat)

    model = j2o.compile(call, [j2o.weights(params), rest, (3, 4)])
    names = ["rest/norm/mean/value", "rest/norm/var/value", "x"]
    return Done(model, (rest, X), names)


@form("nnx: a cache as `state`")
def nnx_state():
    module = cached_attention()
    model = j2o.compile(module, [(1, 1, 4)], state=nnx.Cache)
    state = model.state
    for step in X:
        got, state = model(step[None, None], state=state)
        close(got, module(jnp.asarray(step[None, None])))
    close(state["cached_key"], module.cached_key[...])
    assert int(state["cache_index"]) == 3
    names = ["inputs_q", *(f"state/{name}" for name in sorted(state))]
    assert model.output_names == ["output", *(f"{name}_out" for name in names[1:])]
    return Done(model, (X[0][None, None],), names, {"state": state})


def cached_attention():
    """Attention of nnx that decodes, with room for six tokens."""
    module = nnx.MultiHeadAttention(
        num_heads=2, in_features=4, decode=True, rngs=nnx.Rngs(0)
    )
    module.init_cache((1, 6, 4))
    return module


# ------------------------------------------------------------------------------------ Equinox


class Stateful(eqx.Module):
    dense: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout

    def __init__(self, key):
        self.dense = eqx.nn.Linear(4, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="ema")
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x, state, *, key=None, inference=None):
        y, state = self.norm(self.dense(x), state)
        return self.drop(y, key=key, inference=inference), state


def over_rows(net, x, state, **kwargs):
    call = functools.partial(net, **kwargs)
    return jax.vmap(call, (0, None), (0, None), axis_name="batch")(x, state)


@form("equinox: state in and out")
def equinox_state():
    net, state = eqx.nn.make_with_state(Stateful)(jax.random.key(0))
    specs = [j2o.static(net), (3, 4), state]
    model = j2o.compile(over_rows, specs, kwargs={"inference": True})
    return Done(model, (X, state), model.input_names)


@form("equinox: inference by a flag")
def equinox_flag():
    drop = eqx.nn.Dropout(0.5)
    model = j2o.compile(drop, [("B", 4)], kwargs={"inference": True})
    return Done(model, (X,), ["x"])


@form("equinox: `inference_mode` and a key")
def equinox_mode():
    net, state = eqx.nn.make_with_state(Stateful)(jax.random.key(0))
    for_inference = eqx.nn.inference_mode(net)

    def call(x, *, key):
        return over_rows(for_inference, x, state, key=key)[0]

    model = j2o.compile(call, [("B", 4)], kwargs={"key": "key<fry>[]"})
    return Done(model, (X,), ["x", "key"], {"key": KEY})


@form("equinox: a module as weights")
def equinox_weights():
    """Its flags and functions are handed over as they are."""
    net = eqx.nn.Sequential(
        [
            eqx.nn.MLP(4, 4, 8, 1, key=jax.random.key(0)),
            eqx.nn.Dropout(0.5, inference=True),
        ]
    )

    def call(net, x):
        return jax.vmap(net)(x)

    model = j2o.compile(call, [j2o.weights(net), ("B", 4)])
    assert "layers/0/layers/1/weight" in initializers(model)
    return Done(model, (X,), ["x"])


# ------------------------------------------------------------------------------------ haiku, keras


@form("haiku: with state")
def haiku_state():
    hk = pytest.importorskip("haiku")

    def net(x, is_training):
        return hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)

    net = hk.transform_with_state(net)
    params, state = net.init(jax.random.key(0), X, True)
    specs = [j2o.weights(params), state, None, (3, 4)]
    model = j2o.compile(net.apply, specs, kwargs={"is_training": True})
    assert "linear/w" in initializers(model)
    return Done(model, (state, None, X), model.input_names)


def keras_net():
    keras = pytest.importorskip("keras")
    layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)]
    return keras.Sequential([*layers, keras.layers.BatchNormalization()])


@form("keras: a model")
def keras_model():
    model = j2o.compile(keras_net(), [("B", 4)], kwargs={"training": False})
    return Done(model, (X,), model.input_names)


@form("keras: `stateless_call`")
def keras_stateless():
    net = keras_net()
    weights = [v.value for v in net.trainable_variables]
    others = [v.value for v in net.non_trainable_variables]
    specs = [j2o.weights(weights), others, (3, 4)]
    model = j2o.compile(net.stateless_call, specs, kwargs={"training": True})
    return Done(model, (others, X), model.input_names)


# ------------------------------------------------------------------------------------ the tests


def initializers(model):
    """The names of the weights in the file."""
    return {i.name for i in model.to_proto().graph.initializer}


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_calls_agrees_with_jax(name):
    done = FORMS[name]()
    assert done.model.input_names == done.inputs
    done.model.verify(*done.args, **done.kwargs)


def test_an_argument_by_place_may_come_by_its_name():
    def scaled(x, weights, y, *, mask):
        return (x * weights - y) * mask

    specs = [("B", 4), j2o.weights(X[0]), ("B", 4)]
    model = j2o.compile(scaled, specs, kwargs={"mask": ("B", 4)})
    want = model(X, X + 1, mask=X)
    np.testing.assert_array_equal(model(X, mask=X, y=X + 1), want)
    np.testing.assert_array_equal(model(y=X + 1, mask=X, x=X), want)
    with pytest.raises(j2o.SpecError, match="argument 'weights': it was settled"):
        model(X, X, mask=X, weights=X)
    with pytest.raises(j2o.SpecError, match="argument 'y': it is given twice"):
        model(X, X, mask=X, y=X)


def test_the_page_has_a_row_for_each_form():
    page = Path(__file__).parents[1] / "docs" / "calls.md"
    table = page.read_text().partition("## Forms of calls")[2]
    rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    assert rows[2:] == list(FORMS)


class Counter(nnx.Module):
    def __init__(self):
        self.count = nnx.Variable(jnp.zeros((), jnp.int32))
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

    def step(self, x, times):
        self.count[...] += times
        return self.norm(x) * 2, self.count[...]


FILTERS = {
    "a kind": (nnx.BatchStat, {"self/norm/mean", "self/norm/var"}),
    "several": ((nnx.BatchStat, nnx.Param), 4),
    "a path": (lambda path, _: path[-1] == "count", {"self/count"}),
    "all": (..., 5),
}


@pytest.mark.parametrize("name", FILTERS)
def test_the_state_is_what_fits_the_filter(name):
    wanted, paths = FILTERS[name]
    counter = Counter()
    specs = [j2o.static(counter), (3, 4), j2o.static(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", j2o.J2OWarning)
        model = j2o.compile(Counter.step, specs, state=wanted)
    found = set(model.state)
    assert found == paths or len(found) == paths
    model.verify(X, state=model.state)
    (_, count), state = model(X, state=model.state)
    _, again = model(X, state=state)
    assert int(count) == 2
    assert int(again.get("self/count", 4)) == 4
    assert int(counter.count[...]) == 0


def test_variables_of_one_path_are_told_apart():
    one, two = nnx.Param(jnp.ones(4)), nnx.Param(jnp.full(4, 2.0))

    def call(x, first=one, second=two):
        first[...] += x
        return first[...] * second[...]

    model = j2o.compile(call, [(4,)], state=nnx.Param)
    assert len(model.state) == 2
    model.verify(X[0], state=model.state)


BAD_STATES = [
    (
        nnx.Cache,
        {},
        "state=Cache: the function holds no such variables of nnx; it holds V",
    ),
    (5, {}, "state=5: a filter of flax.nnx is needed"),
    (nnx.Param, {"state": (2,)}, "kwargs['state']: "),
]


@pytest.mark.parametrize(("wanted", "kwargs", "said"), BAD_STATES)
def test_a_state_that_is_none_is_refused(wanted, kwargs, said):
    counter = Counter()

    def call(x, **_):
        return counter.step(x, 1)

    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(call, [(3, 4)], kwargs=kwargs, state=wanted)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
