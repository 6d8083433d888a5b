"""A rule from the text that it prints as."""

from __future__ import annotations

import re

from spa.notation.linearity import Terms
from spa.notation.linearity import parse_terms as parse_linear
from spa.notation.patterns import Term, parse_line, parse_terms
from spa.notation.products import Product, parse_product
from spa.notation.rule import Follow, Observed, Positions, Read, Rule, Sizes

_SIZES = re.compile(r"(operand|attribute) (\w+)=(target |back )?(\[?)([^\]]*)\]?(?: instead of (\w+))?")


_NOTE = re.compile(r"(?P<word>statistic|frozen) (?P<names>[^:]+): (?P<reason>.+)")


def parse(text: str) -> Rule:
    """The rule that prints as `text`.

    Raises:
        ValueError: the text is no rule; says where.
    """
    line, *notes = text.split(" | ")
    sizes: dict[str, int] = {}
    reasons: dict[str, dict[str, str]] = {"statistic": {}, "frozen": {}}
    kinds: dict[str, str] = {}
    follows: list[Follow] = []
    macs: list[tuple[str, ...]] = []
    reads: list[Read] = []
    linear: Terms = ()
    meets: list[tuple[int, ...]] = []
    unseen: tuple[int, ...] = ()
    zeros: list[tuple[int, int]] = []
    products: list[Product] = []
    picks: list[tuple[int, str]] = []
    looks: list[tuple[int, str]] = []
    holds: list[tuple[int, str]] = []
    least: dict[str, int] = {}
    for note in notes:
        if match := _NOTE.fullmatch(note):
            reasons[match["word"]].update(dict.fromkeys(match["names"].split(), match["reason"]))
        elif match := _SIZES.fullmatch(note):
            target = int(match[2]) if match[1] == "operand" else match[2]
            terms, scalar = _parse_list(match[5]), not match[4]
            follows.append(Sizes(target, terms, scalar, match[3] == "target ", match[6] or "", match[3] == "back "))
        elif match := re.fullmatch(r"result (\d+)=\[([^\]]*)\]", note):
            follows.append(Observed(int(match[1]), _parse_list(match[2])))
        elif match := re.fullmatch(r"operand (\d+) counts (.+)", note):
            follows.append(Positions(int(match[1]), parse_terms(match[2])[0]))
        elif match := re.fullmatch(r"result (\d+) picks (\w+)", note):
            picks.append((int(match[1]), match[2]))
        elif match := re.fullmatch(r"result (\d+) holds (\w+)", note):
            holds.append((int(match[1]), match[2]))
        elif match := re.fullmatch(r"operand (\d+) looks up (\w+)", note):
            looks.append((int(match[1]), match[2]))
        elif match := re.fullmatch(r"(\w+) is at least (\d+)", note):
            least[match[1]] = int(match[2])
        elif match := re.fullmatch(r"(\w+) is (\w+)", note):
            kinds[match[1]] = match[2]
        elif match := re.fullmatch(r"(\w+)=(\d+)", note):
            sizes[match[1]] = int(match[2])
        elif match := re.fullmatch(r"operand (\d+) sums over (?:([\w ]+) along )?axis (\d+)", note):
            reads.append(Read(int(match[1]), int(match[3]), tuple((match[2] or "").split())))
        elif match := re.fullmatch(r"operand (\d+) is zero at operand (\d+)", note):
            zeros.append((int(match[1]), int(match[2])))
        elif note.startswith("product "):
            products.append(parse_product(note))
        elif note.startswith("linear "):
            linear = parse_linear(note.removeprefix("linear "))
        elif match := re.fullmatch(r"(meets|unseen) ([\d ]+)", note):
            operands_of = tuple(map(int, match[2].split()))
            meets, unseen = ([*meets, operands_of], unseen) if match[1] == "meets" else (meets, (*unseen, *operands_of))
        elif note.startswith("macs "):
            macs.append(tuple(note.split()[1:]))
        else:
            raise ValueError(
                f"rule note {note!r}: expected a size, statistic, frozen, kind, operand, attribute or macs"
            )
    operands, results = parse_line(line)
    return Rule(
        operands,
        results,
        sizes,
        reasons["statistic"],
        reasons["frozen"],
        tuple(follows),
        kinds,
        tuple(macs) or None,
        tuple(reads),
        tuple(zeros),
        tuple(products),
        linear,
        tuple(meets),
        unseen,
        tuple(picks),
        tuple(looks),
        least,
        tuple(holds),
    )


def _parse_list(text: str) -> tuple[Term | None, ...]:
    if not text:
        return ()
    return tuple(None if item.strip() == "_" else parse_terms(item)[0] for item in text.split(", "))
