"""Fused attention of onnxruntime's own domain: heads, head sizes and hidden sizes are attributes of the node."""

from __future__ import annotations

from dataclasses import replace

from spa.notation.operation import MICROSOFT, Operation, Refusal, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Rule, Sizes, rule
from spa.notation.values import Values
from spa.operators.attention import ORDER, SCALE, SOFTMAX, counts, rotate
from spa.operators.quantize import zeros

FUSED = "a head size that a fused attention holds on to"
PARTS = "queries, keys and values"
STATE = "positions of a state that is kept for the next call"


@operator("RotaryEmbedding", domain=MICROSOFT)
def rotary(operation: Operation) -> Rule:
    """`b h s (p r), b s, m r, m r -> b h s (p r)`: pairs p turn together; interleaved they are `(r p)`."""
    if len(operation.shape(1)) == 2:
        return rotate(operation, [1, 2, 3], ["b s", "m r", "m r"])
    counted = rotate(operation, [1, 2, 3], ["_", "m r", "m r"])
    return replace(counted, frozen={**counted.frozen, "s": "positions counted from an offset"})


def _bias(operation: Operation, position: int, names: list[str]) -> str:
    """The pattern of a bias of the scores: batch and heads may broadcast."""
    if not operation.has(position):
        return "_"
    shape = operation.shape(position)
    return pattern(["1" if size == 1 else name for size, name in zip(shape, names[4 - len(shape) :], strict=True)])


def _padding(operation: Operation, position: int, total: str) -> str:
    """The pattern of a mask of the keys, or of the lengths of the samples."""
    if not operation.has(position):
        return "_"
    shape, batch = operation.shape(position), operation.shape(0)[0]
    return {2: f"b {total}", 3: f"b s {total}", 4: "b 1 x y"}.get(len(shape), "b" if shape == (batch,) else "_")


def _inside(operation: Operation, names: str) -> dict[str, str]:
    """Why a head size stays, if it does."""
    if operation.attribute("do_rotary", 0):
        return {names: FUSED}
    return {} if operation.attribute("scale") else {names: SCALE}


def _sequence(names: str, *, causal: bool) -> dict[str, dict[str, str]]:
    return {"frozen": {names: ORDER}} if causal else {"statistic": {names: SOFTMAX}}


