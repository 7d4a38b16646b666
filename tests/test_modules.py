"""Modules: every kind of attribute, through every way of holding one.

The caller's own stay bit for bit as they are.
"""

import dataclasses
import enum
import functools
import types
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import j2o

X = np.random.RandomState(0).randn(3, 4).astype(np.float32)


class Mode(enum.Enum):
    DOUBLE = 2


class Scale(nnx.Variable):
    """A kind of variable of the user's own."""


class Sub(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(rngs.params.normal((4, 4)))

    def __call__(self, x):
        return jnp.tanh(x @ self.kernel)


class Counter:
    """An object of no framework, with a module in it."""

    def __init__(self, rngs):
        self.inner, self.times = Sub(rngs), 2

    def __call__(self, x):
        return self.inner(x) * self.times


@dataclasses.dataclass(frozen=True)
class Settings:
    factor: float = 0.5


class Slots:
    __slots__ = ("inner", "unset")

    def __init__(self, rngs):
        self.inner = Sub(rngs)

    def __call__(self, x):
        return self.inner(x)


class Everything(nnx.Module):
    """One attribute of each kind; it writes to a variable, as modules with caches and statistics do."""

    def __init__(self, rngs):
        self.hidden = Sub(rngs)
        self.same = self.hidden  # shared
        self.pool = functools.partial(jnp.multiply, 2.0)
        self.bound = functools.partial(self.hidden)  # a partial around a module
        self.method = self.hidden.__call__
        self.blocks = nnx.List([Sub(rngs), Sub(rngs)])
        self.heads = nnx.Dict(a=Sub(rngs))
        self.pair = nnx.data((Sub(rngs), Sub(rngs)))
        self.table = nnx.data({"one": Sub(rngs), "list": [Sub(rngs)]})
        self.scale = Scale(jnp.ones(4) * 1.5)
        self.cache = nnx.Cache(jnp.zeros(4))
        self.rngs = rngs
        self.constant = jnp.arange(4.0)
        self.numpy = np.arange(4.0, dtype=np.float32)
        self.activation = jax.nn.relu
        self.nothing, self.mode, self.width = None, Mode.DOUBLE, 4
        self.settings = nnx.static(Settings())
        self.plain = nnx.static(Counter(rngs))
        self.slots = nnx.static(Slots(rngs))
        other = Sub(rngs)
        self.closure = nnx.static(lambda x: other(x) + self.constant)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs, use_running_average=True)

    def __call__(self, x):
        self.cache[...] = self.cache[...] + x.sum(0)
        x = self.method(self.bound(self.same(self.hidden(self.pool(x)))))
        for module in (
            *self.blocks,
            *self.heads.values(),
            *self.pair,
            self.table["one"],
            *self.table["list"],
        ):
            x = module(x)
        x = (
            self.activation(x * self.scale)
            + self.constant
            + self.numpy
            + self.cache[...]
        )
        x = self.closure(
            self.slots(self.plain(x * self.settings.factor * self.mode.value))
        )
        return self.norm(self.dropout(x)) if self.nothing is None else x


def state_of(module):
    """Every array, count and attribute of a module, to compare."""
    graphdef, state = nnx.split(module)
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(state))
    return {
        jax.tree_util.keystr(path): as_numpy(leaf) for path, leaf in leaves
    }, graphdef


def as_numpy(array):
    is_key = jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


def is_unchanged(module, before):
    arrays, graphdef = state_of(module)
    jax.tree.map(np.testing.assert_array_equal, arrays, before[0])
    assert graphdef == before[1]


class Holder:
    """An object of no framework that is called."""

    def __init__(self, module):
        self.model = module

    def __call__(self, x):
        return self.model(x)

    def predict(self, x):
        return self.model(x)


class Frozen(eqx.Module):
    model: nnx.Module

    def __call__(self, x):
        return self.model(x)


def closure(module):
    return lambda x: module(x)


def default(module):
    def call(x, model=module):
        return model(x)

    return call


def keyword_default(module):
    def call(x, *, model=module):
        return model(x)

    return call


def wrapped(module):
    @functools.wraps(module.__call__)
    def call(*args):
        return module(*args)

    return call


def recursive(module):
    def call(x, depth=2):
        return module(x) if depth == 0 else call(x, depth - 1)

    return call


def by_hand(module):
    graphdef, state = nnx.split(module)
    return lambda x: nnx.merge(graphdef, state)(x)


def functional(module):
    graphdef, state = nnx.split(module)

    def call(x):
        out, _ = graphdef.apply(state)(x)
        return out

    return call


def global_of(module):
    scope = {}
    exec("def inner(x): return model(x)\ndef call(x): return inner(x)", scope)
    scope["model"] = module
    return scope["call"]


def applied(model, x):
    return model(x)


def rematerialised(module):
    return lambda x: nnx.remat(applied)(module, x)


