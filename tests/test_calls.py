"""What `compile` and its neighbours take, and how they refuse the rest: one line that names the argument."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from j2o.arguments import name_of
from j2o.frontend.versions import enable_x64
from tests.harness import stable_id


def plus_one(x):
    return x + 1


def refused(error, *words):
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message, message


# ------------------------------------------------------------------------------ options

BAD_OPTIONS = [
    ("opt_level", True),
    ("opt_level", 2.0),
    ("opt_level", None),
    ("opt_level", [1]),
    ("opt_level", np.bool_(True)),
    ("opset", [20]),
    ("opset", {}),
    ("opset", 20.0),
    ("opset", True),
    ("opset", 17),
    ("input_names", 5),
    ("input_names", {"x": "a"}),
    ("input_names", {"a"}),
    ("input_names", b"a"),
    ("input_names", [None]),
    ("input_names", ["a\0"]),
    ("input_names", ["a\nb"]),
    ("output_names", ["\udc80"]),
    ("output_names", 5),
    ("output_names", []),
    ("constraints", None),
    ("constraints", 5),
    ("constraints", [5]),
    ("constraints", ["B"]),
    ("constraints", ["B < 3"]),
    ("constraints", ["1 <= B <= 3"]),
    ("constraints", ["B >= mod(B, 0)"]),
    ("constraints", ["9**9**9 <= B"]),
    ("checks", "yes"),
    ("checks", 1),
    ("checks", None),
    ("inputs_as_nchw", 0),
    ("inputs_as_nchw", None),
    ("inputs_as_nchw", "x"),
    ("inputs_as_nchw", [True]),
    ("outputs_as_nchw", 5),
    ("outputs_as_nchw", [1.0]),
    ("weights_dtype", jnp.int8),
    ("weights_dtype", ["int8"]),
    ("weights_dtype", np.zeros(2)),
    ("name", 5),
    ("name", ""),
    ("name", b"x"),
    ("name", "a\n"),
    ("name", "\udc80"),
    ("passes", lambda: 5),
    ("target", 5),
]


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS, ids=stable_id)
def test_an_option_that_does_not_fit_is_named(option, value):
    def never_traced(x):
        raise AssertionError("options are looked at first")

    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(
            never_traced if option != "output_names" else plus_one,
            ["f32[B,2]"],
            **{option: value},
        )
    refused(error, option)


@pytest.mark.parametrize(
    "constraints",
    [
        ["B <= 0"],
        ["B == 0"],
        ["B >= 5", "B <= 3"],
        ["B == 5", "B == 6"],
        ["C <= B", "B <= C - 1"],
        ["mod(B, 2) == 0", "B == 3"],
        ["B == 2*B"],
    ],
)
def test_constraints_that_no_sizes_fulfil(constraints):
    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(plus_one, ["f32[B,C]"], constraints=constraints)
    refused(error, "constraints")


@pytest.mark.parametrize(
    "constraints",
    [
        ["B == B"],
        ["B >= 5", "B <= 5"],
        ["mod(B, 2) == 0", "B >= 3"],
        ["B >= 2^3"],
        ["B<=2*C"],
    ],
)
def test_constraints_that_some_sizes_fulfil(constraints):
    assert j2o.compile(
        plus_one, ["f32[B,C]"], constraints=constraints
    ).graph.root.dims.constraints == tuple(constraints)


@pytest.mark.parametrize("idle", ["B >= 0", "B >= 1", "0 <= B", "B + C >= 2"])
def test_a_bound_that_always_holds_is_told(idle):
    with pytest.warns(j2o.J2OWarning) as caught:
        model = j2o.compile(plus_one, ["f32[B,C]"], constraints=["B <= 9", idle])
    message = f"constraints[1]: '{idle}' always holds: a size is at least 1"
    assert [str(one.message) for one in caught] == [message]
    assert model.report.warnings == [message]


def test_an_unknown_argument_is_a_type_error_of_compile_itself():
    with pytest.raises(TypeError, match="compile") as error:
        j2o.compile(plus_one, [(2,)], bogus=1)
    assert len(error.traceback) == 1


def test_sensible_values_of_other_types_pass():
    model = j2o.compile(
        plus_one,
        ((np.int64(1), "H", np.int32(4), 3),),
        opt_level=np.int64(1),
        opset=np.int32(21),
        input_names=(name for name in ["image"]),
        output_names=("result",),
        constraints=(text for text in ["H <= 9"]),
        checks=np.bool_(False),
        inputs_as_nchw=(np.int64(0),),
        outputs_as_nchw=iter(["result"]),
        name="my net",
    )
    assert (model.input_names, model.output_names, model.opset, model.name) == (
        ["image"],
        ["result"],
        21,
        "my_net",
    )
    with pytest.raises(j2o.DimensionError, match="H <= 9"):
        model(np.ones((1, 10, 4, 3), np.float32))


def test_a_tensor_that_is_named_twice_is_permuted_once():
    model = j2o.compile(
        plus_one,
        [(1, 2, 3, 4)],
        inputs_as_nchw=["x", 0],
        outputs_as_nchw=[0, "output", 0],
    )
    shapes = [
        [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.to_proto().graph.input, *model.to_proto().graph.output)
    ]
    assert shapes == [[1, 4, 2, 3], [1, 4, 2, 3]]
    model.verify(np.ones((1, 2, 3, 4), np.float32))


# -------------------------------------------------------------------------------- specs

BAD_SPECS = [
    ([(2.5,)], "2.5 is no size"),
    ([(True, 2)], "True is no size"),
    ([("",)], "not one size"),
    ([("B,C", 2)], "'B,C' is not one size"),
    ([(2**63,)], "2**63"),
    (["f32[99999999999999999999]"], "2**63"),
    ([(2**40, 2**40)], "number of elements"),
    ([(0, 2**40, 2**40)], "number of elements"),
    (["f32[2**63*B]"], "2**63"),
    (["f32[2**70*B]"], "exponent"),
    ([(10**30,)], "2**63"),
    (["f32[9**9**9]"], "exponent"),
    (["f32[B**B]"], "exponent"),
    (["f32[max(B)]"], "max(B)"),
    (["f32[floordiv(B,0)]"], "zero"),
    ([jax.ShapeDtypeStruct((2**63,), np.float32)], "2**63"),
    ([jax.ShapeDtypeStruct((-1,), np.float32)], "negative"),
    ([jax.ShapeDtypeStruct(("B", 3), np.float32)], "symbolic_shape"),
    ([np.array(["a"])], "dtype"),
    ([np.array([object()])], "dtype"),
    ([np.zeros(2, "M8[s]")], "dtype"),
    ([np.zeros(2, "V4")], "dtype"),
    (["string[2]"], "no dtype 'string'"),
    ([np.float32], "no spec"),
    ([float], "no spec"),
    ([lambda: 3], "no spec"),
    ([b"f32[2]"], "no spec"),
    ([range(3)], "no spec"),
    ([{1: (2,), "a": (2,)}], "no pytree"),
    ([True], "j2o.static(True)"),
    (["relu["], "form"),
    (["f32[B" + "+B" * 3000 + "]"], "terms"),
    (("B", 784), "[('B', 784)]"),
    ((784,), "[(784,)]"),
    (["B", 784], "[('B', 784)]"),
    ([(("B", 784), "float32")], "'f32[B,784]'"),
    ([(("B", 784), np.float32)], "'f32[B,784]'"),
    ([[(3, 4), jnp.int32]], "'i32[3,4]'"),
    ({"x": (2,)}, "sequence"),
    (np.ones((2, 2)), "sequence"),
    (b"f32[2]", "sequence"),
    ((spec for spec in [(2,)]), "sequence"),
]


@pytest.mark.parametrize(
    ("specs", "words"), BAD_SPECS, ids=[words for _, words in BAD_SPECS]
)
def test_a_spec_that_does_not_fit_is_named(specs, words):
    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(plus_one, specs)
    refused(error, "spec", words)


def test_a_list_that_contains_itself():
    endless = [np.ones(2, np.float32)]
    endless.append(endless)
    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(plus_one, [endless])
    refused(error, "spec of 'x'", "contains itself")


GOOD_SPECS = [
    (["f32[é]"], (3,)),
    (["f32[\n2]"], (2,)),
    (["f32[0*B]"], (0,)),
    (["f32[2^3]"], (8,)),
    ([()], ()),
    (["f32"], ()),
    ([(np.int64(2), "2*B")], (2, 6)),
    ([np.zeros((2, 3), ">f4")], (2, 3)),
    ([jax.ShapeDtypeStruct((2,), np.float32)], (2,)),
    ([2.5], ()),
    ([np.float32(1)], ()),
]


@pytest.mark.parametrize(("specs", "shape"), GOOD_SPECS, ids=stable_id)
def test_specs_that_fit(specs, shape):
    x = np.ones(shape, np.float32)
    np.testing.assert_array_equal(j2o.compile(plus_one, specs)(x), x + 1)


def test_numpy_names_and_ours_say_the_same():
    assert (
        j2o.compile(plus_one, ["float32[2]"])._boundary.types
        == j2o.compile(plus_one, ["f32[2]"])._boundary.types
    )


def test_names_that_come_from_keys_of_dicts_can_be_printed():
    model = j2o.compile(
        lambda tree: {"out\n": tree["a\0b"] + tree["\udc80"]},
        [{"a\0b": (2,), "\udc80": (2,)}],
    )
    assert model.input_names == ["tree/a_b", "tree/_"]
    assert model.output_names == ["out_"]
    model.to_proto()


# ---------------------------------------------------------------------------- functions


class Net:
    def __call__(self, x):
        return x * 2

    def encode(self, x):
        return x * 3


def test_a_class_is_refused_and_an_instance_named():
    with pytest.raises(
        j2o.SpecError,
        match=re.escape(
            "fn: Net is a class; an instance of it, Net(…), can be compiled"
        ),
    ):
        j2o.compile(Net, [(2,)])
    j2o.compile(jnp.float32, ["i32[2]"])  # a class, too, but one that converts arrays


def test_a_coroutine_is_refused():
    async def later(x):
        return x

    with pytest.raises(j2o.SpecError, match="later is a coroutine"):
        j2o.compile(later, [(2,)])


def test_a_linen_module_without_variables_is_refused():
    linen = pytest.importorskip("flax.linen")
    module = linen.Dense(3)
    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(module, [("B", 2)])
    refused(error, "module.apply", "j2o.weights(variables)")
    variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
    x = np.ones((4, 2), np.float32)
    j2o.compile(module.apply, [j2o.weights(variables), ("B", 2)]).verify(x)
    j2o.compile(module.bind(variables), [("B", 2)]).verify(x)


def test_what_has_to_be_bound_is_told():
    def scaled(x, act, *, factor):
        return x * factor

    with pytest.raises(
        j2o.SpecError,
        match=re.escape("'factor' has no value; kwargs={'factor': …}"),
    ):
        j2o.compile(scaled, [(2,), (2,)])
    bound = functools.partial(scaled, factor=3)
    with pytest.raises(j2o.SpecError, match=re.escape("j2o.static('relu')")):
        j2o.compile(bound, [("B", 2), "relu"])
    with pytest.raises(j2o.SpecError, match=re.escape("j2o.static(False)")):
        j2o.compile(bound, [("B", 2), False])
    j2o.compile(functools.partial(bound, act="relu"), [("B", 2)]).verify(
        np.ones((2, 2), np.float32)
    )


# ------------------------------------------------------------------------------ keywords


def weighted(x, /, y, *rest, mask, scale=1.0):
    return (x + y) * mask * scale


BAD_KEYWORDS = [
    ([(2,)], 5, "kwargs=5: a mapping"),
    ([(2,)], {1: (2,)}, "kwargs: the key 1 is no string"),
    ([(2,)], {"msk": (2,)}, "kwargs['msk']: weighted has no such parameter; it has y"),
    ([(2,)], {"x": (2,)}, "kwargs['x']: weighted takes it by place alone"),
    ([(2,), (2,)], {"y": (2,)}, "kwargs['y']: specs[1] is for this parameter"),
    ([(2,), (2,)], {}, "'mask' has no value; kwargs={'mask': …} gives it one"),
    ([(2,)], {"mask": (2,)}, "no spec for 'y'"),
    ([(2,), (2,)], {"mask": "bool[2"}, "kwargs['mask']: 'bool[2' is not of the form"),
    ([(2,), (2,)], {"mask": {"a": "x[]"}}, "kwargs['mask']['a']: 'x[]': there is no"),
    ([(2,), (2,)], {"mask": sum}, "kwargs['mask']: <built-in function sum> is no spec"),
    ([(2,), (2,)], {"mask": j2o.weights("a")}, "weights 'mask': is a str, not an arr"),
]


@pytest.mark.parametrize(("specs", "kwargs", "said"), BAD_KEYWORDS, ids=stable_id)
def test_a_keyword_that_does_not_fit_is_named(specs, kwargs, said):
    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(weighted, specs, kwargs=kwargs)
    refused(error, said)


MISFITTING_CALLS = [
    ((), "argument 'mask': it is missing; the model takes it by keyword"),
    ({"mask": 1, "scale": 2}, "argument 'scale': it was settled when the model"),
    ({"mask": 1, "msk": 2}, "argument 'msk': the model takes the keywords 'mask'"),
    ({"mask": [1]}, "argument 'mask': given a list, the model takes a dict of mask/a"),
    ({"mask": {"a": [1]}}, "input 'mask/a': given a list, the model takes an array"),
    ({"mask": {"b": 1}}, "argument 'mask': given a dict without 'a' and with 'b'"),
]


@pytest.mark.parametrize(("kwargs", "said"), MISFITTING_CALLS, ids=stable_id)
def test_a_call_with_other_keywords_is_refused(kwargs, said):
    model = j2o.compile(
        lambda x, mask, scale: x + mask["a"] * scale,
        [(2,)],
        kwargs={"mask": {"a": (2,)}, "scale": j2o.static(2.0)},
    )
    with pytest.raises(j2o.SpecError) as error:
        model(np.ones(2, np.float32), **dict(kwargs))
    refused(error, said)


def test_a_name_that_is_no_argument_is_told_which_there_are():
    model = j2o.compile(lambda x, y: x + y, [(2,), (2,)])
    x = np.ones(2, np.float32)
    with pytest.raises(j2o.SpecError) as error:
        model(x, z=x)
    refused(error, "no such keyword; by place or name come 'x', 'y'")
    with pytest.raises(j2o.SpecError) as error:
        model(y=x)
    refused(error, "argument 'y': it is given twice, or another one is missing; by")
    assert model(y=x, x=x).shape == (2,)


def test_a_dataclass_that_is_no_pytree_is_told_how_to_be_one():
    @dataclasses.dataclass
    class Batch:
        x: tuple

    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(plus_one, [Batch((2,))])
    refused(error, "register_dataclass")


def test_a_program_is_compiled_anew_with_other_values():
    def powered(x, power, *, negate):
        return -(x**power) if negate else x**power

    x = np.arange(3, dtype=np.float32)
    for power, negate in ((2, False), (3, True), (2, True)):
        specs = [(3,), j2o.static(power)]
        model = j2o.compile(powered, specs, kwargs={"negate": negate})
        np.testing.assert_array_equal(model(x), powered(x, power, negate=negate))


NAMES = [
    (plus_one, "plus_one"),
    (jax.jit(plus_one), "plus_one"),
    (functools.partial(plus_one), "plus_one"),
    (jax.jit(jax.vmap(functools.partial(plus_one))), "plus_one"),
    (jax.tree_util.Partial(plus_one), "plus_one"),
    (Net(), "Net"),
    (Net().__call__, "Net"),
    (Net().encode, "encode"),
    (jax.jit(Net()), "Net"),
    (jax.checkpoint(Net()), "Net"),
    (jnp.add, "add"),
    (abs, "abs"),
]


@pytest.mark.parametrize(("fn", "name"), NAMES)
def test_a_model_has_the_name_of_what_is_wrapped(fn, name):
    assert name_of(fn) == name


def test_a_wrapper_of_itself_has_a_name():
    def endless(x):
        return x

    endless.__wrapped__ = endless
    assert name_of(endless) == "endless"


def test_wrappers_of_equinox():
    eqx = pytest.importorskip("equinox")
    net = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    jit, vmap = eqx.filter_jit, eqx.filter_vmap
    for fn, spec in [
        (jit(net), "f32[4]"),
        (jit(vmap(net)), "f32[B,4]"),
        (vmap(jit(net)), "f32[B,4]"),
    ]:
        assert j2o.compile(fn, [spec]).name == "MLP"


# ------------------------------------------------------------------------------ 64 bits

WIDE = {
    "text": (["f64[2]"], "x (float64)"),
    "array": ([np.zeros(2)], "x (float64)"),
    "ids": ([np.arange(2)], "x (int64)"),
    "struct": ([jax.ShapeDtypeStruct((2,), np.complex128)], "x (complex128)"),
}


@pytest.mark.parametrize("name", WIDE)
def test_64_bits_that_become_32_are_told_once(name):
    specs, words = WIDE[name]
    with pytest.warns(j2o.J2OWarning) as caught:
        model = j2o.compile(plus_one, specs)
    assert len(caught) == 1
    assert words in str(caught[0].message)
    assert caught[0].filename == __file__
    assert model.report.warnings == [str(caught[0].message)]
    with enable_x64(True):
        assert j2o.compile(plus_one, specs).report.warnings == []


def test_64_bit_weights_are_told_together():
    tree = {name: np.ones(2) for name in "abcdef"}
    with pytest.warns(
        j2o.J2OWarning,
        match=r"w/a \(float64\), w/b \(float64\), w/c \(float64\) and 4 more",
    ) as caught:
        j2o.compile(lambda w, x: x + w["a"], [j2o.weights(tree), np.ones(2)])
    assert len(caught) == 1


def test_what_has_no_dtype_of_its_own_is_not_told():
    # integers stay what they are, Python's numbers have no dtype
    counts = {
        "step": np.arange(2),
        "rate": 0.5,
    }
    j2o.compile(lambda w, x: x * w["rate"] + w["step"], [j2o.weights(counts), 2.5])


# ------------------------------------------------------------------------------ weights


def test_masked_arrays_are_no_weights():
    with pytest.raises(j2o.SpecError, match=r"masked array.*filled"):
        j2o.compile(
            lambda w, x: x + w,
            [j2o.weights(np.ma.array([1.0, 2.0], mask=[True, False])), (2,)],
        )
    hidden = j2o.lazy((64, 64), np.float32, lambda: np.ma.ones((64, 64), np.float32))
    model = j2o.compile(lambda w, x: x @ w, [j2o.weights(hidden), ("B", 64)])
    with pytest.raises(j2o.SpecError, match="masked array"):
        model.to_proto()


@pytest.mark.parametrize(
    "given",
    [
        ((2,), None),
        ((10**30,), "f4"),
        ((-1,), "f4"),
        ((2.5,), "f4"),
        (5, "f4"),
        ((2,), object),
    ],
)
def test_lazy_needs_a_shape_and_a_dtype(given):
    with pytest.raises(j2o.SpecError) as error:
        j2o.lazy(*given, int)
    refused(error, "lazy(")


@pytest.mark.parametrize(
    "path", [None, 5, b"x", "", "a\0b", "x" * 300, [], object()], ids=stable_id
)
@pytest.mark.parametrize("open", [j2o.open_safetensors, j2o.open_orbax])
def test_readers_need_a_path(open, path):
    with pytest.raises(j2o.SpecError) as error:
        open(path)
    refused(error, open.__name__)


def test_empty_containers_among_weights():
    tree = {"a": np.ones(2, np.float32), "none": (), "nothing": [], "more": {}}
    j2o.compile(lambda w, x: x + w["a"], [j2o.weights(tree), (2,)]).verify(
        np.ones(2, np.float32)
    )


# ----------------------------------------------------------------------------- function


@pytest.mark.parametrize("name", [5, "", "a\udc80", "a\n", b"x"])
def test_the_name_of_a_function_is_looked_at(name):
    with pytest.raises(j2o.SpecError) as error:
        j2o.function(name=name)
    refused(error, "function: name")


def test_function_needs_a_callable():
    for given in (None, 5, [], "f"):
        with pytest.raises(j2o.SpecError, match=r"^function: "):
            j2o.function(given)
    assert j2o.function()(plus_one)(1) == 2


def test_functions_are_named_after_what_is_wrapped():
    block = j2o.function(functools.partial(plus_one))
    model = j2o.compile(lambda x: block(block(x)), [(2,)])
    assert list(model.graph.functions) == ["plus_one"]


def test_a_list_of_names_that_is_taken_for_a_shape_is_told():
    def call(x, mutable, scale):
        return x * scale if "batch_stats" in mutable else x

    kwargs = {"mutable": ["batch_stats"], "scale": ("B",)}
    with pytest.raises(j2o.TraceError) as error:
        j2o.compile(call, [("B",)], kwargs=kwargs)
    advice = "; kwargs['mutable'] is a shape: j2o.static(['batch_stats']) hands over"
    refused(error, advice)
    assert "scale" not in str(error.value)
    assert isinstance(error.value.__cause__, TypeError)