# ------------------------------------------------------------------------------------------------- projecting
@operator("Attention", domain=MICROSOFT, values=Values(weight=1, bias=2, past=4), continues=((4, 1),))
@operator(
    "QAttention",
    domain=MICROSOFT,
    values=Values(weight=1, bias=2, past=8, scales=(3, 4), zeros=(6, 7)),
    continues=((8, 1),),
)
def projected(operation: Operation) -> Rule:
    """`b s i, i (h k + h k + h v), (h k + h k + h v), b s, z b h p d -> b s (h v), z b h (p + s) d`.

    Without sizes of their own, queries, keys and values share one head size: `i (z h d)`.
    """
    if operation.attribute("past_present_share_buffer", 0):
        raise Refusal("an attention whose past and present share a buffer")
    quantised = operation.name == "QAttention"
    mask, past = (5, 8) if quantised else (3, 4)
    own = "qkv_hidden_sizes" in operation.attributes
    made, value, key = ("(h k + h k + h v)", "v", "k") if own else ("(z h d)", "d", "d")
    if own and (operation.has(past) or len(operation.outputs) > 1):
        raise Refusal("an attention with a state and with sizes of its own")
    total = "(p + s)" if operation.has(past) else "s"
    optional = {
        2: made,
        mask: _padding(operation, mask, total),
        past: f"z b h p {value}",
        **({7: made, 4: made} if quantised else {5: _bias(operation, 5, ["b", "h", "s", total])}),
    }
    operands = ["b s i", f"i {made}", *(optional.get(at, "_") for at in range(2, len(operation.inputs)))]
    given = [
        text if operation.has(at) and operation.shape(at) not in ((), (1,)) else "_" for at, text in enumerate(operands)
    ]
    named = {name for text in given for name in text.replace("(", " ").replace(")", " ").split()}
    causal = bool(operation.attribute("unidirectional", 0))
    notes = _sequence(" ".join(name for name in "sp" if name in named), causal=causal)
    frozen = notes.get("frozen", {}) | _inside(operation, key)
    if not own:
        frozen |= {"z": PARTS}
    if "x" in named:
        frozen |= {"x y": ORDER}
    sizes = {"h": int(operation.attribute("num_heads"))} | ({} if own else {"z": 3})
    if own:
        width = int(operation.attribute("qkv_hidden_sizes")[0])
        sizes["k"] = width // sizes["h"]
    hidden = (Sizes("qkv_hidden_sizes", tuple(parse_terms("(h k) (h k) (h v)"))),) if own else ()
    results = [f"b s (h {value})", f"w b h {total} d"][: len(operation.outputs)]
    if "w b" in results[-1]:
        frozen |= {"w": "keys and values"}
        given = [text.replace("z b h p", "w b h p") for text in given]
    return rule(
        f"{', '.join(given)} -> {', '.join(results)}",
        sizes=sizes,
        statistic=notes.get("statistic", {}),
        frozen=frozen,
        follows=(*counts(operation, num_heads="h"), *hidden),
        kinds={"h": "heads", "k v" if own else "d": "head_dim"},
        macs=_projection_macs(own, "p" in named),
        reads=tuple((at, axis, key) for at, axis in ((1, 1), (2, 0)) if at < len(given) and given[at] != "_"),
        zeros=zeros(operation, (0, 6), (1, 7)) if quantised else (),
    )


def _projection_macs(own: bool, past: bool) -> tuple[tuple[str, ...], ...]:
    keys = ("s", "p") if past else ("s",)
    made = [("h", "k"), ("h", "k"), ("h", "v")] if own else [("z", "h", "d")]
    inside = ("k", "v") if own else ("d", "d")
    return (
        *(("b", "s", "i", *each) for each in made),
        *(("b", "h", "s", key, size) for key in keys for size in inside),
    )


