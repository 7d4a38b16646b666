"""Looking into models.

Nothing is read that was not asked for, and what is damaged or hostile gives one line.
"""

import contextlib
import os
import random
import re
import resource
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import j2o
from j2o.backend import external, wire
from j2o.backend.check import check
from j2o.backend.summary import summary
from j2o.cli import main
from tools import kill_saves


@pytest.fixture
def saved(tmp_path):
    """A model with its weights beside it, and a change of the message of its .onnx."""
    external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx", external_data=True)
    return tmp_path / "m.onnx"


def change(path, edit):
    model = onnx.load(str(path), load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())


def place(tensor, **entries):
    found = {e.key: e.value for e in tensor.external_data} | {
        k: str(v) for k, v in entries.items()
    }
    del tensor.external_data[:]
    for key, value in found.items():
        tensor.external_data.add(key=key, value=value)


def refused(path, words, deep=False):
    """One line, without reading the weights or much memory."""
    with pytest.raises(j2o.LoadError) as error:
        check(path, deep=deep)
    assert re.search(words, str(error.value))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def at(**entries):
    return lambda model: place(model.graph.initializer[1], **entries)


def grown(model):
    model.graph.initializer[1].dims[0] = 2**40


def negative(model):
    model.graph.initializer[1].dims[0] = -256


def retyped(number):
    def edit(model):
        model.graph.initializer[1].data_type = number

    return edit


def elsewhere(kind):
    """A tensor that reaches out of the folder, not among the initializers of the graph."""

    def edit(model):
        bad = TensorProto(
            name="bad", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL
        )
        place(bad, location="../secret", offset=0, length=4)
        node = onnx.NodeProto(op_type="Constant", output=["c"])
        attribute = node.attribute.add(
            name="value", type=onnx.AttributeProto.TENSOR, t=bad
        )
        if kind == "attribute":
            model.graph.node.append(node)
        elif kind == "sparse":
            attribute.ClearField("t")
            attribute.sparse_tensor.values.CopyFrom(bad)
            model.graph.node.append(node)
        elif kind == "subgraph":
            outer = model.graph.node.add(op_type="If")
            outer.attribute.add(
                name="then_branch", g=onnx.GraphProto(initializer=[bad])
            )
        else:
            model.functions.add(name="f", domain="d", node=[node])

    return edit


def held(**fields):
    """An initializer with its data inside."""
    return lambda model: model.graph.initializer.append(
        TensorProto(name="held", **fields)
    )


