"""A flax nnx user's first export: a small MLP in evaluation mode, symbolic batch, verified against JAX.

python examples/quickstart.py
"""

from flax import nnx

import j2o


class MLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear1 = nnx.Linear(30, 20, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.norm = nnx.BatchNorm(20, rngs=rngs)
        self.linear2 = nnx.Linear(20, 10, rngs=rngs)

    def __call__(self, x):
        return self.linear2(nnx.gelu(self.dropout(self.norm(self.linear1(x)))))


def build() -> MLP:
    net = MLP(nnx.Rngs(0))
    net.eval()
    return net


def main() -> None:
    import jax

    net = build()
    model = j2o.compile(net, [("B", 30)])
    model.save("mlp.onnx")
    print(model)
    for batch in (1, 2, 17):
        x = jax.random.normal(jax.random.key(batch), (batch, 30))
        print(f"batch {batch}: {model.verify(x, rtol=1e-5)}")


if __name__ == "__main__":
    main()
