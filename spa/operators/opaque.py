"""Operators for which no rule makes sense, with the reason: all that they touch stays."""

from __future__ import annotations

from collections.abc import Callable

from spa.notation.operation import Operation, Refusal, operator
from spa.notation.rule import Rule

REASONS = {
    "holds a list of tensors, of any number and shape": """
        ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength
        SequenceMap SplitToSequence
    """,
    "may hold no tensor": "Optional OptionalGetElement OptionalHasElement",
    "works on text": "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    "decodes a file": "ImageDecoder",
}


def _refuse(reason: str) -> Callable[[Operation], Rule]:
    def refuse(_: Operation) -> Rule:
        raise Refusal(reason)

    refuse.__doc__ = f"None: {reason}."
    return refuse


operator("Constant", holds=True)(_refuse("a constant of its own, which normalising makes an initializer"))
operator("NonMaxSuppression", "Unique", counts=True)(_refuse("chooses positions by value when the graph runs"))
for _reason, _names in REASONS.items():
    operator(*_names.split())(_refuse(_reason))