HOSTILE = {
    "parent": (
        at(location="../m.onnx.data"),
        r"'w1' lies in '../m.onnx.data', which is no file below",
    ),
    "inner parent": (at(location="a/../m.onnx.data"), "no file below"),
    "absolute": (at(location="/etc/passwd"), "'/etc/passwd', which is no file below"),
    "backslash": (at(location="..\\m.onnx.data"), "no file below"),
    "nul": (at(location="m.onnx.data\0"), "no file below"),
    "no location": (at(location=""), "no file below"),
    "long": (at(location="a" * 100_000), "no file below"),
    "in memory": (at(location="*/_ORT_MEM_ADDR_/*"), "no file below"),
    "missing": (at(location="other.data"), "no file below"),
    "folder": (at(location="."), "no file below"),
    "negative offset": (
        at(offset=-4096),
        "offset '-4096', length '262144': these are no sizes",
    ),
    "text offset": (at(offset="0x10"), "these are no sizes"),
    "long offset": (at(offset="9" * 5000), "these are no sizes"),
    "past the end": (at(offset=2**40), "reaches past the end of 'm.onnx.data'"),
    "huge length": (at(length=2**60), "has 1152921504606846976 bytes .* say 262144"),
    "short length": (
        at(length=10),
        "has 10 bytes in 'm.onnx.data', its dtype and shape say 262144",
    ),
    "overlap": (at(offset=4096), "'w0' and 'w1' overlap in 'm.onnx.data'"),
    "huge shape": (grown, "dtype and shape say"),
    "negative shape": (negative, r"no dtype or shape: 1, \[-256, 256\]"),
    "unknown dtype": (retyped(99), "no dtype or shape: 99"),
    "no dtype": (retyped(0), "no dtype or shape: 0"),
    "strings outside": (retyped(8), "has 262144 bytes .* say 0"),
    "attribute": (elsewhere("attribute"), "'bad' lies in '../secret'"),
    "sparse": (elsewhere("sparse"), "'bad' lies in '../secret'"),
    "subgraph": (elsewhere("subgraph"), "'bad' lies in '../secret'"),
    "function": (elsewhere("function"), "'bad' lies in '../secret'"),
    "huge raw": (
        held(data_type=1, dims=[2**40], raw_data=b"1234"),
        "holds 4 bytes, its dtype and shape say 4398046511104",
    ),
    "huge typed": (
        held(data_type=1, dims=[2**20, 2**20], float_data=[1.0]),
        "holds 1 entries, .* say 1099511627776",
    ),
    "nothing": (held(data_type=7, dims=[2]), "holds 0 entries"),
    "both": (
        held(data_type=1, dims=[1], raw_data=b"1234", float_data=[1.0]),
        "holds 5 bytes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tensors(saved, name):
    edit, words = HOSTILE[name]
    (saved.parent / "a").mkdir()
    change(saved, edit)
    refused(saved, words)


@pytest.mark.parametrize("link", ["symlink", "hard link", "folder"])
def test_links_are_refused(saved, link):
    data = saved.parent / "m.onnx.data"
    other = saved.parent.parent / f"{saved.parent.name}-other"
    other.mkdir()
    if link == "hard link":
        (other / "x").hardlink_to(data)
    elif link == "symlink":
        data.rename(other / "x")
        data.symlink_to(other / "x")
    else:
        data.rename(other / "x")
        (saved.parent / "sub").symlink_to(other)
        change(
            saved, lambda m: [place(t, location="sub/x") for t in m.graph.initializer]
        )
    refused(saved, "no file below the model's folder, or a link")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello world\n" * 100,
        b"\0" * 1000,
        b'{"irVersion": "8"}',
        b"\x08\x08",
        random.Random(0).randbytes(999),
    ],
)
@pytest.mark.parametrize("suffix", ["onnx", "json", "txt"])
def test_what_is_no_model(tmp_path, content, suffix, capsys):
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(content)
    refused(path, "is not an ONNX model")
    assert main(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_large_file_that_is_no_model_takes_no_memory(tmp_path):
    (tmp_path / "m.onnx").touch()
    for size in (2**31 - 100, 2**40):
        os.truncate(tmp_path / "m.onnx", size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(tmp_path / "m.onnx", "is not an ONNX model")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16


def test_damaged_bytes_give_one_line_or_a_model(tmp_path):
    path, chance = tmp_path / "m.onnx", random.Random(0)
    j2o.compile(lambda x: x @ np.ones((4, 4), np.float32) + 1, [("B", 4)]).save(path)
    whole = path.read_bytes()
    found = []
    for turn in range(300):
        if turn % 2:
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[chance.randrange(len(whole))] = chance.randrange(256)
        else:
            damaged = whole[: chance.randrange(len(whole))]
        path.write_bytes(damaged)
        try:
            summary(path)
            check(path, deep=True)
        except j2o.LoadError as error:
            found.append(str(error))
    assert len(found) > 150
    assert not [line for line in found if "\n" in line]


def test_a_name_that_is_no_text(tmp_path):
    j2o.compile(lambda x: x + 1, [("B", 4)]).save(tmp_path / "m.onnx")
    whole = (tmp_path / "m.onnx").read_bytes()
    assert b"\x12\x01B" in whole  # a size by name
    (tmp_path / "m.onnx").write_bytes(whole.replace(b"\x12\x01B", b"\x12\x01\xff"))
    refused(tmp_path / "m.onnx", "no text")


@pytest.mark.parametrize("kind", range(3))
def test_deep_names_the_weight_whose_bytes_changed(tmp_path, kind, capsys):
    path = tmp_path / "m.onnx"
    external.save(kill_saves.graph(1), 18, path, **kill_saves.KINDS[kind])
    assert main(["check", "--deep", str(path)]) == 0
    good = f"{path}: good, 6 checksums right"
    assert capsys.readouterr().out.splitlines()[0] == good
    wanted = kill_saves.weights(1)[4].tobytes()
    (file,) = (p for p in tmp_path.iterdir() if wanted in p.read_bytes())
    with open(file, "r+b") as data:
        data.seek(file.read_bytes().index(wanted) + 1000)
        data.write(b"x")
    check(path)
    refused(path, "'w4' is damaged: its bytes do not have the checksum", deep=True)


def test_ten_gigabytes_are_not_read(tmp_path, capsys):
    """A sparse file: 40 weights of 256 MiB, two of them the same region."""
    width, size, count = 2**13, 2**28, 40
    model = onnx.ModelProto(
        ir_version=8, opset_import=[onnx.OperatorSetIdProto(version=18)]
    )
    model.graph.name = "g"
    names = [f"w{i}" for i in range(count)]
    for i, name in enumerate(names):
        tensor = model.graph.initializer.add(
            name=name, data_type=1, dims=[width, width], data_location=1
        )
        place(tensor, location="m.onnx.data", offset=max(i - 1, 0) * size, length=size)
    last = "x"
    for name in names:
        model.graph.node.add(
            op_type="MatMul", input=[last, name], output=[f"{name}_out"]
        )
        last = f"{name}_out"
    for values, name in ((model.graph.input, "x"), (model.graph.output, last)):
        shape = onnx.TensorShapeProto(dim=[{"dim_param": "B"}, {"dim_value": width}])
        tensor = onnx.TypeProto.Tensor(elem_type=1, shape=shape)
        values.add(name=name, type=onnx.TypeProto(tensor_type=tensor))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "m.onnx.data").touch()
    os.truncate(tmp_path / "m.onnx.data", (count - 1) * size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["inspect", str(path)]) == 0
    assert "40 initializers, 10240.0 MiB in m.onnx.data" in capsys.readouterr().out
    assert main(["check", str(path)]) == 0
    # KiB, half of one weight
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17


def test_inspect_prints_what_cannot_be_printed_as_question_marks(saved, capsys):
    def edit(model):
        model.graph.input[0].name = "x\x1b[31m\n"

    change(saved, edit)
    assert main(["inspect", str(saved)]) == 0
    assert "input  x?[31m?: float[]" in capsys.readouterr().out


PATHS = {
    "none": (None, "path=None: give the name of a file"),
    "bytes": (b"m.onnx", "give the name of a file"),
    "nul": ("a\0b.onnx", r"a\?b.onnx: there is no such file"),
    "lines": ("a\nb.onnx", r"a\?b.onnx: there is no such file"),
    "surrogate": ("\udcff.onnx", r"\?.onnx: there is no such file"),
    "long": ("a" * 256, "there is no such file"),
    "endless": ("a" * 10**6, "there is no such file"),
    "nothing": ("nothing.onnx", "nothing.onnx: there is no such file"),
    "folder": (".", "is no file"),
    "pipe": ("pipe", "is no file"),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_that_are_no_model(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    path, words = PATHS[name]
    for look in (summary, check):
        with pytest.raises(j2o.LoadError, match=words) as error:
            look(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600


def framed(number, content):
    """A field of protobuf with a length."""
    size, head = len(content), bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + content


def nested(depth):
    """Graphs in attributes of nodes of graphs, …"""
    inside = b""
    for _ in range(depth):
        inside = framed(1, framed(5, framed(6, inside)))
    return inside


HEAD = b"\x08\x0a" + framed(8, b"\x10\x14")  # IR version 10, opset 20
WASTEFUL = {
    "nodes": (framed(7, b"\x0a\x00" * 1001), "more than 1,000 messages"),
    "nodes deep inside": (
        framed(7, framed(1, framed(5, framed(6, b"\x0a\x00" * 1001)))),
        "more than 1,000 messages",
    ),
    "initializers": (framed(7, b"\x2a\x00" * 1001), "more than 1,000 messages"),
    "operands": (framed(7, framed(1, b"\x0a\x00" * 2001)), "more than 2,000 fields"),
    "sizes one by one": (
        framed(7, framed(5, b"\x08\x01" * 2001)),
        "more than 2,000 fields",
    ),
    "fields unknown to onnx": (
        framed(7, b"\xf8\x07\x01" * 2001),
        "more than 2,000 fields",
    ),
    "packed sizes": (
        framed(7, framed(5, framed(1, b"\1" * 3001) + b"\x10\1")),
        "more than 3,000 bytes of numbers",
    ),
    "numbers": (
        framed(7, framed(5, framed(7, b"\1" * 3001))),
        "more than 3,000 bytes of numbers",
    ),
    "a name": (
        framed(2, b"a" * 2**16 + b"a"),
        "a name or text in it has 65,537 bytes, more than 65,536",
    ),
    "names": (
        framed(7, framed(2, b"a" * 5000) * 11),
        "more than 50,000 bytes of names and texts",
    ),
    "graphs": (framed(7, nested(20)), r"more than 10 graphs"),
    "depth": (framed(7, nested(5000)), "nested deeper than 100"),
    "groups": (b"\x0b\x0c", "cut short, or something else"),
    "field 0": (b"\0\0", "cut short, or something else"),
    "past the end": (
        framed(7, b"\x0a\xff\xff\xff\xff\x0f"),
        "cut short, or something else",
    ),
    "endless number": (
        framed(7, b"\x0a" + b"\xff" * 20),
        "cut short, or something else",
    ),
    "ends in a number": (b"\x08\xff", "cut short, or something else"),
    "ends in a key": (b"\xff", "cut short, or something else"),
    "ends in a float": (
        framed(7, framed(5, b"\x25\0")),
        "cut short, or something else",
    ),
    "no text": (framed(7, framed(2, b"\xff")), "a name in it is no text"),
}


@pytest.mark.parametrize("name", WASTEFUL)
def test_what_would_cost_much_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    """The limits are lowered here, so that the files are small."""
    for limit, value in {
        "MESSAGES": 1000,
        "PARTS": 2000,
        "NUMBERS": 3000,
        "ALL_TEXT": 50_000,
        "GRAPHS": 10,
    }.items():
        if not (name == "depth" and limit == "GRAPHS"):
            monkeypatch.setattr(wire, limit, value)
    content, words = WASTEFUL[name]
    (tmp_path / "m.onnx").write_bytes(HEAD + content)
    monkeypatch.setattr(onnx.ModelProto, "FromString", lambda _: pytest.fail("read"))
    refused(tmp_path / "m.onnx", words)


def test_the_limits_leave_room_for_large_models():
    """A node of j2o's, its attribute, source line and result are nine messages and 23 fields."""
    assert wire.MESSAGES >= 9 * 400_000
    assert wire.PARTS >= 23 * 400_000
    assert wire.ALL_TEXT >= 130 * 400_000


def test_many_empty_nodes_cost_little(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "MESSAGES", 400_000)
    path = tmp_path / "m.onnx"
    path.write_bytes(HEAD + framed(7, b"\x0a\x00" * 10_000_000))
    before, start = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        time.process_time(),
    )
    refused(path, "more than 400,000 messages")
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


@pytest.mark.parametrize(
    "dims", [[3] * 5000, [2**62] * 1000, [2**62, 2**62, 0], [2**32, 2**32]]
)
def test_sizes_whose_product_is_no_size(saved, dims):
    def edit(model):
        model.graph.initializer.append(
            TensorProto(name="w", data_type=1, dims=dims, raw_data=b"")
        )

    change(saved, edit)
    with pytest.raises(j2o.LoadError) if 0 not in dims else contextlib.nullcontext():
        summary(saved)
    with pytest.raises(
        j2o.LoadError,
        match=r"'w' has 5000 dimensions|than 2..63 elements|overflow|dtype and shape say",
    ):
        check(saved)


def doubling(levels):
    """Functions that each call the next one twice: a model of a few kB that stands for `2**levels` nodes."""
    model = onnx.ModelProto(ir_version=10)
    for domain, version in (("", 20), ("d", 1)):
        model.opset_import.add(domain=domain, version=version)
    model.graph.name = "g"
    for values, name in ((model.graph.input, "x"), (model.graph.output, "y")):
        shape = onnx.TensorShapeProto(dim=[{"dim_param": "B"}])
        values.add(
            name=name,
            type=onnx.TypeProto(
                tensor_type=onnx.TypeProto.Tensor(elem_type=1, shape=shape)
            ),
        )
    model.graph.node.add(op_type="f0", domain="d", input=["x"], output=["y"])
    for i in range(levels):
        made = model.functions.add(
            name=f"f{i}",
            domain="d",
            input=["a"],
            output=["c"],
            opset_import=model.opset_import,
        )
        made.node.add(op_type=f"f{i + 1}", domain="d", input=["a"], output=["b"])
        made.node.add(op_type=f"f{i + 1}", domain="d", input=["b"], output=["c"])
    last = model.functions.add(
        name=f"f{levels}",
        domain="d",
        input=["a"],
        output=["c"],
        opset_import=model.opset_import,
    )
    last.node.add(op_type="Neg", input=["a"], output=["c"])
    return model


def test_functions_that_call_each_other_twice(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(doubling(5).SerializeToString())
    check(path)
    for levels in (20, 40):
        path.write_bytes(doubling(levels).SerializeToString())
        assert f"{levels + 1} functions" in summary(path)
        refused(path, "the calls of its functions stand for too much")
    circle = doubling(3)
    circle.functions[3].node[0].CopyFrom(circle.functions[0].node[0])
    path.write_bytes(circle.SerializeToString())
    refused(path, "call each other in a circle")


def test_calls_in_branches_count_too(tmp_path):
    model = doubling(20)
    call = model.functions[0].node[0]
    branch = onnx.GraphProto(node=[call])
    del model.functions[0].node[:]
    node = model.functions[0].node.add(op_type="If", input=["a"], output=["c"])
    node.attribute.add(name="then_branch", g=branch, type=onnx.AttributeProto.GRAPH)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.onnx", "the calls of its functions stand for too much")


def test_sparse_tensors_that_would_be_huge_are_refused(saved):
    def edit(model):
        values = TensorProto(name="s", data_type=1, dims=[1], float_data=[1.0])
        indices = TensorProto(data_type=7, dims=[1], int64_data=[0])
        model.graph.sparse_initializer.add(
            values=values, indices=indices, dims=[2**20, 2**20]
        )

    change(saved, edit)
    refused(saved, "sparse tensors have more than 67,108,864 elements")


def test_weights_without_a_checksum_are_not_read(saved, monkeypatch):
    def edit(model):
        for tensor in model.graph.initializer:
            del tensor.metadata_props[:]

    change(saved, edit)
    opened = []

    def noted(path, *args, **kwargs):
        opened.append(path)
        return open(path, *args, **kwargs)

    for module in ("load", "check"):
        monkeypatch.setattr(f"j2o.backend.{module}.open", noted, raising=False)
    assert check(saved, deep=True) == 0
    assert opened == [saved]


def test_models_of_others_are_summed_up(tmp_path):
    """Unknown operators and domains, no types, sequences, quantisation, training, many of everything."""
    model = onnx.ModelProto(ir_version=10, producer_name="p" * 1000)
    model.opset_import.add(domain="com.acme", version=3)
    model.graph.name = "g"
    model.graph.input.add(name="untyped")
    model.graph.input.add(
        name="any", type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=1))
    )
    shape = onnx.TensorShapeProto(
        dim=[{}, {"dim_param": "N"}, {"dim_value": 3}] + [{"dim_value": 1}] * 1000
    )
    model.graph.input.add(
        name="known",
        type=onnx.TypeProto(
            tensor_type=onnx.TypeProto.Tensor(elem_type=99, shape=shape)
        ),
    )
    model.graph.input.add(name="list", type=onnx.TypeProto(sequence_type={}))
    model.graph.output.extend(onnx.ValueInfoProto(name=f"y{i}") for i in range(1000))
    model.graph.node.extend(
        onnx.NodeProto(op_type=f"Op{i}", domain="com.acme") for i in range(1000)
    )
    model.graph.quantization_annotation.add(
        tensor_name="w"
    ).quant_parameter_tensor_names.add(key="SCALE", value="s")
    model.training_info.add().algorithm.node.add(op_type="Step")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    text = summary(tmp_path / "m.onnx")
    assert "input  untyped: no type\n" in text
    assert "input  any: float of any shape\n" in text
    assert "input  known: unknown dtype[?,N,3,1," in text
    assert "input  list: sequence\n" in text
    assert "… 800 more outputs" in text
    assert "… 800 more kinds" in text
    assert len(text) < 10_000
    with pytest.raises(j2o.LoadError) as error:
        check(tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


def test_a_name_that_is_no_utf8(saved, capsysbinary):
    """inspect reads it; onnx and onnxruntime could not open it by that name."""
    odd = saved.with_name("\udcff.onnx")
    os.rename(saved, odd)
    assert main(["inspect", str(odd)]) == 0
    assert b"?.onnx: opset 18" in capsysbinary.readouterr().out
    refused(odd, "is not UTF-8, give the file another name")
