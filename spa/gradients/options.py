"""Options of criteria from gradients and of training, read without torch: the command line's help needs none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from spa.errors import UsageError
from spa.feeds import LABELS
from spa.fields import Options, about, at_least, is_number, number
from spa.frontends.samples import ImageOptions
from spa.frontends.texts import TextOptions, check_readings
from spa.gradients.spending import spend_in
from spa.passes.choose.budget import BUDGETS, share
from spa.passes.choose.importance.scoring import Scoring

FLOW = ("grasp", "crop")
"""Criteria of the mean gradient's own gradient."""

ORACLE = "oracle"

CRITERIA = ("taylor", "fisher", "obd", "gblm", "snip", *FLOW, "synflow", ORACLE)
"""Criteria from gradients, or from the loss itself; `spa.gradients.criteria` says what each is."""

WITHOUT_SAMPLES = ("synflow",)

CONTROLS = ("uniform", "random", "shuffled")

SPARSITY = ("gates", "lasso", "scales")
"""What makes units small in training; `spa.gradients.sparsity` says how."""

SCORING_SAMPLES = 1024
"""Of the samples of a training, so many score what goes before it."""

DEVICES = ("auto", "cpu", "cuda", "mps")

PRECISIONS = ("float32", "bfloat16", "float16")

SUBSETS = ("biases", "norms", "scales")
"""Vectors that are added; that a normalisation scales and shifts by; that something is multiplied with."""


def _not_negative(value: Any) -> str | None:
    return None if is_number(value) and value >= 0 else "a number, 0 or above"