def chosen(module):
    return lambda x: nnx.cond(
        x.sum() > 1e9, lambda m, x: m(x) * 0, lambda m, x: m(x), module, x
    )


def unrolled(module):
    def step(carry, x):
        model, total = carry
        return (model, total + model(x)), total.sum()

    scanned = nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    return lambda x: scanned((module, jnp.zeros_like(x)), jnp.stack([x, x]))[0][1]


WAYS = {
    "module": lambda m: m,
    "method": lambda m: m.__call__,
    "partial": lambda m: functools.partial(applied, m),
    "partial by keyword": lambda m: functools.partial(
        lambda x, model: model(x), model=m
    ),
    "closure": closure,
    "closure of a closure": lambda m: closure(closure(m)),
    "closure over a list": lambda m: lambda x, models=[m]: models[0](x),
    "closure over a dict": lambda m: (lambda models: lambda x: models["a"]["b"](x))(
        {"a": {"b": m}}
    ),
    "default": default,
    "keyword default": keyword_default,
    "global": global_of,
    "argument of nnx.jit": lambda m: functools.partial(nnx.jit(applied), m),
    "nnx.jit in a closure": lambda m: lambda x: nnx.jit(applied)(m, x),
    "object": Holder,
    "method of an object": lambda m: Holder(m).predict,
    "namespace": lambda m: (lambda held: lambda x: held.model(x))(
        types.SimpleNamespace(model=m)
    ),
    "equinox": Frozen,
    "wraps": wrapped,
    "recursive": recursive,
    "split by hand": by_hand,
    "functional": functional,
    "remat": rematerialised,
    "cond": chosen,
    "scan": unrolled,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_attribute_by_every_way(way):
    module = Everything(nnx.Rngs(0))
    before = state_of(module)
    model = j2o.compile(WAYS[way](module), [("B", 4)])
    is_unchanged(module, before)
    got = model(X)
    want = WAYS[way](Everything(nnx.Rngs(0)))(X)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    model.verify(X)
    is_unchanged(module, before)
    names = {i.name for i in model.to_proto().graph.initializer}
    paths = (
        "blocks/1/kernel",
        "heads/a/kernel",
        "scale",
        "hidden/kernel",
        "plain/inner/kernel",
    )
    for path in paths[:3] if way in ("split by hand", "functional") else paths:
        assert any(name == path or name.endswith("/" + path) for name in names), (
            path,
            names,
        )


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_that_fails_half_way_changes_nothing(way):
    class Failing(Everything):
        def __call__(self, x):
            x = super().__call__(x)
            self.rngs.params()
            self.hidden.kernel[...] = self.hidden.kernel * 2
            self.pool = None
            raise RuntimeError("half-way")

    module = Failing(nnx.Rngs(0))
    before = state_of(module)
    with pytest.raises(j2o.TraceError, match="half-way"):
        j2o.compile(WAYS[way](module), [("B", 4)])
    is_unchanged(module, before)


def test_a_module_that_nobody_can_copy_is_put_back():
    module = Everything(nnx.Rngs(0))
    before = state_of(module)
    # by nnx itself, which empties the module first
    refused = jax.jit(lambda x: nnx.jit(applied)(module, x))
    with pytest.raises(j2o.TraceError, match="different trace level"):
        j2o.compile(refused, [(3, 4)])
    is_unchanged(module, before)


def test_what_is_shared_stays_shared():
    class Shared(Everything):
        def __call__(self, x):
            self.hidden.kernel[...] = self.hidden.kernel * 2
            assert self.same is self.hidden
            assert self.bound.func is self.hidden
            assert self.method.__self__ is self.hidden
            return super().__call__(x)

    module = Shared(nnx.Rngs(0))
    before = state_of(module)
    model = j2o.compile(Holder(module).predict, [("B", 4)])
    model.verify(X)
    is_unchanged(module, before)
    np.testing.assert_allclose(model(X), Shared(nnx.Rngs(0))(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "way", ["jax.jit of a closure", "nnx.jit of a closure", "jax.jit of a module"]
)
def test_what_only_reads_may_be_compiled_by_others_before(way):
    module = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    before = state_of(module)
    fns = {
        "jax.jit of a closure": jax.jit(lambda x: module(x)),
        "nnx.jit of a closure": nnx.jit(lambda x: module(x)),
        "jax.jit of a module": jax.jit(module),
    }
    model = j2o.compile(fns[way], [("B", 4)])
    model.verify(X)
    is_unchanged(module, before)
    assert any(i.name.endswith("kernel") for i in model.to_proto().graph.initializer)


def test_state_as_an_argument():
    module = Everything(nnx.Rngs(0))
    graphdef, state = nnx.split(module)

    def call(state, x):
        return nnx.merge(graphdef, state)(x)

    model = j2o.compile(call, [j2o.weights(state), ("B", 4)])
    np.testing.assert_allclose(
        model(X), Everything(nnx.Rngs(0))(X), rtol=1e-5, atol=1e-5
    )
    assert any(
        i.name.startswith("hidden/kernel") for i in model.to_proto().graph.initializer
    )


def test_a_training_step_that_returns_its_state():
    import optax

    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    before = state_of((model, optimizer))

    @nnx.jit
    def step(model, optimizer, x, y):
        loss, grads = nnx.value_and_grad(lambda m: ((m(x) - y) ** 2).mean())(model)
        optimizer.update(model, grads)
        return loss

    def call(x, y):
        return step(model, optimizer, x, y), nnx.to_pure_dict(nnx.state(model))

    compiled = j2o.compile(call, [(3, 4), (3, 2)])
    compiled.verify(X, np.ones((3, 2), np.float32))
    is_unchanged((model, optimizer), before)


# --------------------------------------------------------------------- other frameworks


class Tower(eqx.Module):
    first: eqx.nn.Linear
    same: eqx.nn.Linear
    rest: list
    act: object = eqx.field(static=True)
    scale: float = 2.0

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = self.same = eqx.nn.Linear(4, 4, key=keys[0])
        self.rest = [eqx.nn.Linear(4, 4, key=k) for k in keys[1:]]
        self.act = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)

    def __call__(self, x):
        for layer in (self.first, self.same, *self.rest):
            x = self.act(layer(x))
        return x * self.scale


@pytest.mark.parametrize(
    "way",
    [
        jax.vmap,
        eqx.filter_vmap,
        lambda m: lambda x: jax.vmap(m)(x),
        lambda m: functools.partial(jax.vmap(lambda m, x: m(x), (None, 0)), m),
        lambda m: jax.jit(jax.vmap(m)),
        lambda m: eqx.filter_jit(lambda x: eqx.filter_vmap(m)(x)),
    ],
)
def test_equinox(way):
    model = j2o.compile(way(Tower(jax.random.key(0))), [("B", 4)], name="tower")
    model.verify(X)
    names = {i.name for i in model.to_proto().graph.initializer}
    assert any(name.endswith("first/weight") for name in names), names
    assert any(name.endswith("rest/1/bias") for name in names), names


class Count(eqx.Module):
    index: eqx.nn.StateIndex

    def __init__(self):
        self.index = eqx.nn.StateIndex(jnp.zeros(()))

    def __call__(self, x, state):
        calls = state.get(self.index) + 1
        return x + calls, state.set(self.index, calls)


def test_a_state_of_equinox_is_not_used_up():
    count, state = eqx.nn.make_with_state(Count)()
    model = j2o.compile(lambda x: count(x, state)[0], [("B",)])
    for _ in range(2):
        model.verify(np.zeros(3, np.float32))
    assert state.get(count.index) == 0
    np.testing.assert_array_equal(count(jnp.zeros(3), state)[0], 1)


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        count = self.variable("calls", "count", lambda: jnp.zeros(()))
        if self.is_mutable_collection("calls"):
            count.value = count.value + 1
        return linen.Dense(4)(x) + count.value


LINEN = {
    "bound": lambda m, v: m.bind(v),
    "method": lambda m, v: m.bind(v).__call__,
    "partial": lambda m, v: functools.partial(m.apply, v),
    "closure": lambda m, v: lambda x: m.apply(v, x),
    "mutable": lambda m, v: lambda x: m.apply(v, x, mutable=["calls"]),
    "jit": lambda m, v: functools.partial(jax.jit(m.apply), v),
}


@pytest.mark.parametrize("way", LINEN)
def test_linen(way):
    module = Dense()
    variables = module.init(jax.random.key(0), X)
    before = jax.tree.map(np.array, variables)
    model = j2o.compile(LINEN[way](module, variables), [("B", 4)], name="dense")
    model.verify(X)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    names = {i.name for i in model.to_proto().graph.initializer}
    assert any(name.endswith("params/Dense_0/kernel") for name in names), names
    if way in ("bound", "method"):
        assert "params/Dense_0/kernel" in names


# ------------------------------------------------------------------------ training mode


class Trained(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.drop(self.first(x)))


def step_on(module):
    return lambda x: (module(x), nnx.state(module))


def step_with_rngs(module):
    module.norm.eval()

    def call(x, data):
        rngs = nnx.Rngs(dropout=jax.random.wrap_key_data(data))
        return module.drop(module.first(x), rngs=rngs)

    return call


class Sampler(nnx.Module):
    def __init__(self, rngs):
        self.rngs = rngs

    def __call__(self, x):
        return x + jax.random.normal(self.rngs.noise(), (4,))


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, training=False):
        return linen.Dropout(0.5, deterministic=not training)(linen.Dense(4)(x))


