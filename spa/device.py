"""Options of a budget of time, which device and how many milliseconds: ``DeviceOptions(target=5.0, threads=1)``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from spa.errors import UsageError
from spa.fields import Options, about, at_least, is_number
from spa.passes.choose.budget import Budget
from spa.record import Profile, read_profile

if TYPE_CHECKING:
    from spa.passes.latency.goal import Goal

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def milliseconds(text: str) -> float:
    """5ms, 5000us, 0.005s and 5 are the same.

    Raises:
        UsageError: the text is no time.
    """
    word = text.strip()
    unit = next((unit for unit in _UNITS if word.endswith(unit)), "")
    try:
        return float(word.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        raise UsageError(f"{text!r}: expected a time such as 5ms") from None


def _is_time(value: Any) -> str | None:
    return None if is_number(value) and value > 0 else "milliseconds above zero"


def _is_profile(value: Any) -> str | None:
    return None if isinstance(value, (Profile, str, os.PathLike)) else "a profile that `spa profile` wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions(Options):
    """The device that the smaller model is for.

    Raises:
        UsageError: an option is out of range.
    """

    PANEL: ClassVar[str] = Budget.PANEL

    target: float | None = field(
        default=None,
        metadata=about(
            "instead of ratio, the milliseconds that a run may take",
            metavar="TIME",
            check=_is_time,
            parse=milliseconds,
            more="counts of latency",
        ),
    )
    profile: Profile | str | os.PathLike[str] | None = field(
        default=None,
        metadata=about(
            "where the times of latency come from: what `spa profile` wrote, here or on another machine",
            metavar="FILE",
            check=_is_profile,
            parse=read_profile,
            unset="this machine, timed first",
        ),
    )
    provider: str | None = field(
        default=None,
        metadata=about(
            "onnxruntime's name of the device whose time counts, such as CPUExecutionProvider",
            metavar="NAME",
            unset="CUDA where it works, else the CPU",
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=about(
            "threads inside an operator while times are taken",
            metavar="N",
            check=at_least(1, what="a whole number of threads, 1 or more"),
            parse=int,
            unset="one a core",
        ),
    )

    @property
    def goal(self) -> Goal | None:
        """What the options come to on the device; None: nobody has asked it yet."""
        return None

    def apart(self) -> DeviceOptions:
        """The same for a run of which nothing is told."""
        return self

    @property
    def timed(self) -> Profile | None:
        """The profile that was given.

        Raises:
            ModelError: the file holds none.
        """
        return read_profile(self.profile) if isinstance(self.profile, (str, os.PathLike)) else self.profile
