"""Values and nodes: operands and attributes by type, and changes in place that the journal knows."""

import onnx
import pytest

from j2o.ir import Builder, Graph
from j2o.ir.onnx_ops import ELEMENTWISE
from j2o.ir.types import DType, Type


@pytest.fixture
def node():
    """`Clip(x, low)` with its upper bound left out, in a graph of its own."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input(Type(DType.F32, (2, 3)), "x")
    out = op.Clip(x, 0.0, None)
    graph.set_outputs([op.Transpose(out, perm=(1, 0))])
    return out.producer


def test_operands(node):
    assert node.operand(0) is node.home.inputs[0]
    assert node.optional(2) is None
    assert len(node.operands) == 2
    with pytest.raises(ValueError, match="no operand 2"):
        node.operand(2)


def test_an_input_has_no_producer(node):
    with pytest.raises(ValueError, match="no node makes it"):
        _ = node.operand(0).producer


def test_attributes_by_type(node):
    transpose = node.home.outputs[0].producer
    assert transpose.ints_attr("perm") == (1, 0)
    assert transpose.int_attr("axis", 3) == 3
    with pytest.raises(ValueError, match="no attribute axis"):
        transpose.int_attr("axis")
    with pytest.raises(TypeError, match="perm"):
        transpose.int_attr("perm")


def test_changes_in_place_are_in_the_journal(node):
    transpose = node.home.outputs[0].producer
    node.home.journal.clear()
    transpose.set_attr("perm", (0, 1))
    assert node.home.journal == [transpose]
    node.home.journal.clear()
    node.out.retype(Type(DType.F32, (3, 2)))
    assert set(node.home.journal) == {node, transpose}


def test_a_node_in_no_graph_has_no_home(node):
    transpose = node.home.outputs[0].producer
    transpose.home.set_outputs([])
    transpose.erase()
    with pytest.raises(ValueError, match="in no graph"):
        _ = transpose.home


def test_known_numbers(node):
    op = Builder(node.home, node)
    assert op.dims((2, 3)).known_ints == (2, 3)
    assert node.operand(0).known_ints is None


def test_static_shape():
    assert Type(DType.F32, (2, 3)).static_shape == (2, 3)


@pytest.mark.parametrize("kind", sorted(ELEMENTWISE))
def test_elementwise_operators_have_one_result_and_no_regions(kind):
    """Passes ask for no more than `elementwise`."""
    schema = onnx.defs.get_schema(kind)
    types = {attribute.type for attribute in schema.attributes.values()}
    assert schema.max_output == 1
    assert onnx.defs.OpSchema.AttrType.GRAPH not in types
