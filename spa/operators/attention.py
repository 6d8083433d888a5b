"""Scaled dot-product attention and rotary position embeddings, as single operators."""

from __future__ import annotations

from spa.notation.operation import MICROSOFT, Operation, Refusal, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Rule, Sizes, rule
from spa.notation.values import Values
from spa.operators.indexing import LOOKED_UP
from spa.operators.recurrent import STEPS

SCALE = "its size sets the scale of the scores (give the operator an explicit scale to free it)"
SOFTMAX = "enters a softmax"
ORDER = "positions of a causal mask or window"
WINDOWS = ("left_window_size", "right_window_size")


def counts(operation: Operation, **terms: str) -> tuple[Sizes, ...]:
    """Attributes that hold the size of a term, where the node has them and they are not zero (absent)."""
    return tuple(
        Sizes(name, tuple(parse_terms(term)), scalar=True) for name, term in terms.items() if operation.attribute(name)
    )


@operator("Attention", values=Values(operand=2, past=5), continues=((4, 1), (5, 2)))
def attention(operation: Operation) -> Rule:
    """`b (h r) s k, b h t k, b h t v, s t, b h p k, b h p v -> b (h r) s v, b h (p + t) k, b h (p + t) v`."""
    query, key = operation.shape(0), operation.shape(1)
    stacked = len(query) == 4
    heads = query[1] if stacked else int(operation.attribute("q_num_heads", 0))
    shared = key[1] if stacked else int(operation.attribute("kv_num_heads", 0))
    if not shared or heads % shared:
        raise Refusal(f"{heads} query heads do not share {shared} heads of keys and values")
    repeat = heads // shared
    head = "h r" if repeat > 1 else "h"
    layout = "b ({}) {} {}" if stacked else "b {1} ({0} {2})"
    operands = [layout.format(head, "s", "k"), layout.format("h", "t", "k"), layout.format("h", "t", "v")]
    total = "(p + t)" if operation.has(4) else "t"
    optional = [_mask(operation, ["b", f"({head})", "s", total]), "b h p k", "b h p v", "b"]
    operands += [text if operation.has(at) else "_" for at, text in enumerate(optional, 3)]
    results = [layout.format(head, "s", "v"), f"b h {total} k", f"b h {total} v", f"b ({head}) s {total}"]
    ordered = operation.attribute("is_causal", 0) or operation.has(6)
    ordered = ordered or any(operation.attribute(name, -1) != -1 for name in WINDOWS)
    keys = "p t" if operation.has(4) else "t"
    frozen = {f"s {keys}": ORDER} if ordered else {}
    if "m" in operands[3].split():
        frozen |= {f"{keys} m": "a mask shorter than the keys"}
    if "scale" not in operation.attributes:
        frozen |= {"k": SCALE}
    sizes = {} if stacked else {"h": shared}
    rows = ["b", "h", *(["r"] if repeat > 1 else []), "s"]
    return rule(
        f"{', '.join(operands[: len(operation.inputs)])} -> {', '.join(results[: len(operation.outputs)])}",
        sizes=sizes | ({"r": repeat} if repeat > 1 else {}),
        statistic={} if ordered else {keys: SOFTMAX},
        frozen=frozen,
        follows=counts(operation, q_num_heads=f"({head})", kv_num_heads="h"),
        kinds=({"h": "kv_heads", "r": "heads"} if repeat > 1 else {"h": "heads"}) | {"k v": "head_dim"},
        macs=tuple((*rows, at, inside) for at in keys.split() for inside in "kv"),
        reads=((0, len(query) - 1, "k"),) if len(operation.outputs) > 1 else (),
        linear=((2,),),
        meets=((0, 1),),
    )


