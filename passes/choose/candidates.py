"""Which groups take part in a selection, and why the others do not.

By default every group does, except those that are off (`Group.off`) and those inside another one that is
cut: heads and head_dim of one attention would otherwise both shrink. Of those that are off, widths with a norm of
their own (`Group.own_norm`) are opened where nothing else will do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from spa.analysis.group import Frozen, Group
from spa.analysis.stored import NUMBERS
from spa.errors import UsageError

EXCLUDED, OFF, NESTED, EMPTY, UNREAD = "excluded", "off", "nested", "empty", "unread"


@dataclass(frozen=True, slots=True)
class Candidates:
    """Group numbers that take part, ascending, and for all others which reason keeps them out."""

    active: tuple[int, ...]
    left: Mapping[int, str]


def find_candidates(
    groups: Sequence[Group],
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    only: Iterable[str] = (),
    unread: Collection[str] = (),
    norms: bool = False,
    reaches: Callable[[int], bool] = lambda number: True,  # noqa: ARG005
) -> Candidates:
    """The groups that are cut.

    Args:
        include: turns on groups that are off, and lets nested groups be cut together.
        exclude, only: groups that are left alone; groups but which all are left alone.
        unread: names of groups that no weight reads which could make up for them.
        norms: turns on groups with a norm of their own (`Group.own_norm`).
        reaches: whether a group has units enough to be cut at all; where it has not, the group nested
            in it is cut instead.

    Patterns are shell patterns (`*`, `?`, `[...]`) for a group's name or kind, a constant that it cuts, a node that
    uses such a constant, or a cache (an input or output) that shrinks with it.

    Raises:
        UsageError: a pattern matches nothing; lists close names.
    """
    included, excluded = _matching(include, groups, "include"), _matching(exclude, groups, "exclude")
    only = tuple(only)
    wanted = _matching(only, groups, "only") if only else set(range(len(groups)))
    left: dict[int, str] = {}
    for number, group in enumerate(groups):
        if number in excluded or number not in wanted:
            left[number] = EXCLUDED
        elif group.off is not None and number not in included and not (norms and group.own_norm):
            left[number] = OFF
        elif group.name in unread:
            left[number] = UNREAD
        elif all(piece.value.const_value is None or piece.value.const_value.dtype in NUMBERS for piece in group.slices):
            left[number] = EMPTY
    free = [number for number in range(len(groups)) if number not in left]
    left |= dict.fromkeys(_inside(groups, free, included, reaches), NESTED)
    return Candidates(tuple(number for number in free if number not in left), left)


def _inside(
    groups: Sequence[Group], free: Sequence[int], included: set[int], reaches: Callable[[int], bool]
) -> Iterator[int]:
    """The free groups that give way to another of their nest: the outermost that reaches goes first."""
    outer = _all_outer(groups)
    cut: set[str] = set()
    around: set[str] = set()  # the groups outside one that is cut
    nests = {name for group in groups if group.outer for name in (group.name, *outer[group.name])}
    order = [number for number in free if groups[number].name in nests]
    order.sort(key=lambda number: len(outer[groups[number].name]))
    reaching = [number for number in order if reaches(number)]
    short = [number for number in order if number not in reaching]  # better than nothing
    for number in (*reaching, *short):
        name = groups[number].name
        if number not in included and (outer[name] & cut or name in around):
            yield number
            continue
        cut.add(name)
        if number not in included:  # what was asked for by name stands beside its outer groups, not instead of them
            around |= outer[name]


def _all_outer(groups: Sequence[Group]) -> dict[str, frozenset[str]]:
    """For each group the groups outside it, those outside of these included."""
    direct = {group.name: group.outer for group in groups}
    outer: dict[str, frozenset[str]] = {}
    for name in direct:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for outside in direct.get(waiting.pop(), ()):
                if outside not in seen:
                    seen.add(outside)
                    waiting.append(outside)
        outer[name] = frozenset(seen - {name})
    return outer


# ------------------------------------------------------------------------------------------------- patterns
def names_of(group: Group) -> Iterator[str]:
    """What a pattern may call a group: its name and kind, its constants, the nodes that use them, and its caches."""
    yield group.name
    yield group.kind
    yield from group.cached
    for piece in group.slices:
        yield piece.value.name or ""
        yield from (node.name or "" for node, _ in piece.value.uses())


def _matching(patterns: Iterable[str], groups: Sequence[Group], option: str) -> set[int]:
    """The numbers of the groups that some pattern names."""
    patterns = tuple(patterns)
    labels = [frozenset(names_of(group)) for group in groups] if patterns else []
    matched: set[int] = set()
    for pattern in patterns:
        numbers = {
            number
            for number, names in enumerate(labels)
            if pattern in names or any(fnmatchcase(name, pattern) for name in names)
        }
        if not numbers:
            known = sorted({name for names in labels for name in names if name})
            close = get_close_matches(pattern, known, n=3, cutoff=0.5)
            hint = f"close to it: {', '.join(close)}" if close else "`spa groups` lists what could go"
            raise UsageError(f"{option} {pattern!r} matches no group, tensor or node that could be cut; {hint}")
        matched |= numbers
    return matched


# ------------------------------------------------------------------------------------------------- in words
def reasons(groups: Sequence[Group], candidates: Candidates) -> list[str]:
    """Why groups are left alone, in words, a line for each reason and kind.

    Whole branches go on demand alone, which is only said where other groups were left out.
    """
    chosen = EXCLUDED in candidates.left.values()
    left: dict[tuple[str, str], list[Group]] = {}
    for number, reason in candidates.left.items():
        if reason == OFF and groups[number].branch is not None and not chosen:
            continue
        left.setdefault((reason, groups[number].kind), []).append(groups[number])
    lines = []
    for (reason, kind), members in left.items():
        why = {
            OFF: f"off unless included with include={kind!r}: {members[0].off}",
            NESTED: f"nested with groups that are cut; include={kind!r} cuts both",
            EXCLUDED: "left out by exclude or only",
            EMPTY: "no parameters in them",
            UNREAD: "nothing could make up for them: nodes without weights to refit, or with packed ones, read them, "
            "or no sample reaches those that do",
        }[reason]
        lines.append(f"{len(members)} {kind} group{'s' if len(members) > 1 else ''} left alone ({why})")
    return lines


def opened(groups: Sequence[Group], candidates: Candidates, norms: bool) -> list[str]:
    """Which groups take part for their own norms being opened, in words; empty where none does."""
    normed = [groups[number] for number in candidates.active if norms and groups[number].own_norm]
    if not normed:
        return []
    names = (
        f"{', '.join(group.name for group in normed[:3])}{f' and {len(normed) - 3} more' if len(normed) > 3 else ''}"
    )
    why = f"{normed[0].off}; --exclude width leaves such widths alone"
    return [f"opened since nothing else meets the budget, and by weights alone not exact: {names} ({why})"]


def what_stays(groups: Sequence[Group], frozen: Sequence[Frozen], *, most: int = 3) -> str:
    """The main reasons why tensors without any axis to cut stay, the most parameters first."""
    cut = {repr(piece.value.name) for group in groups if group.branch is None for piece in group.slices}
    widest: dict[str, Frozen] = {}  # a tensor's widest axis tells why it stays; a kernel's taps never shrink
    for entry in frozen:
        tensor = entry.name.rpartition(":")[0]
        if tensor not in cut and (tensor not in widest or entry.size > widest[tensor].size):
            widest[tensor] = entry
    shares: dict[str, list[Frozen]] = {}
    for entry in widest.values():
        shares.setdefault(entry.reason.text, []).append(entry)
    largest = sorted(shares.items(), key=lambda item: -sum(entry.params for entry in item[1]))[:most]
    lines = [
        f"{text}: {sum(entry.params for entry in entries):,} params, such as {entries[0].name.rpartition(':')[0]}"
        for text, entries in largest
    ]
    return "; ".join(lines)
