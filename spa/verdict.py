"""Say in words whether a pruned model can be used as it is.

A model is not usable without fine-tuning where an output is further from the dense one's than the limits below, whose
names `spa.passes.repair.difference` defines. On inputs that were made up, keeping to them says nothing: what a network
does on real ones may be worse, so that no such figure is ever a reason to use it. On random inputs, being beyond them
makes it likely: a network may do well on real ones all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

RELATIVE_L2 = 0.5
"""At most: three quarters of the variance of an output are there."""
RELATIVE_L2_AT_RANDOM = 2.0
"""At most, on random inputs: on noise an output hardly varies, and the same error is a larger share of that (of six
pretrained models pruned by weights, three times as large on noise as on their own samples)."""
TOP1, KL = 0.7, 0.1
"""At least the share of rows that keep their first choice, or at most so many nats: what may be logits may be plain
numbers too, which change places at next to no distance."""

UNUSABLE, LIKELY = "not usable without fine-tuning", "probably "

HELD_OUT = "samples held out"
FITTED = "the only sample given"
SAMPLES = "the samples given"
MADE_UP = "made-up inputs"
SHIPPED = "shipped and made-up inputs"
RANDOM = "random inputs"
GIVEN = "the inputs given"

Outputs = Mapping[str, Mapping[str, float]]


def in_words(measures: Mapping[str, float]) -> str:
    """Figures of an output: relative L2 0.042, top-1 agreement 97.5 %."""
    words = []
    if "relative_l2" in measures:
        words.append(f"relative L2 {measures['relative_l2']:.3g}")
    if "top1" in measures:
        words.append(f"top-1 agreement {measures['top1']:.1%}")
    if "kl" in measures:
        words.append(f"KL {measures['kl']:.3g}")
    return ", ".join(words)


def off(measures: Mapping[str, float], on: str) -> bool:
    """Whether an output is further from the dense one's than that of a model of use."""
    most = RELATIVE_L2_AT_RANDOM if on in (RANDOM, GIVEN) else RELATIVE_L2
    if not measures.get("relative_l2", 0.0) <= most:  # NaN is off
        return True
    return measures.get("top1", 1.0) < TOP1 and measures.get("kl", 0.0) > KL


def unusable(outputs: Outputs, on: str, *, trained: bool = False) -> str:
    """Why a model is not usable without fine-tuning, with the figures that say so; empty: nothing says so.

    Args:
        trained: it was fine-tuned, maybe by something else than the dense model's outputs.
    """
    worst = [name for name, measures in outputs.items() if off(measures, on)]
    if not worst:
        return ""
    more = f" and {len(worst) - 2} more outputs" if len(worst) > 2 else ""
    figures = "; ".join(f"{name}: {in_words(outputs[name])}" for name in worst[:2])
    said = "far from the dense model after training" if trained else UNUSABLE
    if on == RANDOM and not trained:
        return f"{LIKELY}{UNUSABLE}: {figures}{more}, on {on}: real ones decide (prune --data, or verify --feed)"
    return f"{said}: {figures}{more}, on {on}"


def summary(outputs: Outputs, on: str, *, trained: bool = False) -> str:
    """How far the outputs moved, the one that moved most, and what to think of it; empty where none was compared."""
    if not outputs:
        return ""
    if reason := unusable(outputs, on, trained=trained):
        return reason
    name = max(outputs, key=lambda name: outputs[name].get("relative_l2", 0.0))
    which = name if len(outputs) == 1 else f"{name}, most of {len(outputs)} outputs"
    told = {HELD_OUT: "", SAMPLES: "", GIVEN: "", FITTED: ", which every fit saw"}
    doubt = told.get(on, ", which says nothing of real ones")
    return f"moved from the dense model: {which}: {in_words(outputs[name])}, on {on}{doubt}"
