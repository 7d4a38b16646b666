"""Several threads, interrupts, and JAX's settings.

Results are right, and all of the process's state is as it was before.
"""

import contextlib
import gc
import inspect
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from j2o.collector import CollectorPaused
from j2o.frontend.versions import enable_x64
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.marks import is_marking

PACKAGE = os.path.dirname(j2o.__file__) + os.sep
WEIGHTS = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)


@j2o.function
def block(x):
    return jax.nn.gelu(x @ WEIGHTS) + x


def network(x):
    def step(carry, row):
        return carry + row, jnp.tanh(carry)

    x = block(block(x))
    total, rows = jax.lax.scan(step, x[0], x)
    return jax.nn.softmax(rows, axis=-1), jnp.linalg.norm(total), jnp.sort(x, axis=-1)


def sampled(x):
    key = jax.random.key(0)
    return jnp.where(x > 0, jax.random.normal(key, x.shape), jnp.cumsum(x, axis=0))


PROGRAMS = [
    (network, ["f32[6,8]"]),
    (sampled, ["f32[6,8]"]),
    (lambda x: block(x).sum(0), ["f32[B,8]"]),
]
X = np.linspace(-2, 2, 48, dtype=np.float32).reshape(6, 8)


def compiled(program):
    fn, specs = program
    return j2o.compile(fn, specs).to_proto().SerializeToString(deterministic=True)


def settings():
    """All that compiling might leave changed in this process."""
    # those of this thread
    jax_settings = {name: getattr(jax.config, name, None) for name in jax.config.values}
    return (
        gc.isenabled(),
        jax_settings,
        is_marking(),
        jax.dtypes.canonicalize_dtype(np.float64),
    )


# ------------------------------------------------------------------------------ threads


def test_threads_compile_what_one_alone_compiles():
    before = settings()
    alone = [compiled(program) for program in PROGRAMS]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(compiled, PROGRAMS * 4))
    assert found == alone * 4
    assert settings() == before


def test_threads_with_settings_of_their_own():
    def wide(x):
        return x * 2

    def in_64_bits(_):
        with enable_x64(True):
            return j2o.compile(wide, ["f64[B]"]).graph.inputs[0].type.dtype.value

    def in_32_bits(_):
        return j2o.compile(wide, ["f32[B]"]).graph.inputs[0].type.dtype.value

    with ThreadPoolExecutor(4) as pool:
        both = [pool.submit(fn, i) for i in range(6) for fn in (in_64_bits, in_32_bits)]
        assert [job.result() for job in both] == ["f64", "f32"] * 6


def test_a_model_runs_in_several_threads():
    model = j2o.compile(*PROGRAMS[0])
    want = [np.asarray(out) for out in model(X)]
    # its session is made by whichever thread comes first
    fresh = j2o.compile(*PROGRAMS[0])
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: fresh(X), range(24)):
            for a, b in zip(found, want, strict=True):
                np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------- collector


def test_the_collector_is_on_again_when_the_last_pause_ends():
    one, two = CollectorPaused(), CollectorPaused()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert not gc.isenabled()
    two.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        compiled(PROGRAMS[2])
        with pytest.raises(j2o.TraceError):
            j2o.compile(lambda x: 1 / 0, [(2,)])
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_errors_in_some_threads_leave_the_collector_on():
    def fails(x):
        time.sleep(0.01)
        raise ValueError

    def attempt(i):
        if i % 2:
            return compiled(PROGRAMS[2])
        with contextlib.suppress(j2o.TraceError):
            j2o.compile(fails, [(2,)])
        return None

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, range(12)))
    assert gc.isenabled()


def found_by_the_collector(fn):
    """What of the IR only the collector finds once a function is compiled, its model aside."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what it finds stays in `gc.garbage`
    try:
        model = j2o.compile(fn, [(3, 4)])
        gc.collect()
        found = [x for x in gc.garbage if isinstance(x, Node | Value | Graph)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert model.graph.outputs
    return found


@pytest.mark.parametrize(
    "fn",
    [
        jax.jit(lambda x: jax.nn.relu(x) * 2),
        lambda x: jax.lax.scan(lambda c, row: (c + row, c), x[0], x[:1]),
        lambda x: jax.lax.while_loop(lambda c: jnp.all(c < 9), lambda c: c * 2 + 1, x),
        lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    ],
    ids=["jit", "scan", "while", "decomposition"],
)
def test_what_a_compile_throws_away_is_gone_without_the_collector(fn):
    assert found_by_the_collector(fn) == []


# --------------------------------------------------------------------------- interrupts


class Interrupt:
    """As if somebody pressed Ctrl-C at the call number `at` of a function of j2o; `calls` counts them.

    Generators are left out: Python itself swallows what is raised while it closes one.
    """

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self, frame, event, _):
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(PACKAGE)
            and not code.co_flags & inspect.CO_GENERATOR
        ):
            self.calls += 1
            if self.calls == self.at:
                raise KeyboardInterrupt


def interrupted(program, at):
    interrupt = Interrupt(at)
    sys.setprofile(interrupt)
    try:
        compiled(program)
    finally:
        sys.setprofile(None)
    return interrupt.calls


def test_an_interrupt_leaves_everything_as_it_was():
    want = [compiled(program) for program in PROGRAMS]
    before = settings()
    count = interrupted(PROGRAMS[0], 0)
    # around the end of the pause of the collector
    last = [count - i for i in range(1, 20)]
    for at in [*range(1, 20), *range(20, count, count // 40), *last]:
        with contextlib.suppress(KeyboardInterrupt):
            interrupted(PROGRAMS[0], at)
        assert settings() == before
    assert [compiled(program) for program in PROGRAMS] == want


# ----------------------------------------------------------------------------- settings

SETTINGS = {
    "disable_jit": lambda: jax.disable_jit(),
    "enable_x64": lambda: enable_x64(True),
    "strict_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "check_tracer_leaks": lambda: jax.checking_leaks(),
    "matmul_precision": lambda: jax.default_matmul_precision("float32"),
    "no_transfer": lambda: jax.transfer_guard("disallow"),
    "other_keys": lambda: jax.default_prng_impl("rbg"),
}


def careful(x):
    """A program that all settings allow; it folds infinities and NaN, which are none of its results."""
    limit = jnp.full(x.shape, jnp.float32(jnp.inf))
    scores = jnp.where(x > 0, x, -limit)
    return (
        jax.nn.softmax(scores, axis=-1),
        jnp.linalg.cholesky(x @ x.T + 9 * jnp.eye(6, dtype=x.dtype)),
        jnp.tanh(x),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_jax_neither_change_nor_matter(name):
    want = jax.jit(careful)(X)
    outside = settings()
    with SETTINGS[name]():
        before = settings()
        model = j2o.compile(careful, ["f32[6,8]"])
        assert settings() == before
    assert settings() == outside
    for found, wanted in zip(model(X), want, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
