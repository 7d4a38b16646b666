"""Programs of lineax, optimistix and diffrax against JAX.

They run in 64-bit mode: solvers amplify the last bits of float32. Their loops must come out right: how
many steps they take, where they stop early, and what they say of the result.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from j2o.frontend.versions import enable_x64
from tests import harness

eqx = pytest.importorskip("equinox")
lx = pytest.importorskip("lineax")
optx = pytest.importorskip("optimistix")
dfx = pytest.importorskip("diffrax")
pytestmark = pytest.mark.filterwarnings("ignore")

agrees = functools.partial(harness.agrees, rtol=1e-6, atol=1e-9)
RANDOM = np.random.default_rng(0)
SQUARE = RANDOM.normal(size=(4, 4)) + 4 * np.eye(4)
DEFINITE = SQUARE @ SQUARE.T
TALL = RANDOM.normal(size=(6, 4))
SIDE, TALL_SIDE = RANDOM.normal(size=4), RANDOM.normal(size=6)
SIDES = np.stack([SIDE, 2 * SIDE, -SIDE])


@pytest.fixture(autouse=True)
def in_64_bits():
    with enable_x64(True):
        yield


# ------------------------------------------------------------------------------- lineax


def solved(operator, solver):
    def fn(matrix, side):
        solution = lx.linear_solve(operator(matrix), side, solver, throw=False)
        return solution.value, solution.result == lx.RESULTS.successful

    return fn


def definite(matrix):
    return lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)


def triangular(matrix):
    return lx.MatrixLinearOperator(jnp.tril(matrix), lx.lower_triangular_tag)


def diagonal(matrix):
    return lx.DiagonalLinearOperator(jnp.diag(matrix))


def tridiagonal(matrix):
    main = jnp.diag(matrix)
    return lx.TridiagonalLinearOperator(main + 5, main[:-1], main[1:])


def jacobian(matrix):
    return lx.JacobianLinearOperator(lambda x, _: matrix @ x + jnp.tanh(x), jnp.ones(4))


def function(matrix):
    return lx.FunctionLinearOperator(
        lambda x: matrix @ x, jax.ShapeDtypeStruct((4,), matrix.dtype)
    )


LINEAR = {
    "lu": (lx.MatrixLinearOperator, lx.LU(), SQUARE, SIDE),
    "auto": (
        lx.MatrixLinearOperator,
        lx.AutoLinearSolver(well_posed=True),
        SQUARE,
        SIDE,
    ),
    "auto_least_squares": (
        lx.MatrixLinearOperator,
        lx.AutoLinearSolver(well_posed=False),
        TALL,
        TALL_SIDE,
    ),
    "qr": (lx.MatrixLinearOperator, lx.QR(), TALL, TALL_SIDE),
    "svd": (lx.MatrixLinearOperator, lx.SVD(), TALL, TALL_SIDE),
    "cholesky": (definite, lx.Cholesky(), DEFINITE, SIDE),
    "cg": (definite, lx.CG(1e-8, 1e-8), DEFINITE, SIDE),
    "gmres": (lx.MatrixLinearOperator, lx.GMRES(1e-8, 1e-8), SQUARE, SIDE),
    "diagonal": (diagonal, lx.AutoLinearSolver(well_posed=True), SQUARE, SIDE),
    "triangular": (triangular, lx.AutoLinearSolver(well_posed=True), SQUARE, SIDE),
    "tridiagonal": (tridiagonal, lx.AutoLinearSolver(well_posed=True), SQUARE, SIDE),
    "jacobian": (jacobian, lx.LU(), SQUARE, SIDE),
    "function": (function, lx.GMRES(1e-8, 1e-8), SQUARE, SIDE),
    "singular": (lx.MatrixLinearOperator, lx.LU(), np.zeros((4, 4)), SIDE),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_solvers(name):
    operator, solver, matrix, side = LINEAR[name]
    agrees(solved(operator, solver), [matrix, side])


def test_linear_solve_of_pytrees():
    def fn(matrix, side):
        parts = {
            "x": {"x": matrix[:2, :2], "y": matrix[:2, 2:]},
            "y": {"x": matrix[2:, :2], "y": matrix[2:, 2:]},
        }
        structure = jax.eval_shape(lambda: {"x": side[:2], "y": side[2:]})
        operator = lx.PyTreeLinearOperator(parts, structure)
        return lx.linear_solve(operator, {"x": side[:2], "y": side[2:]}).value

    agrees(fn, [SQUARE, SIDE])


def solve_rows(matrix, sides):
    operator = lx.MatrixLinearOperator(matrix)
    return jax.vmap(lambda side: lx.linear_solve(operator, side, lx.LU()).value)(sides)


def test_gradient_and_vmap_of_a_linear_solve():
    agrees(
        jax.grad(lambda matrix, side: solve_rows(matrix, side[None]).sum()),
        [SQUARE, SIDE],
    )
    agrees(solve_rows, [SQUARE, SIDES], ["f64[4,4]", "f64[B,4]"])


def test_a_linear_solve_that_fails_is_refused_where_checks_are_asked_for():
    def fn(matrix, side):
        return lx.linear_solve(lx.MatrixLinearOperator(matrix), side, lx.LU()).value

    model = j2o.compile(fn, [SQUARE, SIDE], checks=True)
    np.testing.assert_allclose(model(SQUARE, SIDE), np.linalg.solve(SQUARE, SIDE))
    with pytest.raises(j2o.CheckError, match="linear solver"):
        model(np.zeros((4, 4)), SIDE)
    assert "linear solver" in str(j2o.compile(fn, [SQUARE, SIDE]).report)


# --------------------------------------------------------------------------- optimistix


def residual(y, matrix):
    return matrix @ y + jnp.tanh(y) - 1


def rosenbrock(y, _):
    return (1 - y[0]) ** 2 + 10 * (y[1] - y[0] ** 2) ** 2


def fit(y, x):
    return jnp.exp(-y[0] * x) + y[1] * x - jnp.exp(-1.5 * x) + 0.3 * x


def stated(solution):
    return (
        solution.value,
        solution.stats["num_steps"],
        solution.result == optx.RESULTS.successful,
    )


def root(solver):
    return lambda matrix, start: stated(
        optx.root_find(residual, solver, start, matrix, throw=False)
    )


def fitted(solver):
    return lambda start, x: stated(
        optx.least_squares(fit, solver, start, x, throw=False)
    )


def minimum(solver):
    return lambda start: stated(
        optx.minimise(rosenbrock, solver, start, max_steps=512, throw=False)
    )


START, POINTS = np.array([0.5, 0.3]), np.linspace(0, 2, 8)
OPTIMISERS = {
    "newton": (root(optx.Newton(1e-8, 1e-8)), [SQUARE, SIDE]),
    "chord": (root(optx.Chord(1e-8, 1e-8)), [SQUARE, SIDE]),
    "dogleg": (root(optx.Dogleg(1e-8, 1e-8)), [SQUARE, SIDE]),
    "levenberg_marquardt": (
        fitted(optx.LevenbergMarquardt(1e-8, 1e-8)),
        [START, POINTS],
    ),
    "gauss_newton": (fitted(optx.GaussNewton(1e-8, 1e-8)), [START, POINTS]),
    "bfgs": (minimum(optx.BFGS(1e-6, 1e-6)), [START]),
    "nelder_mead": (minimum(optx.NelderMead(1e-4, 1e-4)), [START]),
    "too_few_steps": (
        lambda start: stated(
            optx.minimise(
                rosenbrock, optx.BFGS(1e-6, 1e-6), start, max_steps=3, throw=False
            )
        ),
        [START],
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers(name):
    fn, args = OPTIMISERS[name]
    agrees(fn, args)


def test_fixed_points_of_symbolic_size():
    def fn(x):
        solver = optx.FixedPointIteration(1e-8, 1e-8)
        return optx.fixed_point(
            lambda y, c: jnp.cos(y) * c, solver, jnp.full_like(x, 0.5), x
        ).value

    agrees(fn, [START], ["f64[N]"])


def test_gradient_through_a_root_and_roots_of_rows():
    newton = optx.Newton(1e-8, 1e-8)

    def roots(matrix, starts):
        return jax.vmap(
            lambda start: optx.root_find(residual, newton, start, matrix).value
        )(starts)

    agrees(
        jax.grad(lambda matrix, start: roots(matrix, start[None]).sum()), [SQUARE, SIDE]
    )
    agrees(roots, [SQUARE, SIDES], ["f64[4,4]", "f64[B,4]"])


# ------------------------------------------------------------------------------ diffrax


def field(t, y, rate):
    return -y * rate + jnp.sin(t)


STATE, RATE = np.array([1.0, 2.0]), np.array([0.5, 1.5])
PID = dfx.PIDController(1e-3, 1e-5)


def solve(solver, **options):
    def fn(y, rate):
        found = dfx.diffeqsolve(
            dfx.ODETerm(field), solver, 0.0, 1.0, 0.1, y, args=rate, **options
        )
        return (
            found.ts,
            found.ys,
            found.stats["num_steps"],
            found.stats["num_rejected_steps"],
        )

    return fn


def dense(y, rate):
    save = dfx.SaveAt(dense=True)
    found = dfx.diffeqsolve(
        dfx.ODETerm(field),
        dfx.Tsit5(),
        0.0,
        1.0,
        0.1,
        y,
        args=rate,
        saveat=save,
        max_steps=32,
    )
    return jax.vmap(found.evaluate)(jnp.linspace(0, 1, 7))


def until(y, rate):
    """Stops in the middle, where the first coordinate has fallen below a value."""
    event = dfx.Event(lambda t, y, args, **_: y[0] < 0.4)
    term = dfx.ODETerm(lambda t, y, rate: -rate * y)
    found = dfx.diffeqsolve(
        term, dfx.Tsit5(), 0.0, jnp.inf, 0.1, y, args=rate, event=event
    )
    return found.ys, found.ts


def stochastic(y, key):
    motion = dfx.VirtualBrownianTree(0.0, 1.0, tol=1e-2, shape=(2,), key=key)
    noise = dfx.ControlTerm(
        lambda t, y, args: lx.DiagonalLinearOperator(0.1 * y), motion
    )
    terms = dfx.MultiTerm(dfx.ODETerm(lambda t, y, args: -y), noise)
    return dfx.diffeqsolve(terms, dfx.EulerHeun(), 0.0, 1.0, 0.1, y).ys


def controlled(values):
    times = jnp.linspace(0, 1, 5)
    path = dfx.CubicInterpolation(
        times, dfx.backward_hermite_coefficients(times, values)
    )
    term = dfx.ControlTerm(lambda t, y, args: jnp.outer(y, jnp.ones(2)), path).to_ode()
    return dfx.diffeqsolve(
        term, dfx.Tsit5(), 0.0, 1.0, None, jnp.ones(2), stepsize_controller=PID
    ).ys


EQUATIONS = {
    "euler": (solve(dfx.Euler()), [STATE, RATE]),
    "heun_adaptive": (solve(dfx.Heun(), stepsize_controller=PID), [STATE, RATE]),
    "tsit5": (solve(dfx.Tsit5()), [STATE, RATE]),
    "dopri5_adaptive": (solve(dfx.Dopri5(), stepsize_controller=PID), [STATE, RATE]),
    "kvaerno5_adaptive": (
        solve(dfx.Kvaerno5(), stepsize_controller=PID),
        [STATE, RATE],
    ),
    "at_times": (
        solve(
            dfx.Tsit5(),
            saveat=dfx.SaveAt(ts=jnp.linspace(0, 1, 5)),
            stepsize_controller=PID,
        ),
        [STATE, RATE],
    ),
    "steps": (
        solve(
            dfx.Tsit5(),
            saveat=dfx.SaveAt(steps=True),
            stepsize_controller=PID,
            max_steps=16,
        ),
        [STATE, RATE],
    ),
    "forward_mode": (
        solve(
            dfx.Tsit5(),
            adjoint=dfx.DirectAdjoint(),
            stepsize_controller=PID,
            max_steps=16,
        ),
        [STATE, RATE],
    ),
    "dense": (dense, [STATE, RATE]),
    "event": (until, [STATE, RATE]),
    "stochastic": (stochastic, [STATE, np.array([0, 3], np.uint32)]),
    "controlled": (controlled, [RANDOM.normal(size=(5, 2))]),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_differential_equations(name):
    fn, args = EQUATIONS[name]
    agrees(fn, args)


class Field(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, t, y, args):
        return self.mlp(y)


ADJOINTS = {
    "checkpoints": dfx.RecursiveCheckpointAdjoint(),
    "backwards_in_time": dfx.BacksolveAdjoint(),
}


def neural(y, adjoint=ADJOINTS["checkpoints"], model=None):
    model = model or Field(eqx.nn.MLP(2, 2, 8, 2, key=jax.random.key(1)))
    options = {"adjoint": adjoint, "stepsize_controller": PID, "max_steps": 16}
    return dfx.diffeqsolve(
        dfx.ODETerm(model), dfx.Bosh3(), 0.0, 1.0, 0.25, y, **options
    ).ys


@pytest.mark.parametrize("name", ADJOINTS)
def test_gradients_through_a_neural_equation(name):
    def fn(y):
        model = Field(eqx.nn.MLP(2, 2, 8, 2, key=jax.random.key(1)))
        return (
            eqx.filter_grad(lambda m: neural(y, ADJOINTS[name], m).sum())(model)
            .mlp.layers[0]
            .weight
        )

    agrees(fn, [STATE])


def test_a_neural_equation_of_rows():
    """Each row has steps of its own; the loop ends when all have."""
    agrees(jax.vmap(neural), [np.stack([STATE, 3 * STATE, -STATE])], ["f64[B,2]"])
