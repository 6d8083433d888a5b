"""A rule applied to a node, and the questions that the engine asks of it.

    application.sums()          what the node sums over, along which axes of which operands
    application.passes("n")     what becomes of a change of basis along a factor
    application.products()      MatMul, Conv, LSTM ...: the weights that can be refitted, and the rows they meet

`Coupling.applications` holds one for each node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from spa.analysis.matching import build
from spa.notation.dims import Factor
from spa.notation.linearity import Passing, Terms, passing
from spa.notation.operation import Moves, entry_of
from spa.notation.patterns import Name, Pattern, Term, names_in, names_of
from spa.notation.products import Product, Window
from spa.notation.rule import Rule


@dataclass(frozen=True, slots=True)
class Application:
    """A rule applied to a node: what each of its names stands for.

    Attributes:
        factors: by name; a starred name `s` stands here as s.0, s.1 ...
        terms: of each operand's axes, stars written out.
        weights: positions of operands computed from constants alone.
    """

    node: ir.Node
    rule: Rule
    factors: Mapping[str, Factor]
    terms: Sequence[tuple[Term, ...]] = ()
    weights: frozenset[int] = frozenset()

    def named(self, name: str) -> list[Factor]:
        """The factors of a name: one, or one for each axis of a starred name."""
        if name in self.factors:
            return [self.factors[name]]
        factors: list[Factor] = []
        while (key := f"{name}.{len(factors)}") in self.factors:
            factors.append(self.factors[key])
        return factors

    def factor(self, term: Term) -> Factor:
        """The dim that a term of the rule stands for."""
        return build(term, None, dict(self.factors), {})

    def operand_axes(self, position: int) -> list[Term]:
        """The terms of an operand's axes, stars expanded; empty where the rule says nothing."""
        return list(self.terms[position]) if position < len(self.terms) else []

    def sums(self) -> list[Sum]:
        """What the node sums over; what only moves elements leaves some out, and sums over nothing."""
        gone = frozenset() if entry_of(self.node).moves else self.rule.contracted
        again = {(read.operand, read.axis): read.names for read in self.rule.reads}
        sums = []
        for operand, terms in enumerate(self.terms):
            for axis, term in enumerate(terms if operand not in self.rule.unseen else ()):
                names = frozenset(name.name for name in names_of(term))
                if (operand, axis) in again:
                    wanted = again[operand, axis]
                    summed = frozenset(name for name in names if not wanted or _stem(name) in wanted)
                    sums.append(Sum(operand, axis, term, summed, again=True))
                elif summed := frozenset(name for name in names if _stem(name) in gone):
                    sums.append(Sum(operand, axis, term, summed))
        return sums

    def passes(self, name: str) -> Passing | None:
        """What becomes of a change of basis along a factor; None: the node is not linear along it."""
        operands = [at for at, terms in enumerate(self.terms) for part in names_in(terms) if part.name == name]
        results = any(_stem(name) == made.name for axes in self.rule.results for made in names_in(axes))
        moves = entry_of(self.node).moves
        if moves is not None:  # where to, others say: not to the same place for each index, where they have it too
            moved = bool(operands) if moves is Moves.ALL else set(operands) == {0}
            return Passing.SAME if results and moved and len(set(operands)) == len(operands) else None
        rule = self.rule
        return passing(operands, results=results, terms=self.linear_terms, meets=rule.meets, unseen=rule.unseen)

    @property
    def linear_terms(self) -> Terms:
        """The products of operands whose sum the first result is."""
        if self.rule.linear or any(product.inside or product.data is None for product in self.rule.products):
            return self.rule.linear
        pairs = [(product.data, product.weight) for product in self.rule.products if product.data is not None]
        biases = [product.bias for product in self.rule.products if product.bias is not None]
        given = [at for at in biases if at < len(self.node.inputs) and self.node.inputs[at] is not None]
        return (*pairs, *((at,) for at in given))

    def products(self) -> list[Mixing]:
        """The products of computed data with a stored weight."""
        mixings = []
        for said in self.rule.products:
            product = said
            if said.symmetric and said.data in self.weights and said.weight not in self.weights:
                product = replace(said, data=said.weight, weight=said.data)
            if product.weight in self.weights and product.data not in self.weights:
                mixings.append(self._mixing(product))
        return mixings

    def _mixing(self, product: Product) -> Mixing:
        rule = self.rule
        weight_axes = rule.operands[product.weight]
        if product.steps is not None:
            return self._recurrent(product, weight_axes)
        assert product.data is not None
        data_axes, result_axes = rule.operands[product.data], rule.results[0]
        made = _names(weight_axes)
        again = self._summed_again(product.data)
        contracted = made & _names(data_axes) & (rule.contracted | again)
        bias_axes = [term if made & _names((term,)) else 1 for term in result_axes or ()]
        while bias_axes and bias_axes[0] == 1:
            bias_axes.pop(0)
        if product.parts > 1 or again:
            bias_axes = [term for term in weight_axes or () if not _names((term,)) & contracted]
        names: tuple[tuple[str, str], ...] = ()
        if product.window is not None:
            places = [Name(f"t{axis}") for axis in range(len(product.window.kernel))]
            taps = [Name(f"k{axis}") for axis in range(len(product.window.kernel))]
            star = next(term.name for term in weight_axes or () if isinstance(term, Name) and term.star)
            names = tuple((tap.name, f"{star}.{axis}") for axis, tap in enumerate(taps))
            contracted |= {tap.name for tap in taps}
            data_axes = (*_starred(data_axes, places), *taps)
            weight_axes, result_axes = _starred(weight_axes, taps), _starred(result_axes, places)
            bias_axes = [term for term in bias_axes if not isinstance(term, int)]
        return Mixing(
            product,
            data_axes,
            weight_axes,
            tuple(bias_axes) or (1,),
            frozenset(contracted),
            names,
            None if product.inside else result_axes,
        )

    def _summed_again(self, operand: int) -> frozenset[str]:
        """The names along axes of an operand that are summed over although they go on in a result."""
        terms = self.operand_axes(operand)
        return frozenset(
            name.name
            for read in self.rule.reads
            if read.operand == operand
            for name in names_of(terms[read.axis])
            if not read.names or _stem(name.name) in read.names
        )

    def _recurrent(self, product: Product, weight_axes: Pattern) -> Mixing:
        """The axis of the weight that reads the state goes by another name than the axis that makes it."""
        read = next(read.axis for read in self.rule.reads if read.operand == product.weight)
        assert weight_axes is not None
        (state,) = names_of(weight_axes[read])
        before = Name(f"{state.name}_before")
        data_axes = tuple(before if term == state else term for term in self.rule.results[0] or ())
        made = weight_axes[:read]
        names = ((before.name, state.name),)
        return Mixing(product, data_axes, (*made, before), made, frozenset({before.name}), names)


