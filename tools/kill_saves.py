"""Kills saves at random instants and checks that a complete model stands at the path after each.

    python -m tools.kill_saves --kills 500

Processes save versions of one model over each other, in one file, with one data file, with several,
and with one that it shares with a neighbour, until SIGKILL ends them. What stands at both paths then
must pass the checks of j2o and of onnx, and give in onnxruntime every weight of one version.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from j2o import ir
from j2o.backend.external import save
from j2o.backend.shared import save_models
from j2o.ir.tensor import ArrayTensor

WEIGHTS, WIDTH = 6, 256
KINDS = (
    {"external_data": False},
    {"external_data": True},
    {"external_data": True, "max_file_bytes": 600_000},
)


def weights(version: int) -> list[np.ndarray]:
    """The weights of one version; of any two versions some are equal and some are not."""
    return [
        np.full((WIDTH, WIDTH), i if i % 2 else 100 * version + i, np.float32)
        for i in range(WEIGHTS)
    ]


def graph(version: int) -> ir.Graph:
    """A model that gives its weights, times its input."""
    consts = "\n".join(
        f'  %w{i} = const @"w{i}" : f32[{WIDTH},{WIDTH}]' for i in range(WEIGHTS)
    )
    products = "\n".join(
        f"  %y{i} = onnx.Mul(%x, %w{i}) : f32[{WIDTH},{WIDTH}]" for i in range(WEIGHTS)
    )
    names = ", ".join(f'"y{i}"' for i in range(WEIGHTS))
    values = ", ".join(f"%y{i}" for i in range(WEIGHTS))
    head = f'graph @main(%x: f32[] as "x") -> ({names})'
    text = f"{head} {{\n{consts}\n{products}\n  return {values}\n}}"
    tensors = {}
    for i, weight in enumerate(weights(version)):
        tensors[f"w{i}"] = ArrayTensor(weight, f"w{i}")
    return ir.parse(text, tensors)


def neighbour(path: Path) -> Path:
    """The model beside, which shares its weights."""
    return path.with_name(f"neighbour_{path.name}")


def save_both(path: Path, version: int, system: Any = os) -> None:
    """Save a version at both paths, with one data file."""
    models = {path: (graph(version), 18), neighbour(path): (graph(version), 18)}
    save_models(models, path.with_name("shared.data"), system=system)


def save_for_ever(path: Path) -> None:
    while True:
        version = random.randrange(8)
        kind = random.randrange(len(KINDS) + 1)
        if kind == len(KINDS):
            save_both(path, version)
        else:
            save(graph(version), 18, path, **KINDS[kind])


def fork_on_demand(path: Path) -> None:
    """For each line of input a process that saves; its number is printed, and its end awaited."""
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            random.seed()
            save_for_ever(path)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)


def standing(path: Path) -> str:
    """What the model at the path is, after every check.

    AssertionError or LoadError where it is not complete.
    """
    import onnx
    import onnxruntime as ort

    from j2o.backend.check import check

    check(path, deep=True)
    onnx.checker.check_model(str(path))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results = session.run(None, {"x": np.ones((), np.float32)})
    version = int(results[0][0, 0]) // 100
    same = map(np.array_equal, results, weights(version))
    assert all(same), "weights of two versions"
    return f"{len(data_files(path))} data files"


def data_files(path: Path) -> set[str]:
    """The names of the files that have the weights of a model."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    names = set()
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if "location" in entries:
            names.add(entries["location"])
    return names


def kill(folder: Path, kills: int, seed: int = 0) -> collections.Counter[str]:
    """Kill that many savers; how often what stood at the path afterwards."""
    chance = random.Random(seed)
    path = folder / "model.onnx"
    found = collections.Counter[str]()
    start = time.perf_counter()
    for version, kind in enumerate(KINDS):
        save(graph(version), 18, path, **kind)
    save_both(path, len(KINDS))
    span = time.perf_counter() - start
    python = [sys.executable, "-W", "ignore"]
    command = [*python, "-m", "tools.kill_saves", "--savers", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as savers:
        assert savers.stdin is not None
        assert savers.stdout is not None
        for _ in range(kills):
            savers.stdin.write("\n")
            savers.stdin.flush()
            child = int(savers.stdout.readline())
            time.sleep(chance.uniform(0, span))
            os.kill(child, signal.SIGKILL)
            assert savers.stdout.readline() == "dead\n"
            found[standing(path)] += 1
            standing(neighbour(path))
            found["left-overs of the killed"] += any(
                p.suffix == ".partial" for p in folder.iterdir()
            )
    assert savers.returncode == 0
    save(graph(0), 18, path, external_data=True)
    save_both(path, 0)
    assert len(list(folder.iterdir())) == 3, "left-overs"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--savers", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.savers:
        return fork_on_demand(args.savers)
    with tempfile.TemporaryDirectory() as folder:
        found = kill(Path(folder), args.kills, args.seed)
    told = ", ".join(f"{count} × {what}" for what, count in found.items())
    print(f"{args.kills} kills, {args.kills} complete models; {told}")


if __name__ == "__main__":
    main()