# -------------------------------------------------------------------------------------------------- attending
@operator(
    "MultiHeadAttention",
    domain=MICROSOFT,
    values=Values(operand=2, packed=(0, 1), bias=3, past=7),
    continues=((6, 1), (7, 2)),
)
def multi_head(operation: Operation) -> Rule:
    """`b s (h k), b t (h k), b t (h v), (h k + h k + h v) -> b s (h v)`; or packed `b s h z d`, `b t h z d`."""
    query = operation.shape(0)
    heads = int(operation.attribute("num_heads"))
    key = operation.shape(1) if operation.has(1) else ()
    packed = len(query) == 5 or len(key) == 5
    one_size = packed or len(key) == 4 or operation.has(6)  # the kernels want one head size where tensors are stacked
    k, v = ("d", "d") if one_size else ("k", "v")
    keys = {0: "_", 3: f"b t (h {k})", 4: f"b h t {k}", 5: "b t h z d"}[len(key)]
    values = {3: f"b t (h {v})", 4: f"b h t {v}"}[len(operation.shape(2))] if operation.has(2) else "_"
    rows = "t" if len(query) == 5 else "s"
    total = "(p + t)" if operation.has(6) else "t"
    optional = [
        "(w h d)" if one_size else f"(h {k} + h {k} + h {v})",
        _padding(operation, 4, total if operation.has(4) and operation.shape(4)[-1] != _steps(operation) else "t"),
        _bias(operation, 5, ["b", "h", rows, total]),
        f"b h p {k}",
        f"b h p {v}",
    ]
    operands = ["b t h z d" if len(query) == 5 else f"b s (h {k})", keys, values, *optional, "_", "_"]
    given = [text if operation.has(at) else "_" for at, text in enumerate(operands[: len(operation.inputs)])]
    results = [f"b {rows} (h {v})", f"b h {total} {k}", f"b h {total} {v}", f"b h {rows} {total}"]
    steps = ("t p" if operation.has(6) else "t") + (
        " s" if operation.attribute("unidirectional", 0) and rows == "s" else ""
    )
    notes = _sequence(steps, causal=bool(operation.attribute("unidirectional", 0)))
    frozen = notes.get("frozen", {}) | _inside(operation, k)
    sizes = {"h": heads}
    if packed:
        sizes["z"] = (query if len(query) == 5 else key)[3]
        frozen["z"] = PARTS
    if operation.has(3):
        sizes |= {"w": 3} if one_size else {"k": query[2] // heads}
        frozen |= {"w": PARTS} if one_size else {}
    return rule(
        f"{', '.join(given)} -> {', '.join(results[: len(operation.outputs)])}",
        sizes=sizes,
        statistic=notes.get("statistic", {}),
        frozen=frozen,
        follows=counts(operation, num_heads="h"),
        kinds={"h": "heads", "d" if one_size else "k v": "head_dim"},
        macs=tuple(("b", "h", rows, at, inside) for at in steps.split()[: 1 + operation.has(6)] for inside in (k, v)),
        reads=((0, len(query) - 1, k), *(((3, 0, k),) if operation.has(3) else ())),
        linear=((2,),),
        meets=((0, 1),),
    )


def _steps(operation: Operation) -> int:
    """The number of keys that come with the call."""
    if not operation.has(1):
        return operation.shape(0)[1]
    key = operation.shape(1)
    return key[2] if len(key) == 4 else key[1]


@operator(
    "GroupQueryAttention", domain=MICROSOFT, values=Values(operand=2, packed=(0,), past=4), continues=((3, 1), (4, 2))
)
def group_query(operation: Operation) -> Rule:
    """`b s (h r d), b t (h d), b t (h d), b h p d, b h p d, b, (), m e, m e -> b s (h r d), b h u d, b h w d`."""
    shared = int(operation.attribute("kv_num_heads"))
    repeat = int(operation.attribute("num_heads")) // shared
    head = "h r" if repeat > 1 else "h"
    query = f"b s ({head} d)" if operation.has(1) else f"b s ({head} d + h d + h d)"
    lengths = "1" if operation.shape(5) == (1,) else "b" if len(operation.shape(5)) == 1 else "b 1"
    operands = [query, "b t (h d)", "b t (h d)", "b h p d", "b h p d", lengths, "_", "m e", "m e", "b s"]
    operands += [_bias(operation, 10, ["b", f"({head})", "s", "l"]), f"({head})", "_", "_", "d", "d"]
    given = [text if operation.has(at) else "_" for at, text in enumerate(operands[: len(operation.inputs)])]
    results = [f"b s ({head} d)", "b h u d", "b h w d", f"b ({head}) s l"][: len(operation.outputs)]
    named = {name for text in (*given, *results) for name in text.split()}
    state = " ".join(name for name in ("p", "u", "w", "m", "e", "l") if name in named)
    frozen = {"s t" if operation.has(1) else "s": ORDER, "d": FUSED} | ({state: STATE} if state else {})
    keys = "t" if operation.has(1) else "s"
    return rule(
        f"{', '.join(given)} -> {', '.join(results)}",
        sizes={"h": shared, "d": _head_size(operation, repeat, shared)} | ({"r": repeat} if repeat > 1 else {}),
        frozen=frozen,
        follows=counts(operation, num_heads=f"({head})", kv_num_heads="h"),
        kinds=({"h": "kv_heads", "r": "heads"} if repeat > 1 else {"h": "heads"}) | {"d": "head_dim"},
        macs=(("b", *head.split(), "s", keys, "d"),) * 2,
    )


def _head_size(operation: Operation, repeat: int, shared: int) -> int:
    heads = repeat * shared if operation.has(1) else (repeat + 2) * shared
    return operation.shape(0)[-1] // heads
