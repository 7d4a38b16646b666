"""The Vision Transformer with every block, attention and MLP marked: three ONNX functions, whatever
the depth.

python -m examples.functions
"""

import j2o
from examples import layers


@j2o.function
class Attention(layers.Attention): ...


@j2o.function
class FeedForward(layers.FeedForward): ...


@j2o.function(name="Block")
class TransformerBlock(layers.TransformerBlock):
    attention_type = Attention
    mlp_type = FeedForward


if __name__ == "__main__":
    from examples.zoo import run

    model = run("vit_functions")
    print(model)
    for function in model.to_proto().functions:
        count = len(function.node)
        print(f"{function.name}: {count} nodes, inputs {list(function.input)}")