def linen_net(**options):
    variables = Net().init(jax.random.key(0), X)
    return functools.partial(Net().apply, variables, **options)


# what the warning says; None where there is none
MODES = {
    "nnx": (
        lambda: Trained(nnx.Rngs(0)),
        ["drop (Dropout), norm (BatchNorm)", ".eval()"],
    ),
    "nnx in nnx.jit": (
        lambda: functools.partial(nnx.jit(applied), Trained(nnx.Rngs(0))),
        ["drop (Dropout)", ".eval()"],
    ),
    "nnx split": (
        lambda: by_hand(Trained(nnx.Rngs(0))),
        ["drop/rngs/count", ".eval()"],
    ),
    "sampler": (
        lambda: Sampler(nnx.Rngs(0)),
        ["random state that the function holds: Sampler", "argument"],
    ),
    "linen": (
        lambda: linen_net(training=True, rngs={"dropout": jax.random.key(0)}),
        ["training=True"],
    ),
    "equinox": (
        lambda: functools.partial(eqx.nn.Dropout(0.5), key=jax.random.key(0)),
        ["Dropout", "inference_mode"],
    ),
    "nnx eval": (
        lambda: nnx.view(
            Trained(nnx.Rngs(0)), deterministic=True, use_running_average=True
        ),
        None,
    ),
    "nnx state returned": (lambda: step_on(Trained(nnx.Rngs(0))), None),
    "nnx rngs given": (lambda: step_with_rngs(Trained(nnx.Rngs(0))), None),
    "linen eval": (lambda: linen_net(training=False), None),
    "linen key given": (
        lambda: (
            lambda x, k: linen_net(
                training=True, rngs={"dropout": jax.random.wrap_key_data(k)}
            )(x)
        ),
        None,
    ),
    "equinox inference": (lambda: eqx.nn.inference_mode(eqx.nn.Dropout(0.5)), None),
    "equinox key given": (
        lambda: lambda x, k: eqx.nn.Dropout(0.5)(x, key=jax.random.wrap_key_data(k)),
        None,
    ),
    "equinox with nothing to drop": (
        lambda: functools.partial(eqx.nn.Dropout(0.0), key=jax.random.key(0)),
        None,
    ),
    "numbers of no module": (
        lambda: lambda x: x + jax.random.normal(jax.random.key(0), (4,)),
        None,
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_what_is_in_training_is_told(name):
    make, words = MODES[name]
    fn = make()
    specs = [("B", 4), "u32[2]"] if "given" in name else [("B", 4)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = j2o.compile(fn, specs, name="model")
    told = [str(w.message) for w in caught if issubclass(w.category, j2o.J2OWarning)]
    assert told == model.report.warnings
    assert bool(told) == bool(words), told
    for word in words or ():
        assert word in "; ".join(told)
        assert word in str(model.report)
    assert not any("\n" in text for text in told)


def test_tracers_do_not_stay_behind():
    class Careless:
        def __init__(self):
            self.last, self.count, self.cache, self.log = None, 0, {}, []

        def __call__(self, x):
            self.count += 1
            self.last, self.extra = x, [x]
            self.cache["x"] = x
            self.log += ["seen", x]
            return x + 1

    careless = Careless()
    j2o.compile(careless, [("B",)])
    assert vars(careless) == {"last": None, "count": 1, "cache": {}, "log": []}


def test_keras():
    keras = pytest.importorskip("keras")
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(3, name="dense"),
        keras.layers.Dropout(0.5, name="drop"),
    ]
    net = keras.Sequential(
        [*layers, keras.layers.BatchNormalization(name="norm")], name="net"
    )
    model = j2o.compile(net, [("B", 4)], name="net")
    model.verify(X)
    assert "net/dense/kernel" in {i.name for i in model.to_proto().graph.initializer}
    before = [np.asarray(v.value) for v in net.variables]
    with pytest.warns(j2o.J2OWarning, match="net/norm.*training=False"):
        trained = j2o.compile(lambda x: net(x, training=True), [("B", 4)])
    for variable, value in zip(net.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value)
    net(X, training=True)  # the next call draws other numbers
    with pytest.raises(j2o.VerificationError, match="called again"):
        trained.verify(X)


def test_a_keras_model_without_weights_is_refused_before_a_trace_makes_them():
    keras = pytest.importorskip("keras")

    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    late = Late()
    for fn in (late, lambda x: late(x) * 2, keras.layers.Dense(3)):
        with pytest.raises(j2o.SpecError, match=r"has no weights yet; call it once"):
            j2o.compile(fn, [("B", 8)])
    x = np.ones((2, 8), np.float32)
    late(x)
    j2o.compile(late, [("B", 8)]).verify(x)
    j2o.compile(keras.layers.Flatten(), [("B", 2, 4)])  # makes none
