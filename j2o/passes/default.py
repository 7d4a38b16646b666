"""The default pipeline, per optimisation level."""

from __future__ import annotations

import functools

from j2o.errors import SpecError, shown
from j2o.passes.clean.broadcasts import broadcasts
from j2o.passes.clean.cse import cse, cse_early
from j2o.passes.clean.dce import dce, unused
from j2o.passes.clean.fold import fold
from j2o.passes.clean.ranges import ranges
from j2o.passes.clean.shapes import shapes
from j2o.passes.clean.simplify import simplify
from j2o.passes.clean.single_places import single_places
from j2o.passes.clean.stacks import stacks
from j2o.passes.clean.tidy import parts, tidy
from j2o.passes.clean.unit_axes import unit_axes, unit_axes_of_layers
from j2o.passes.clean.unused_results import unused_results
from j2o.passes.components.split import components
from j2o.passes.layout.affine import affine
from j2o.passes.layout.axes_of_parts import axes_of_parts
from j2o.passes.layout.batch_norm import batch_norms
from j2o.passes.layout.block_reductions import block_reductions
from j2o.passes.layout.blocks import blocks, blocks_in_place
from j2o.passes.layout.columns import columns
from j2o.passes.layout.contractions import contractions, fronts
from j2o.passes.layout.flat_parts import flat_parts
from j2o.passes.layout.flips import flips
from j2o.passes.layout.gemm import gemm
from j2o.passes.layout.hoist import hoist, invariants, sink
from j2o.passes.layout.last_rows import last_rows
from j2o.passes.layout.pads import pads
from j2o.passes.layout.projections import projections
from j2o.passes.layout.scan_axes import scan_axes
from j2o.passes.layout.single_numbers import single_numbers
from j2o.passes.layout.transposes import transposes, transposes_in_bodies
from j2o.passes.layout.upsampling import repeated_rows, upsampling
from j2o.passes.lower import lower_graph
from j2o.passes.pipeline import Fixpoint, PassPipeline, Step, is_level
from j2o.passes.recover import recover, recover_early
from j2o.passes.recover.attention import attention
from j2o.passes.recover.both_ways import both_ways
from j2o.passes.recover.cells import cells
from j2o.passes.recover.gates import softplus_below_zero
from j2o.passes.recover.moduli import moduli
from j2o.passes.recover.own_rows import own_rows
from j2o.passes.recover.top_k import top_k
from j2o.passes.structure.functions import functions
from j2o.passes.structure.inline import inline
from j2o.passes.structure.repeats import repeats
from j2o.passes.target.checks import checks
from j2o.passes.target.contrib import contrib_activations, fused_matmul
from j2o.passes.target.legalize import legalize
from j2o.passes.target.materialize import materialize
from j2o.passes.target.scale_chains import scale_chains
from j2o.passes.target.weights_dtype import weights_dtype

# each table is a stage, one pass a line, in the order in which they run
FRONT: tuple[Step, ...] = (
    inline,
    unused,
)
PARTS: tuple[Step, ...] = (
    components,
    functions,
)
CLEAN = (
    fold,
    simplify,
    shapes,
    broadcasts,
    cse,
    dce,
    unused_results,
)
CLEAN_AND_RECOVER = (
    fold,
    simplify,
    ranges,
    stacks,  # it reads Squeezes where a program has them
    shapes,
    broadcasts,
    cse,
    dce,
    unused_results,
    unit_axes,
    recover,
)
LAYOUT: tuple[Step, ...] = (
    top_k,
    single_places,  # behind `recover`, which reads rotated pairs as Gathers
    block_reductions,
    unit_axes_of_layers,  # it removes axes of size 1 that reductions have kept
    affine,
    contractions,
    attention,  # it reads contractions
    fronts,
    invariants,
    flips,
    sink,
    last_rows,
    transposes_in_bodies,
    cells,
    hoist,  # what cells have left
    fold,  # the weights of cells
    shapes,
    dce,
    projections,
    upsampling,  # it leaves what attention reads
    blocks,
    dce,
    transposes,
    repeated_rows,
    Fixpoint("layout", (fold, shapes, cse, dce), limit=3),
    blocks_in_place,  # behind `layout`, where transposes cancel
    scan_axes,  # it reads the transposes that are left
    both_ways,
    gemm,
    pads,
    batch_norms,
    parts,
    flat_parts,
    axes_of_parts,  # of what `parts` takes apart, too
    tidy,
    single_numbers,
    columns,  # behind `tidy`, which drops such axes where it can
    dce,
)
ONNXRUNTIME: tuple[Step, ...] = (
    fused_matmul,
    contrib_activations,
    dce,
    repeats,
)
BACK: tuple[Step, ...] = (
    materialize,
    checks,
    legalize,
)


def default_pipeline(opt_level: int = 2) -> PassPipeline:
    """The passes of a level: 0 only lowers, 1 cleans up, 2 optimises, 3 goes on for onnxruntime alone.

    Level 3 takes operators of onnxruntime's own, and calls functions for repeated blocks. The pipeline
    knows its level: given to `compile` as `passes`, it runs at that. Raises SpecError for a level outside
    0 to 3.
    """
    if not is_level(opt_level):
        raise SpecError(f"opt_level={shown(opt_level)}: 0, 1, 2 or 3 is needed")
    return _pipeline(int(opt_level))


@functools.cache  # a pipeline does not change, and checking its passes takes longer than some of them
def _pipeline(opt_level: int) -> PassPipeline:
    """The pipeline of a level from 0 to 3."""
    steps = [*FRONT]
    if opt_level >= 2:
        steps.append(moduli)  # it reads complex numbers
    steps += PARTS
    if opt_level >= 2:
        # what is left of logarithms, once whole Softplus are found
        steps += [recover_early, softplus_below_zero, own_rows]
    steps += [lower_graph, dce]
    if opt_level >= 1:
        steps.append(cse_early)
    if opt_level == 1:
        steps.append(Fixpoint("clean", CLEAN, limit=4))
    if opt_level >= 2:
        steps.append(Fixpoint("clean", CLEAN_AND_RECOVER, limit=6))
        steps += LAYOUT
    if opt_level >= 3:
        steps += ONNXRUNTIME
    steps += BACK
    if opt_level >= 1:
        steps.append(Fixpoint("finish", (fold, cse, dce), limit=2))
    # last, so that nothing folds what they add
    steps += [weights_dtype, scale_chains]
    return PassPipeline(tuple(steps), level=opt_level)
