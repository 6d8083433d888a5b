"""Operators that make tensors out of sizes, numbers or chance, and those that read sizes."""

from __future__ import annotations

from spa.notation.operation import Draws, Lists, Operation, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Observed, Rule, Sizes, rule
from spa.operators.pointwise import RANDOM
from spa.operators.sizes import listed_in

COUNTED = "counted off when the graph runs"


@operator("Shape", lists=Lists.SIZES)
def shape(operation: Operation) -> Rule:
    """`a b c -> r`: the result lists the sizes of a, b and c."""
    names = letters(len(operation.shape(0)), avoid="r")
    start, end = operation.attribute("start", 0), operation.attribute("end")
    listed = names[start : len(names) if end is None else end]
    terms = tuple(parse_terms(" ".join(listed)))
    return rule(
        f"{pattern(names)} -> r",
        frozen={"r": "a list of sizes"},
        follows=(Observed(0, terms),) if terms else (),
        unseen=(0,),
    )


@operator("Size", lists=Lists.COUNT)
def size(_: Operation) -> Rule:
    """`*a -> ()`: the result is the product of the sizes."""
    return rule("*a -> ()", frozen={"a": "its positions are counted"}, unseen=(0,))


@operator("ConstantOfShape", completes=listed_in(0), fills="value")
def constant_of_shape(operation: Operation) -> Rule:
    """`_ -> a b c`, the operand lists the sizes."""
    names = letters(len(operation.result()))
    follows = (Sizes(0, tuple(parse_terms(" ".join(names)))),) if names else ()
    return rule(f"_ -> {pattern(names)}", follows=follows)


@operator("Range", counts=True)
def range_(_: Operation) -> Rule:
    """`_, _, _ -> n`."""
    return rule("_, _, _ -> n", frozen={"n": COUNTED})


@operator("EyeLike")
def eye_like(_: Operation) -> Rule:
    """`a b -> a b`."""
    return rule("a b -> a b", frozen={"a b": "positions on a diagonal"})


@operator("RandomNormal", "RandomUniform", draws=Draws())
def random(operation: Operation) -> Rule:
    """`() -> a b c`: no operands."""
    names = letters(len(operation.result()))
    return rule(f"() -> {pattern(names)}", frozen={" ".join(names): RANDOM} if names else {})


@operator("Bernoulli", "RandomNormalLike", "RandomUniformLike", draws=Draws())
def random_like(_: Operation) -> Rule:
    """`*a -> *a`."""
    return rule("*a -> *a", frozen={"a": RANDOM})


@operator("Multinomial", draws=Draws())
def multinomial(_: Operation) -> Rule:
    """`n c -> n s`."""
    return rule("n c -> n s", frozen={"n c s": RANDOM})


# ---------------------------------------------------------------------------------------------------- signals
FREQUENCIES = "positions in time or frequency"


@operator("BlackmanWindow", "HammingWindow", "HannWindow")
def window(_: Operation) -> Rule:
    """`_ -> n`."""
    return rule("_ -> n", frozen={"n": FREQUENCIES})


@operator("MelWeightMatrix")
def mel_weights(_: Operation) -> Rule:
    """`_, _, _, _, _ -> f m`."""
    return rule("_, _, _, _, _ -> f m", frozen={"f m": FREQUENCIES})


@operator("STFT")
def short_time_fourier(operation: Operation) -> Rule:
    """`n *s, _, w, _ -> n f b c`."""
    taper = "w" if operation.has(2) else "_"
    operands = ["n *s", "_", taper, "_"][: len(operation.inputs)]
    names = "s w f b c" if operation.has(2) else "s f b c"
    return rule(f"{', '.join(operands)} -> n f b c", frozen={names: FREQUENCIES})


@operator("DFT")
def fourier(operation: Operation) -> Rule:
    """`n s c, _, _ -> n sx cx`: c holds the real and the imaginary part."""
    names = letters(len(operation.shape(0)), avoid="x")
    rank = len(names)
    axes = (
        operation.numbers(2) if operation.has(2) else [operation.attribute("axis", 1 if operation.version < 20 else -2)]
    )
    moved = set(range(rank)) if axes is None else {int(axes[0]) % rank, rank - 1}
    after = [name + "x" if axis in moved else name for axis, name in enumerate(names)]
    frozen = {" ".join(f"{names[axis]} {after[axis]}" for axis in sorted(moved)): FREQUENCIES}
    others = ", _" * (len(operation.inputs) - 1)
    return rule(f"{pattern(names)}{others} -> {pattern(after)}", frozen=frozen)