@dataclass(frozen=True, slots=True)
class Sum:
    """Factors that a node sums over along an axis of an operand.

    Attributes:
        names: of the rule, stars written out.
        again: they go on in a result.
    """

    operand: int
    axis: int
    term: Term
    names: frozenset[str]
    again: bool = False


@dataclass(frozen=True, slots=True)
class Mixing:
    """A product of a node with the names of its axes.

    Attributes:
        data_axes, weight_axes, bias_axes: names of the factors of each axis; after sliding, where there is a window:
            the data's spatial axes are then named like those of the result, the taps like those of the weight.
        contracted: the names summed over.
        stands_for: for a name that is not the rule's own, the rule's name with the same factor.
        result_axes: of the result; None where the product is not what the node gives.
    """

    product: Product
    data_axes: Pattern
    weight_axes: Pattern
    bias_axes: Pattern
    contracted: frozenset[str]
    stands_for: tuple[tuple[str, str], ...] = ()
    result_axes: Pattern = None

    @property
    def data(self) -> int | None:
        """The operand that rows are made of; None: the node's own first result."""
        return self.product.data

    @property
    def weight(self) -> int:
        """The stored operand."""
        return self.product.weight

    @property
    def bias(self) -> int | None:
        """The operand that is added and may be given; None: the node takes no bias."""
        return self.product.bias

    @property
    def window(self) -> Window | None:
        """How the weight slides over the data."""
        return self.product.window

    @property
    def steps(self) -> int | None:
        """The axis of the steps of a recurrence that reads its own result."""
        return self.product.steps


def _stem(name: str) -> str:
    """The name in the rule: of `s.0` it is `s`."""
    return name.partition(".")[0]


def _names(axes: Pattern) -> frozenset[str]:
    return frozenset(name.name for name in names_in(axes))


def _starred(axes: Pattern, names: Sequence[Name]) -> tuple[Term, ...]:
    """Axes with these names in place of the star."""
    spread: list[Term] = []
    for term in axes or ():
        spread += names if isinstance(term, Name) and term.star else [term]
    return tuple(spread)