def _mask(operation: Operation, names: list[str]) -> str:
    """The pattern of a mask that broadcasts against the scores; one shorter than the keys has `m` last."""
    if not operation.has(3):
        return "_"
    shape = operation.shape(3)
    terms = ["1" if size == 1 else name for size, name in zip(shape, names[4 - len(shape) :], strict=True)]
    past = operation.shape(4)[2] if operation.has(4) else 0
    key = operation.shape(1)
    if shape[-1] not in (1, past + key[-2 if len(key) == 4 else 1]):
        terms[-1] = "m"
    return pattern(terms)


@operator("LinearAttention", continues=((3, 1),))
@operator("LinearAttention", domain=MICROSOFT, continues=((3, 1),))
def linear_attention(operation: Operation) -> Rule:
    """`b t (h r k), b t (h k), b t (h v), b h k v, b t (h k), b t h -> b t (h r v), b h k v`."""
    shared = int(operation.attribute("kv_num_heads"))
    if operation.attribute("state_window", 0) or int(operation.attribute("q_num_heads")) % shared:
        raise Refusal("a linear attention with several states, or with more heads of keys than of queries")
    repeat = int(operation.attribute("q_num_heads")) // shared
    head = "h r" if repeat > 1 else "h"
    decay = "_"
    if operation.has(4):
        decay = "b t h" if operation.shape(4)[-1] == shared else "b t (h k)"
    rate = "_"
    if operation.has(5):
        rate = "b t h" if operation.shape(5)[-1] == shared else "b t 1"
    operands = [f"b t ({head} k)", "b t (h k)", "b t (h v)", "b h k v" if operation.has(3) else "_", decay, rate]
    results = [f"b t ({head} v)", "b h k v"][: len(operation.outputs)]
    return rule(
        f"{', '.join(operands[: len(operation.inputs)])} -> {', '.join(results)}",
        sizes={"h": shared} | ({"r": repeat} if repeat > 1 else {}),
        frozen={"t": STEPS} | ({} if operation.attribute("scale") else {"k": SCALE}),
        follows=counts(operation, q_num_heads=f"({head})", kv_num_heads="h"),
        kinds=({"h": "kv_heads", "r": "heads"} if repeat > 1 else {"h": "heads"}) | {"k v": "head_dim"},
        macs=(("b", "t", "h", "k", "v"), ("b", "t", *head.split(), "k", "v")),
        reads=((0, 2, "k"), (1, 2, "k")),
    )


# ----------------------------------------------------------------------------------------------------- rotary
@operator("RotaryEmbedding")
def rotary(operation: Operation) -> Rule:
    """`b h s (p r), m r, m r, b s -> b h s (p r)`: pairs p turn together; interleaved they are `(r p)`."""
    caches = ["m r", "m r", "b s"] if operation.has(3) else ["b s r", "b s r"]
    return rotate(operation, [1, 2, 3], caches)


def rotate(operation: Operation, at: list[int], caches: list[str]) -> Rule:
    """The rule of a rotary embedding with the given patterns of its other operands, at these positions."""
    shape = operation.shape(0)
    half = operation.shape(at[caches.index(next(text for text in caches if text.endswith("r")))])[-1]
    heads = shape[1] if len(shape) == 4 else int(operation.attribute("num_heads", 0)) or shape[-1] // (2 * half)
    size = shape[-1] if len(shape) == 4 else shape[-1] // heads
    pair = "r p" if operation.attribute("interleaved", 0) else "p r"
    inside = pair if size == 2 * half else f"(({pair}) + e)"
    data = f"b h s ({inside})" if len(shape) == 4 else f"b s (h {inside})"
    operands = [data, *(text for _, text in sorted(zip(at, caches, strict=False)))]
    return rule(
        f"{', '.join(operands)} -> {data}",
        sizes={"p": 2, "r": half} | ({} if len(shape) == 4 else {"h": heads}),
        frozen={"p": "turned by one angle"} | ({"m": LOOKED_UP} if "m r" in caches else {}),
        follows=counts(operation, num_heads="h", rotary_embedding_dim=f"({pair})"),
        kinds={"h": "heads", "r" if size == 2 * half else "r e": "head_dim"},
    )