def _positive(value: Any) -> str | None:
    return None if is_number(value) and value > 0 else "a number above 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningOptions(Options):
    """What a prune learns from samples by gradients.

    Raises:
        UsageError: an option is out of range, or two do not fit together.
    """

    PANEL: ClassVar[str] = Scoring.PANEL

    labels: str | None = field(
        default=None,
        metadata=about(
            "the entry of the data that holds labels, whose cross-entropy is the loss",
            metavar="NAME",
            unset=f"{LABELS}, where the data has it; else the loss is the distance from the model's own outputs",
        ),
    )
    loss: Any = field(
        default=None,
        metadata=about(
            "a loss of your own: module:function, called with the outputs and the batch by name", metavar="NAME"
        ),
    )
    oracle_budget: str = field(
        default="5m",
        metadata=about(
            "how long the criterion oracle may measure: a time such as 5m, or runs such as 2000r",
            metavar="5m",
            check=spend_in("smhr"),
        ),
    )
    finetune: str | None = field(
        default=None,
        metadata=about(
            "train what is left, by the dense model's outputs, with labels where there are some, or by a loss of your "
            "own: a time such as 5m, or epochs such as 3e",
            metavar="5m",
            check=spend_in("smhe"),
        ),
    )
    resume: str | os.PathLike[str] | None = field(
        default=None,
        metadata=about(
            "a file that keeps the state of finetune after every epoch; where it exists, go on from it",
            metavar="FILE",
            more="with steps, a file for each",
        ),
    )
    steps: int = field(
        default=1,
        metadata=about(
            "prune in so many steps, of which the first take most; what is done to a model is done after each",
            metavar="N",
            parse=number,
            check=at_least(1, what="1 or more"),
        ),
    )
    regrow: bool = field(
        default=False, metadata=about("between steps, let units come back that the training would need (GraNet)")
    )
    control: str | None = field(
        default=None,
        metadata=about(
            "what the choice is to be held against",
            metavar="NAME",
            choices=CONTROLS,
            more="the same share of every group; units drawn at random; or as many of each group as chosen, drawn at "
            "random, the weights of those that stay as they were",
        ),
    )
    seed: int = field(default=0, metadata=about("of the order of samples in training, and of controls", metavar="N"))

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.labels is not None and self.loss is not None:
            raise UsageError("labels and loss exclude each other: a loss of your own gets the whole batch")
        if self.resume is not None and self.finetune is None:
            raise UsageError("resume has no effect without training: give finetune")
        if self.regrow and (self.steps == 1 or self.finetune is None):
            raise UsageError("regrow has no effect without steps and training between them: give steps and finetune")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions(Options):
    """What is learned from what, and for how long.

    Raises:
        UsageError: an option is out of range, or two do not fit together.
    """

    PANEL: ClassVar[str] = "What is learned, such as --data samples.npz --epochs 3"

    data: Any = field(
        metadata=about(
            "samples: arrays by input name, an .npz, a folder of .npy, .npz or images, texts (.txt, .jsonl or a folder "
            "of these), or module:function",
            metavar="SAMPLES",
        )
    )
    validation: Any = field(
        default=None,
        metadata=about(
            "samples, as data, by which the best epoch is chosen; those that the dense network was trained on say "
            "little of new ones",
            metavar="SAMPLES",
            unset="one in six of data, held out",
        ),
    )
    labels: str | None = field(
        default=None,
        metadata=about("the entry of the data that holds labels, learned by cross-entropy", metavar="NAME"),
    )
    loss: Any = field(
        default=None,
        metadata=about(
            "a loss of your own: module:function, called with the outputs and the batch by name", metavar="NAME"
        ),
    )
    epochs: int | None = field(
        default=None,
        metadata=about(
            "times that every sample is seen", metavar="N", parse=number, check=at_least(1, what="1 or more")
        ),
    )
    minutes: float | None = field(
        default=None, metadata=about("how long to learn, instead of epochs", metavar="M", parse=number, check=_positive)
    )
    alone: bool = field(
        default=False,
        metadata=about(
            "learn the given samples alone; otherwise up to 1024 pictures or sounds get as many of the tool's own in "
            "each epoch, which the teacher answers and which are never held out"
        ),
    )
    train: Sequence[str] = field(
        default=(),
        metadata=about("train these alone: biases, norms, scales", metavar="NAME", repeated=True),
    )
    learning_rate: float | None = field(
        default=None,
        metadata=about(
            "of AdamW", metavar="RATE", parse=number, check=_positive,
            unset="the better of 1e-3 and 1e-4, a fifth of the budget each to find out",
        ),
    )  # fmt: skip
    batch_size: int | None = field(
        default=None,
        metadata=about(
            "samples of a step", metavar="N", parse=number, check=at_least(1, what="1 or more"),
            unset="32, or fewer where an epoch would have less than twenty steps, or the outputs of a step take 256 MB",
        ),
    )  # fmt: skip
    device: str = field(
        default="auto",
        metadata=about("where to learn; auto: on a GPU where there is one", metavar="KIND", choices=DEVICES),
    )
    devices: int = field(
        default=1,
        metadata=about(
            "learn on so many, a process each, with a batch each",
            metavar="N",
            parse=number,
            check=at_least(1, what="1 or more"),
        ),
    )
    precision: str = field(
        default="float32",
        metadata=about("of what is computed; weights stay float32", metavar="TYPE", choices=PRECISIONS),
    )
    seed: int = field(default=0, metadata=about("of the order of samples", metavar="N"))
    resume: str | os.PathLike[str] | None = field(
        default=None,
        metadata=about("a file that keeps the state after every epoch; where it exists, go on from it", metavar="FILE"),
    )
    images: ImageOptions | None = field(default=None, metadata=about("how images become samples", parts=ImageOptions))
    texts: TextOptions | None = field(default=None, metadata=about("how texts become samples", parts=TextOptions))

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.epochs is not None and self.minutes is not None:
            raise UsageError("epochs and minutes exclude each other: give one of them")
        if self.labels is not None and self.loss is not None:
            raise UsageError("labels and loss exclude each other: a loss of your own gets the whole batch")
        check_readings(self.data, self.images, self.texts)
        for name in self.train:
            if name not in SUBSETS:
                raise UsageError(f"train {name!r}: expected one of {', '.join(SUBSETS)}")

    @property
    def budget(self) -> int:
        """Epochs, where no time is given."""
        return self.epochs or 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(FinetuneOptions):
    """What a graph is trained by, what goes before, and what is made sparse on the way.

    Raises:
        UsageError: an option is out of range, or two do not fit together.
    """

    PANEL: ClassVar[str] = "What is learned, such as --data labelled.npz --epochs 10 --prune snip --ratio 50%"

    learning_rate: float | None = field(
        default=2e-3, metadata=about("of AdamW", metavar="RATE", parse=number, check=_positive)
    )
    batch_size: int | None = field(
        default=128, metadata=about("samples of a step", metavar="N", parse=number, check=at_least(1, what="1 or more"))
    )
    weight_decay: float = field(
        default=0.05,
        metadata=about("of matrices and kernels", metavar="RATE", parse=number, check=_not_negative),
    )
    prune: str | None = field(
        default=None,
        metadata=about(
            "cut before the training by a criterion of spa prune, such as snip, synflow or l2; some samples score it",
            metavar="NAME",
        ),
    )
    ratio: float | None = field(
        default=None,
        metadata=about("the share that goes then, such as 50%", metavar="SHARE", parse=share),
    )
    of: str = field(default="params", metadata=about("what it is a share of", metavar="WHAT", choices=BUDGETS))
    control: str | None = field(
        default=None, metadata=about("what that choice is to be held against", metavar="NAME", choices=CONTROLS)
    )
    plan: Any = field(
        default=None,
        metadata=about("cut by a plan before the training, as with an early checkpoint (rewinding)", metavar="FILE"),
    )
    restart: bool = field(default=False, metadata=about("draw all weights anew before the training"))
    sparsify: str | None = field(
        default=None,
        metadata=about(
            "make whole units small: by gates that are learned, the norms of units, or the scales of normalisations",
            metavar="NAME",
            choices=SPARSITY,
        ),
    )
    strength: float = field(
        default=1.0,
        metadata=about("of what makes units small, beside the loss", metavar="N", parse=number, check=_positive),
    )

    def __post_init__(self) -> None:
        FinetuneOptions.__post_init__(self)
        if (self.prune is None) != (self.ratio is None):
            raise UsageError("prune and ratio go together: the criterion, and the share that goes")
        if self.prune is not None and self.plan is not None:
            raise UsageError("prune and plan exclude each other: a criterion decides what goes, or a plan")
        if self.control is not None and self.prune is None:
            raise UsageError("control has no effect without prune, whose choice it is to be held against")
        if self.sparsify is None and self.strength != 1.0:
            raise UsageError("strength has no effect without sparsify")
