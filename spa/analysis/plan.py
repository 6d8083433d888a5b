"""A plan: which units of which groups go, as plain data, JSON both ways."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spa.analysis.group import Group
from spa.errors import ModelError

FORMAT = "spa-plan-1"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which units of which groups go.

    Attributes:
        removed: units by the name of their group, ascending.
        sizes: the units of these groups before, to notice a wrong model.
        repair: how the weights that stayed were refitted; empty: they are the dense model's.
        refitted: digests of the stored tensors that the repair made, by name (`spa.passes.cut.likeness.digest`);
            None: they are not known.
        distance: how far the outputs are from the dense model's on the inputs of verification: relative L2, by name.
        fed: the digest of these inputs.
        options: what was asked for, by name, as JSON knows it; says nothing of what goes.
        resized: inputs and outputs that become smaller, by name: their shapes before and after.
        opened: whether it speaks of units of the model with its packed weights opened (`spa.passes.repair.packed`).
        align: what kept widths are multiples of where the budget let them; 1: anything.
    """

    removed: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    repair: str = ""
    refitted: Mapping[str, str] | None = None
    distance: Mapping[str, float] = field(default_factory=dict)
    fed: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    align: int = 1
    resized: Mapping[str, Mapping[str, Sequence[int | str | None] | None]] = field(default_factory=dict, compare=False)
    opened: bool = False

    @classmethod
    def of(cls, groups: Iterable[Group], removed: Mapping[str, Iterable[int]]) -> Plan:
        """A plan over some `groups`; those that lose nothing, or lie in a branch that goes, are left out.

        Args:
            removed: units by the name of their group, in any order.
        """
        groups = list(groups)
        gone = [group.branch for group in groups if group.branch is not None and list(removed.get(group.name, ()))]
        inside = {value for branch in gone for value in branch.stored}
        chosen = {
            group.name: tuple(sorted({int(unit) for unit in removed.get(group.name, ())}))
            for group in groups
            if group.branch is not None or not inside.issuperset(piece.value for piece in group.slices)
        }
        sizes = {group.name: group.size for group in groups}
        return cls(
            {name: units for name, units in chosen.items() if units}, {n: sizes[n] for n, u in chosen.items() if u}
        )

    def __bool__(self) -> bool:
        return bool(self.removed)

    def masks(self, groups: Sequence[Group]) -> dict[Any, np.ndarray]:
        """Which indices of each leaf factor stay: (size,) truth values; factors that stay whole are left out.

        Args:
            groups: of the model that is cut.

        Raises:
            ModelError: a group of the plan is not in this model, has another size here, or would lose all its units.
        """
        by_name = {group.name: group for group in groups}
        masks: dict[Any, np.ndarray] = {}
        for name, units in self.removed.items():
            group = by_name.get(name)
            if group is None:
                raise ModelError(
                    f"the plan removes units of {name!r}, which is no group of this model; was it made for another?"
                )
            if group.size != self.sizes[name]:
                raise ModelError(f"the plan expects {self.sizes[name]} units in {name!r}, this model has {group.size}")
            if not 0 <= units[0] <= units[-1] < group.size:
                wrong = units[0] if units[0] < 0 else units[-1]
                raise ModelError(f"the plan removes unit {wrong} of {name!r}, whose units are 0 to {group.size - 1}")
            if len(units) == group.size and group.least:
                raise ModelError(f"the plan removes all {group.size} units of {name!r}; at least one must stay")
            mask = np.ones(group.size, bool)
            mask[list(units)] = False
            for leaf in group.leaves:
                start = group.offsets[leaf]
                part = mask[start : start + leaf.size]
                if not part.all():
                    masks[leaf] = part
        return masks

    def to_json(self) -> str:
        """The plan as text; the same plan gives the same text."""
        groups = [
            {"group": name, "size": self.sizes[name], "removed": list(units)} for name, units in self.removed.items()
        ]
        repair: dict[str, Any] = {"repair": self.repair} if self.repair else {}
        repair |= {"refitted": dict(self.refitted)} if self.repair and self.refitted is not None else {}
        distance = {"distance": {"inputs": self.fed, "relative_l2": dict(self.distance)}} if self.distance else {}
        options = {"options": dict(self.options)} if self.options else {}
        align = {"align": self.align} if self.align > 1 else {}
        resized = {"resized": {name: dict(shapes) for name, shapes in self.resized.items()}} if self.resized else {}
        opened = {"opened": True} if self.opened else {}
        record = {"format": FORMAT, **options, **repair, **opened, **distance, **align, **resized, "groups": groups}
        return json.dumps(record, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            ModelError: the text is no plan; says what was found.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) and text.strip() else ""
            what = f"this is no JSON{where}" if text.strip() else "it is empty"
            raise ModelError(f"no plan of format {FORMAT!r}: {what}; `spa prune --save-plan` writes one") from error
        try:
            if data["format"] != FORMAT:
                raise ModelError(f"expected a plan of format {FORMAT!r}, found {data['format']!r}")
            removed = {
                str(g["group"]): tuple(sorted({int(u) for u in g["removed"]})) for g in data["groups"] if g["removed"]
            }
            sizes = {str(g["group"]): int(g["size"]) for g in data["groups"] if g["removed"]}
            repair, options = str(data.get("repair", "")), dict(data.get("options", {}))
            align, resized = int(data.get("align", 1)), dict(data.get("resized", {}))
            digests = data.get("refitted")
            refitted = None if digests is None else {str(name): str(digest) for name, digest in digests.items()}
            distance = data.get("distance", {"inputs": "", "relative_l2": {}})
            moved = {str(name): float(share) for name, share in distance["relative_l2"].items()}
            fed, opened = str(distance["inputs"]), bool(data.get("opened", False))
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"no plan of format {FORMAT!r}: expected an object with format and groups, each with group, size and "
                "removed; `spa prune --save-plan` writes one"
            ) from error
        return cls(removed, sizes, repair, refitted, moved, fed, options, align, resized, opened)
