"""What a training came to: weights, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from spa.passes.samples.perplexity import Perplexity


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """How it went.

    Attributes:
        before, after: loss on samples held out, of what came in and of what is given back; `after` is never larger.
        epochs: begun, those of an earlier run that was resumed included.
        seconds: that the training took.
        trained: share (0..1) of the parameters that were trained.
        history: held-out loss after each epoch.
        learning_rate: the one of several tried that went on to the end; None: it was given.
        fitted: a repair of the model has seen the samples held out, so that `before` is too low.
        own: samples of the tool's own that each epoch had besides.
        perplexity: on texts that neither a step nor the choice of the best epoch has seen, of what came in and of what
            is given back; None: the samples were no texts.
    """

    before: float
    after: float
    epochs: int
    seconds: float
    trained: float
    history: tuple[float, ...]
    learning_rate: float | None = None
    fitted: bool = False
    own: int = 0
    perplexity: Perplexity | None = None

    @property
    def sentence(self) -> str:
        """What came of it, in words; where no epoch did better, that the weights are those that came in."""
        tried = f" at a learning rate of {self.learning_rate:g}" if self.learning_rate else ""
        company = f", each with {self.own} samples of our own besides," if self.own else ""
        epochs = f"{self.epochs} epoch{'s' * (self.epochs != 1)}{company}{tried}"
        if self.after < self.before:
            return f"loss on samples held out: {self.before:.4g} -> {self.after:.4g} after {epochs}"
        best = f", {min(self.history):.4g} at best" if self.history else ""
        advice = "try a lower learning rate, or more samples"
        if self.fitted:
            advice = "the repair was fitted to them, so name others by validation"
        return (
            f"no better on samples held out than before, {self.before:.4g}, after {epochs}{best}: "
            f"the weights are as they were; {advice}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """Weights and buffers by name, on the CPU, and how the training went."""

    weights: Mapping[str, Tensor]
    report: FinetuneReport
