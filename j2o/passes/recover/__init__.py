"""Operators that the program was written with, found again in what JAX traced it to."""

from j2o.passes.recover import (
    activations,
    averages,
    borders,
    choices,
    fractions,
    gates,
    group_norms,
    limits,
    linear_resize,
    log_sum_exp,
    nearest,
    norms,
    rotary,
    softmax,
    strides,
    total_order,
)
from j2o.passes.rewriting.rule import RuleSet

recover = RuleSet(
    "recover",
    (
        *softmax.SOFTMAXES,
        *norms.LAYER_NORMS,
        *norms.RMS_NORMS,
        *group_norms.GROUP_NORMS,
        *rotary.ROTARIES,
        *activations.ACTIVATIONS,
        *limits.LIMITS,
        *gates.GATES,
    ),
    level=2,
    doc="Softmax, normalisations, activations.",
)
recover_early = RuleSet(
    "recover_early",
    (
        *activations.EARLY_ACTIVATIONS,
        *gates.EARLY_GATES,
        *averages.AVERAGES,
        *fractions.FRACTIONS,
        *strides.STRIDES,
        *log_sum_exp.LOG_SUM_EXP,
        *nearest.NEAREST,
        *linear_resize.LINEAR_RESIZE,
        *borders.BORDERS,
        *choices.CHOICES,
        *total_order.TOTAL_ORDER,
    ),
    at="lax",
    level=2,
    doc="What is plainer before lowering: activations, averages, borders, choices, floats, slices, orders.",
)
