"""Options and fixtures of the test-suite, and the tests that older versions of JAX and Flax cannot pass."""

import os
import sys

import flax
import jax
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports keras

# A test, or a test and its case: the first version that gives what the test needs. Before it JAX has no such
# function or argument, another result, jaxpr or message; Flax does not let a copy be written to in a trace.
JAX = {
    "test_an_ffi_call_that_has_no_rule": (0, 8),
    "test_a_kernel_as_an_operator_of_another_domain": (0, 8),
    "test_integers_wrap[int2]": (0, 8),
    "test_integers_wrap[uint2]": (0, 8),
    "test_programs[references]": (0, 8),
    "test_programs[references_in_jit]": (0, 8),
    "test_programs[references_mapped]": (0, 10, 2),
    "test_programs[gradient_through_references]": (0, 8),
    "test_integers_that_an_8_bit_float_cannot_hold": (0, 10),
    "test_fewer_bits_of_precision": (0, 10),
    "test_products_in_another_dtype": (0, 10),
    "test_real_matrices[qr_multiply]": (0, 10),
    "test_real_matrices[reflections]": (0, 10),
    "test_singular_tridiagonal_systems": (0, 10),
    "test_golden[components-components]": (0, 10, 2),
    "test_a_list_of_names_that_is_taken_for_a_shape_is_told": (0, 10),
    "test_top_k_axis_and_symbolic_k": (0, 10),
    "test_layer_normalization_is_as_exact_as_jax_where_the_mean_is_large": (0, 10),
    "test_what_differs_is_bounded[elementary-functions]": (0, 10, 2),
    "test_edges[halves]": (0, 10),
    "test_what_would_settle_it[fixed]": (0, 10),
    "test_chains_fold_and_leave_no_nodes[flip and stride]": (0, 10),
}
FLAX = {
    "test_every_attribute_by_every_way[argument of nnx.jit]": (0, 12, 8),
    "test_every_attribute_by_every_way[nnx.jit in a closure]": (0, 12, 8),
    "test_every_attribute_by_every_way[cond]": (0, 12, 8),
    "test_every_attribute_by_every_way[remat]": (0, 12, 8),
    "test_every_attribute_by_every_way[scan]": (0, 12, 8),
    "test_a_trace_that_fails_half_way_changes_nothing": (0, 12, 8),
    "test_what_is_in_training_is_told[sampler]": (0, 12, 8),
    "test_what_is_in_training_is_told[nnx eval]": (0, 12, 8),
}


def pytest_addoption(parser):
    parser.addoption(
        "--update", action="store_true", help="write what passes give into tests/golden"
    )


def pytest_collection_modifyitems(items):
    found = tuple(map(int, flax.__version__.split(".")[:3]))
    for item in items:
        skip_before(item, "JAX", JAX, jax.__version_info__)
        skip_before(item, "Flax", FLAX, found)


def skip_before(item, package, table, found):
    """Skip a test that needs a newer version of a package than the one that is installed."""
    test = item.name.split("[")[0]
    needed = table.get(item.name) or table.get(test)
    if needed is not None and found < needed:
        version = ".".join(map(str, needed))
        item.add_marker(pytest.mark.skip(reason=f"needs {package} {version}"))


@pytest.fixture
def imports_as_before(monkeypatch):
    """The command line imports programs of files anew, and leaves the search path as it was."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [n for n in sys.modules if n.startswith("j2o_program_")]:
        monkeypatch.delitem(sys.modules, name)
