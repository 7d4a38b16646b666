"""A program of a user, which type checkers read and nobody runs: `test_package.py`."""

from typing import assert_type

import j2o


def double(x: int) -> int:
    return 2 * x


pipeline = j2o.default_pipeline(opt_level=2)
assert_type(pipeline, j2o.PassPipeline)

model = j2o.compile(double, [("B", 3)], opt_level=2, passes=pipeline, checks=True)
assert_type(model, j2o.Model)
assert_type(model.save("model.onnx"), None)
assert_type(j2o.Target.load("mine.json"), j2o.Target)
j2o.compile(
    double, ["f32[B,3]"], kwargs={"train": j2o.static(False)}, target="openvino"
)
j2o.save_models({"one.onnx": model}, data="weights.data")

# a checker must refuse each of these; an exemption that is not needed is an error
j2o.compile(double, ["f32[B,3]"], opt_level="2")  # type: ignore[arg-type]
j2o.compile(double, ["f32[B,3]"], target=18)  # type: ignore[arg-type]
j2o.compile(double, ["f32[B,3]"], optlevel=2)  # type: ignore[call-arg]
model.save(3)  # type: ignore[arg-type]

try:
    j2o.ir.parse("")
except j2o.J2OError as error:
    assert_type(error, j2o.J2OError)
