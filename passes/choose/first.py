"""The widths that groups had before the first cut, in the metadata of a file: what stays at least is a share of those.

    onnx.load("small.onnx").metadata_props  # spa.widths: {"conv1.weight:0": 64}

Pruned again and again by a little, a group would lose its last units under a floor that is a share of what is left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx_ir as ir

from spa.analysis.plan import Plan

KEY = "spa.widths"


def first_widths(model: ir.Model) -> dict[str, int]:
    """The first number of units of each group that was ever cut, by name; empty where none was."""
    try:
        widths = json.loads(model.metadata_props.get(KEY, "{}"))
        return {str(name): int(size) for name, size in widths.items()}
    except (ValueError, TypeError, AttributeError):  # another tool's note
        return {}


def note_widths(model: ir.Model, plan: Plan) -> None:
    """Write the widths before a plan into a model that it was applied to; those of earlier cuts stay."""
    known: Mapping[str, int] = {**plan.sizes, **first_widths(model)}
    if known:
        model.metadata_props[KEY] = json.dumps(known, sort_keys=True)
