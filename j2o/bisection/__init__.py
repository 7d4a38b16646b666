"""Numeric bisection: the first value that a model computes otherwise than JAX, its node, line and pass.

`search.py` has `j2o.bisect`, which goes through the stages from the last one backwards: the optimiser
of onnxruntime, the written model, the passes, the lowering rules, the trace. Why it is built so:

How a stage is run. Between two passes a graph is a mix of JAX's primitives and of ONNX operators. It
could be finished by the passes that lower, and run as a model; then a fault of these passes would be
in every stage, and hidden. Instead each node is run by itself (`evaluate.py`): an equation of JAX by
JAX, an operator in a model of one node. So the values of every graph are known, in each round of a
loop and in functions too, and the compiler judges nothing about itself. Two exceptions: a `lax` node
that stands for no equation, as passes make them, is lowered; an operator without a kernel for its
dtype is legalised.

Which pass. The outputs after each pass are compared with JAX's, by halves, so that of n passes
log2(n) stages are run (`stages.py`).

Which value. The values of the final graph have no names in common with those of JAX: passes fuse,
move and transpose. So the graph before the guilty pass is compared with the one after it. Nodes that
the pass has left alone say which new value stands for which old one (`changes.py`). No trace of
identity through the passes is needed, and a pass need not help. The value of JAX with the contents
that are missing is named too. Lowering leaves no node alone: there each operation of the program is first
compared with what it is lowered to, at JAX's own operands (`rules.py`); where none is wrong by itself,
each value is given a user that lowering does leave alone.

Rounding. A sum in another order differs in its last digits, and a deep program makes much of them. So
the outputs of a stage are wrong only where they differ by more than JAX's own do once its values are
moved by a few units in the last place (`noise.py`). And no value is compared that rests on other
inputs: JAX's operands, or the contents before the pass, go into each node. Inside a program the
tolerance is relative to the usual size of a value's elements too (`measure.py`).
"""
