"""An option is said once: command line, signature, docstring and check follow from its field."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import spa
from spa.adapters import restore
from spa.cli import app, flags
from spa.errors import UsageError
from spa.fields import Option, Options, about, at_least, options_of, takes_options
from spa.options import PARTS, PruneOptions
from spa.passes.choose.budget import Budget
from tests import models

KNOWN = [option for kind in PARTS.values() for option in options_of(kind)]


@pytest.mark.parametrize("option", KNOWN, ids=lambda option: option.name)
def test_every_option_is_a_flag_and_a_keyword_with_its_meaning(option: Option) -> None:
    parameter = inspect.signature(spa.prune).parameters[option.name]
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    assert parameter.default is option.keyword_default
    assert option.name in inspect.signature(restore.prune).parameters
    documented = " ".join((spa.prune.__doc__ or "").split())
    assert f" {option.name}: {option.about.sentence}" in documented
    shown = options_of(option.about.parts) if option.about.parts else [option]
    text = " ".join(CliRunner().invoke(app, ["prune", "--help"], env={"COLUMNS": "400"}).output.split())
    for each in shown:
        said = each.about.negated or each.about.sentence
        assert f"{each.flag} " in text
        assert said[1:] in text


def test_names_are_unique_and_every_field_is_described() -> None:
    names = [option.name for option in KNOWN]
    assert len(names) == len(set(names))
    for kind in PARTS.values():
        undescribed = {field.name for field in dataclasses.fields(kind)} - {option.name for option in options_of(kind)}
        assert undescribed <= {"widths", "kept"}  # what a framework takes, and protect comes to: nobody asks for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience(Options):
    """The example of `spa.fields`."""

    patience: int = field(
        default=1,
        metadata=about("how many times to try again", metavar="N", check=at_least(1, what="a whole number, 1 or more")),
    )


def test_a_field_is_all_that_an_option_needs() -> None:
    @takes_options(Patience)
    def work(**keywords: Any) -> Patience:
        """Work.

        Args:
            options: as follows.
        """
        return Patience(**keywords)

    assert str(inspect.signature(work)) == "(*, patience: int = 1) -> 'Patience'"
    assert "patience: how many times to try again (default: 1)." in (work.__doc__ or "")
    with pytest.raises(UsageError, match="patience 0: expected a whole number, 1 or more"):
        work(patience=0)
    command = typer.Typer(rich_markup_mode=None)

    @command.command()
    @flags.takes_options(Patience)
    def run(**options: Any) -> None:
        print(work(**flags.values(options, Patience)))

    assert CliRunner().invoke(command, ["--patience", "3"]).output == "Patience(patience=3)\n"
    assert re.search(r"--patience N +How many times to try again \(default: 1\)\.", plain(command))


def plain(command: typer.Typer) -> str:
    return re.sub(r"[│\s]+", " ", CliRunner().invoke(command, ["--help"], env={"COLUMNS": "200"}).output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": "0.3"}, "ratio '0.3': expected a share between 0 and 1"),
        ({"ratio": 30}, r"ratio 30: .*did you mean 0\.3 or"),
        ({"ratio": True}, "ratio 1: expected a share"),
        ({"ratio": 0.3, "align": 2.5}, r"align 2\.5: expected a whole number"),
        ({"ratio": 0.3, "of": "flop"}, "of 'flop': expected one of .*; did you mean flops?"),
        ({"ratio": 0.3, "preset": "best", "weights": True}, "preset has no effect without samples"),
        ({"ratio": 0.3, "images": spa.ImageOptions(mean=(0.5,))}, "images has no effect without samples"),
        ({"ratio": 0.3, "gather": "mean", "data_free": True}, "gather has no effect with samples"),
    ],
)
def test_values_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneOptions.of(**options)


def test_keywords_that_there_are_not() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'min_kep'; did you mean min_keep"):
        spa.prune(models.residual_cnn(), ratio=0.3, min_kep=0.2)
    with pytest.raises(UsageError, match="nothing says how much is to go: give ratio"):
        spa.prune(models.residual_cnn())
    with pytest.raises(TypeError, match="give one or the other"):
        spa.prune(models.residual_cnn(), options=PruneOptions.of(ratio=0.3), of="flops")


def test_one_object_or_keywords_say_the_same() -> None:
    repair = spa.RepairOptions(weights=True)
    options = spa.PruneOptions(budget=spa.Budget(ratio=0.4, of="flops", exclude="c0:0"), repair=repair)
    assert options == PruneOptions.of(ratio=0.4, of="flops", exclude=["c0:0"], scope=None, weights=True)
    results = [
        spa.prune(models.residual_cnn(), options=options),
        spa.prune(models.residual_cnn(), ratio=0.4, of="flops", exclude="c0:0", weights=True),
    ]
    assert results[0].plan == results[1].plan


def test_numbers_of_numpy_are_numbers() -> None:
    assert PruneOptions.of(ratio=np.float32(0.5), align=np.int64(4)).budget == Budget(ratio=0.5, align=4)
