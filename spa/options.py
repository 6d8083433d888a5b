"""All that `spa.prune` can be asked for, in one object: ``PruneOptions.of(ratio=0.3, of="flops", data=samples)``.

The fields themselves stand with the steps that read them; `spa.fields` lists where, and shows how to add one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spa.device import DeviceOptions
from spa.errors import UsageError
from spa.executor import is_place
from spa.feeds import Feeds
from spa.feeds import parse as parse_feeds
from spa.fields import Options, about, at_least, did_you_mean, options_of
from spa.gradients.options import CRITERIA as GRADIENTS
from spa.gradients.options import ORACLE, WITHOUT_SAMPLES, LearningOptions
from spa.limit import LimitOptions
from spa.passes.choose.budget import LATENCY, UNSAID, Budget, is_said
from spa.passes.choose.importance import Scoring
from spa.presets import METHODS
from spa.repair import RepairOptions

InputShapes = Mapping[str, Sequence[int]]

_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def input_shapes(items: Sequence[str]) -> dict[str, list[int]]:
    """The shapes of inputs, each NAME=SIZES such as pixels=1,3,224,224.

    Raises:
        UsageError: an item is not of that form.
    """
    shapes = {}
    for item in items:
        name, equals, text = item.rpartition("=")
        try:
            shapes[name] = [int(size) for size in text.split(",") if size]
        except ValueError:
            equals = ""
        if not equals or not name or any(size < 1 for size in shapes[name]):
            raise UsageError(f"{item!r}: expected NAME=SIZES such as pixels=1,3,224,224")
    return shapes


def nbytes_of(text: str) -> int:
    """6GB, 6000MB and 6000000000 are the same.

    Raises:
        UsageError: the text is no size.
    """
    word = text.strip().upper().removesuffix("B")
    unit = word[-1:] if word[-1:] in _UNITS else ""
    try:
        return int(float(word.removesuffix(unit)) * _UNITS.get(unit, 1))
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r}: expected a size such as 6GB") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Options):
    """What is done around the choice, and where: shapes to analyse with, checks, writing."""

    PANEL: ClassVar[str] = "Result and messages, such as -o small.onnx --json"

    inputs: InputShapes | None = field(
        default=None,
        metadata=about(
            "shapes of inputs for analysis, FLOPs and verification, where open axes are not enough",
            metavar="NAME=1,3,224,224",
            flag="--input",
            parse=input_shapes,
            repeated=True,
        ),
    )
    feeds: Feeds | None = field(
        default=None,
        metadata=about(
            "what inputs are given when outputs are compared: numbers (1,2,3), ones, zeros, range:N (whole numbers "
            "below N), or a file .npy or .npz (without NAME it holds inputs by name); what is left out is made up",
            metavar="NAME=VALUES",
            flag="--feed",
            parse=parse_feeds,
            repeated=True,
        ),
    )
    on: str | None = field(
        default=None,
        metadata=about(
            "what does the work of a repair: ray, one worker for each core of this machine, or ray://HOST:PORT, those "
            "of a cluster",
            metavar="PLACE",
            check=is_place,
            unset="this process",
            needs=("samples",),
        ),
    )
    memory: int | None = field(
        default=None,
        metadata=about(
            "bytes that a repair may use beside the model's file; what needs more goes part by part, and values that "
            "wait lie in temporary files",
            metavar="6GB",
            parse=nbytes_of,
            check=at_least(64_000_000, what="a number of bytes, 64 MB or more"),
            unset="half of what is free, at least 4 GB",
            needs=("samples",),
        ),
    )
    checkpoint: str | os.PathLike[str] | None = field(
        default=None,
        metadata=about(
            "a folder in which a repair of more than a minute keeps what it has found, to go on from there where it "
            "was stopped",
            metavar="FOLDER",
            unset="of spa prune, beside the result until that is written",
            needs=("samples",),
        ),
    )
    verify: bool = field(
        default=True, metadata=about("check the result", flag="--no-verify", negated="write the result unchecked")
    )
    dry_run: bool = field(default=False, metadata=about("stop at the plan, and change no model"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """All options of one run, in the parts that read them; `of` takes them by name.

    Attributes:
        budget: how much goes, and of what.
        scoring: how weights are scored.
        repair: what decides: weights alone, or samples.
        learning: what is learned by gradients.
        device: whose time counts.
        run: shapes, checks and writing.
        limit: what may be lost, in the place of a share.

    Raises:
        UsageError: two of them do not fit together, or one has no effect beside the others.
    """

    budget: Budget
    scoring: Scoring = field(default_factory=Scoring)
    repair: RepairOptions = field(default_factory=RepairOptions)
    learning: LearningOptions = field(default_factory=LearningOptions)
    device: DeviceOptions = field(default_factory=DeviceOptions)
    run: RunOptions = field(default_factory=RunOptions)
    limit: LimitOptions = field(default_factory=LimitOptions)

    def __post_init__(self) -> None:
        self._check_budget()
        self._check_limit()
        decided = self.decided_by
        for part in (self.budget, self.scoring, self.repair, self.run):
            for option in part.given():
                needs = option.about.needs
                trained = self.learning.finetune is not None and "gradients" in needs
                if decided == "best" or not needs or decided in needs or trained:
                    continue
                raise UsageError(
                    f"{option.name} has no effect without samples: give data, or ask for data-free"
                    if decided == "weights"
                    else f"{option.name} has no effect with {decided}, which decide what goes: leave it out"
                )
        self._check_data()
        self._check_learning()

    def _check_data(self) -> None:
        repair = self.repair
        if not repair.has_samples or not repair.by_weights or self.learning.finetune is not None:
            return
        if repair.weights:
            raise UsageError(
                "weights and data exclude each other: samples decide, or weights alone, unless finetune uses the data"
            )
        raise UsageError(
            f"criterion {repair.criterion!r} with data: expected one of {', '.join((*METHODS, *GRADIENTS))}; it scores "
            "weights alone, so leave the data out, or give finetune"
        )

    def _check_learning(self) -> None:
        criterion, learns = self.repair.criterion, self.repair.by_gradients
        trains = self.learning.finetune is not None
        if trains and self.run.dry_run:
            raise UsageError("finetune has no effect with dry-run, which makes nothing to be trained: leave one out")
        if learns and criterion in WITHOUT_SAMPLES and self.repair.has_samples and not trains:
            raise UsageError(f"data has no effect with criterion {criterion!r}, which needs none: leave it out")
        if (criterion in WITHOUT_SAMPLES or not learns) and not trains:
            for name in ("labels", "loss"):
                if getattr(self.learning, name) is not None:
                    raise UsageError(f"{name} has no effect unless something is learned: give finetune, or a criterion "
                                     f"such as {', '.join(GRADIENTS)}")  # fmt: skip
        if criterion != ORACLE and any(option.name == "oracle_budget" for option in self.learning.given()):
            raise UsageError(f"oracle_budget has no effect with criterion {criterion!r}: it is the oracle's")

    def _check_budget(self) -> None:
        if self.device.target is not None:
            if is_said(self.budget.ratio):
                raise UsageError("target and ratio both say how much goes: leave one of them out")
            if self.budget.of != LATENCY:
                raise UsageError(f"target counts of latency, not of {self.budget.of}: leave of out, or give ratio")
        elif not is_said(self.budget.ratio) and self.limit.max_loss is None:
            raise UsageError(
                "nothing says how much is to go: give ratio (--ratio 30%), target for a time (--target 5ms), or "
                "max_loss for what may be lost (--max-loss 0.01)"
            )
        if self.budget.of != LATENCY and (given := [option.name for option in self.device.given()]):
            raise UsageError(
                f"{given[0]} has no effect on a budget of {self.budget.of}: give of=latency, or leave it out"
            )
        if self.budget.of == LATENCY and self.learning.steps > 1:
            raise UsageError("of latency in several steps: a time is met in one; leave steps out")
        if self.budget.of == LATENCY and self.repair.search is not None:
            raise UsageError("search of latency: what was searched for would miss the time; leave search out")
        if self.budget.of == LATENCY and self.budget.scope != "global":
            raise UsageError(
                f"of latency with scope {self.budget.scope}: time is shared out over the whole model; leave scope out"
            )

    def _check_limit(self) -> None:
        if self.limit.max_loss is None:
            for option in self.limit.given():
                raise UsageError(f"{option.name} has no effect without max_loss: give it, or ask spa sweep")
        elif is_said(self.budget.ratio) or self.device.target is not None:
            other = "ratio" if is_said(self.budget.ratio) else "target"
            raise UsageError(f"{other} and max_loss both say how much goes: leave one of them out")

    @property
    def decided_by(self) -> str:
        """What decides what goes: gradients, samples or weights, if one was asked for; else the better of the last two:
        best."""
        if self.repair.by_gradients:
            return "gradients"
        if self.repair.by_weights:  # data may be there for training
            return "weights"
        if self.repair.has_samples or self.repair.criterion in METHODS:
            return "samples"
        return "weights" if any(self.scoring.given()) else "best"

    def apart(self) -> PruneOptions:
        """The same for a run of which nothing is told: a budget of time is met as well, and its rounds not kept."""
        return replace(self, device=self.device.apart())

    def at(self, ratio: float) -> PruneOptions:
        """The same for a `ratio`, in the place of what else says how much goes.

        Raises:
            UsageError: the ratio is out of range.
        """
        budget = replace(self.budget, ratio=ratio)
        return replace(self, budget=budget, limit=LimitOptions(), run=replace(self.run, dry_run=False))

    def asked(self) -> dict[str, Any]:
        """What decides of the result, by name, as JSON knows it; of samples and functions no more than a name."""
        parts = (self.budget, self.scoring, self.repair, self.learning, self.device, self.limit)
        values = {option.name: getattr(part, option.name) for part in parts for option in options_of(type(part))}
        if self.limit.metric is None:
            values.pop("lower_is_better")
        return {name: _plain(value) for name, value in values.items() if value is not None and value is not UNSAID}

    @classmethod
    def of(cls, **given: Any) -> PruneOptions:
        """The options given by name; None stands for one that is not given.

        Raises:
            TypeError: there is no option of that name; says what is close.
            UsageError: neither a ratio nor a limit is given, or both; a value is not what was expected, or two
                do not fit together.
        """
        chosen: dict[str, dict[str, Any]] = {name: {} for name in PARTS}
        homes = {option.name: name for name, kind in PARTS.items() for option in options_of(kind)}
        for name, value in given.items():
            if name not in homes:
                raise TypeError(f"prune() got an unexpected keyword argument {name!r}{did_you_mean(name, homes)}")
            if value is not None:
                chosen[homes[name]][name] = value
        if given.get("target") is not None:
            chosen["budget"].setdefault("of", LATENCY)
        parts: dict[str, Any] = {name: kind(**chosen[name]) for name, kind in PARTS.items()}
        return cls(**parts)


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Path(value).name if os.sep in str(value) else str(value)
    if isinstance(value, Options):
        return {option.name: _plain(getattr(value, option.name)) for option in options_of(type(value))}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return getattr(value, "__qualname__", None) or type(value).__qualname__


PARTS: Mapping[str, type[Options]] = {
    "budget": Budget, "scoring": Scoring, "repair": RepairOptions, "learning": LearningOptions, "device": DeviceOptions,
    "run": RunOptions, "limit": LimitOptions,
}  # fmt: skip
"""The classes of the options of a run, by the name of their part."""

assert list(PARTS) == [part.name for part in fields(PruneOptions)]
