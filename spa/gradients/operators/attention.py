"""Attention as one node: of ONNX (opset 23) and of onnxruntime."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import MICROSOFT, Call, implements


def heads_of(x: Tensor, count: int) -> Tensor:
    """(batch, steps, heads x size) as (batch, heads, steps, size)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """(batch, heads, steps, size) as (batch, steps, heads x size)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    before: int | None = None,
    softcap: float = 0.0,
    stage: int = 3,
) -> tuple[Tensor, Tensor]:
    """(result, scores); fewer heads of keys than of queries are repeated.

    Args:
        mask: added to the scores, or truth values of what is seen.
        before: a query sees so many keys, and further ones up to its own place; None: all.
        stage: which scores are given back: 0 the products, 1 with the mask, 2 softly capped, 3 after the softmax.
    """
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    products = q @ k.mT * (1 / sqrt(q.shape[-1]) if scale is None else scale)
    hidden = torch.finfo(products.dtype).min
    capped = softcap * torch.tanh(products / softcap) if softcap else products
    scores = capped
    if mask is not None:
        scores = torch.where(mask, scores, hidden) if mask.dtype == torch.bool else scores + mask
    if before is not None:
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(before)
        scores = torch.where(seen, scores, hidden)
    weights = torch.softmax(scores, -1)
    return weights @ v, (products, scores, capped, weights)[stage]


@implements("Attention")
def attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    flat = q.ndim == 3
    if flat:
        q = heads_of(q, call.integer("q_num_heads"))
        k, v = (heads_of(x, call.integer("kv_num_heads")) for x in (k, v))
    before = 0
    if past_k is not None and past_v is not None:
        before = past_k.shape[2]
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    if lengths is not None:  # of the keys that are no padding
        there = torch.arange(k.shape[2], device=q.device) < lengths.reshape(-1, 1, 1, 1).to(q.device)
        hidden, nothing = q.new_full((), torch.finfo(q.dtype).min), q.new_zeros(())
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.where(mask, nothing, hidden)
        added = torch.where(there, nothing, hidden)
        mask = added if mask is None else mask + added
    made, scores = attend(
        q, k, v,
        scale=call.number("scale") if call.has("scale") else None,
        mask=mask,
        before=before if call.integer("is_causal", 0) else None,
        softcap=call.number("softcap", 0.0),
        stage=call.integer("qk_matmul_output_mode", 0),
    )  # fmt: skip
    return (joined(made) if flat else made, k, v, scores)[: call.results]


@implements("Attention", domain=MICROSOFT)
def packed_attention(
    call: Call,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
) -> tuple[Tensor, ...]:
    count = call.integer("num_heads")
    packed = x @ weight if bias is None else x @ weight + bias
    sizes = call.integers("qkv_hidden_sizes") or [packed.shape[-1] // 3] * 3
    q, k, v = (heads_of(part, count) for part in packed.split(sizes, -1))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    made = joined(_masked(call, q, k, v, mask, added, bool(call.integer("unidirectional", 0))))
    return (made, torch.stack([k, v])) if call.wants(1) else (made,)


def _masked(
    call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, added: Tensor | None, causal: bool
) -> Tensor:
    """onnxruntime's masks: lengths (batch,), or ones for what is seen, (batch, keys) or (batch, queries, keys)."""
    total = added
    if mask is not None:
        if mask.ndim == 1:
            steps = torch.arange(k.shape[2], device=q.device)[None]
            mask = (steps < mask.to(q.device)[:, None]).to(torch.int64)
        shape = {2: (mask.shape[0], 1, 1, -1), 3: (mask.shape[0], 1, *mask.shape[1:])}.get(mask.ndim, mask.shape)
        hidden = (1.0 - mask.reshape(shape).to(q)) * call.number("mask_filter_value", -10000.0)
        total = hidden if total is None else total + hidden
    scale = call.number("scale", 0.0) or None
    return attend(q, k, v, scale=scale, mask=total, before=k.shape[2] - q.shape[2] if causal else None)[0]


@implements("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    call: Call,
    q: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    bias: Tensor | None = None,
    padding: Tensor | None = None,
    added: Tensor | None = None,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    *_: Tensor | None,
) -> tuple[Tensor, ...]:
    count = call.integer("num_heads")
    if q.ndim == 5:  # (batch, steps, heads, 3, size)
        q, k, v = (part.flatten(2) for part in q.unbind(3))
    elif k is not None and k.ndim == 5:
        k, v = (part.flatten(2) for part in k.unbind(3))
    if k is None:
        k = v = q
    assert v is not None
    if bias is not None:
        widths = [q.shape[-1], k.shape[-1] if k.ndim == 3 else q.shape[-1]]
        bq, bk, bv = bias.split([*widths, bias.numel() - sum(widths)])
        q = q + bq
        k, v = (k + bk, v + bv) if k.ndim == 3 else (k, v)
    q = heads_of(q, count)
    k, v = (heads_of(x, count) if x.ndim == 3 else x for x in (k, v))
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    made = _masked(call, q, k, v, padding, added, bool(call.integer("unidirectional", 0)))
    return (joined(made), k, v)[: call.results]


@implements("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    call: Call,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    past_k: Tensor | None,
    past_v: Tensor | None,
    last: Tensor,
    total: Tensor,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    *_: Tensor | None,
) -> tuple[Tensor, ...]:
    """Queries lie at the end of all keys; `last` is the number of keys less one of each sample."""
    count, groups = call.integer("num_heads"), call.integer("kv_num_heads")
    if k is None or v is None:
        size = q.shape[-1] // (count + 2 * groups)
        q, k, v = q.split([count * size, groups * size, groups * size], -1)
    queries, keys, values = heads_of(q, count), heads_of(k, groups), heads_of(v, groups)
    before = int(total.item()) - q.shape[1]
    if call.integer("do_rotary", 0) and cosines is not None and sines is not None:
        places = torch.arange(before, before + q.shape[1], device=q.device)
        turned = bool(call.integer("rotary_interleaved", 0))
        queries, keys = (rotated(x, cosines[places], sines[places], turned) for x in (queries, keys))
    if past_k is not None and past_v is not None:
        keys, values = torch.cat([past_k[:, :, :before], keys], 2), torch.cat([past_v[:, :, :before], values], 2)
    steps = torch.arange(keys.shape[2], device=q.device)
    seen = steps[None] <= torch.arange(before, before + q.shape[1], device=q.device)[:, None]
    window = call.integer("local_window_size", -1)
    if window > 0:
        seen &= steps[None] > torch.arange(before, before + q.shape[1], device=q.device)[:, None] - window
    there = steps[None, :] <= last.reshape(-1, 1).to(q.device)
    mask = seen[None, None] & there[:, None, None]
    scale = call.number("scale", 0.0) or None
    made, _scores = attend(queries, keys, values, scale=scale, mask=mask, softcap=call.number("softcap", 0.0))
    return (joined(made), keys, values)[: call.results]


def rotated(x: Tensor, cosines: Tensor, sines: Tensor, interleaved: bool) -> Tensor:
    """(batch, heads, steps, size) turned by angles whose cosines and sines are (steps, size / 2)."""
    size = 2 * cosines.shape[-1]
    part, rest = x[..., :size], x[..., size:]
    if interleaved:
        first, second = part[..., ::2], part[..., 1::2]
        made = torch.stack([first * cosines - second * sines, first * sines + second * cosines], -1).flatten(-2)
    else:
        first, second = part.chunk(2, -1)
        made = torch.cat([first * cosines - second * sines, first * sines + second * cosines], -1)
    return torch.cat([made, rest], -1)


@implements("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(call: Call, x: Tensor, places: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    flat = x.ndim == 3
    count = call.integer("num_heads", 0) or x.shape[-1] // (2 * cosines.shape[-1])
    parts = heads_of(x, count) if flat else x
    if places.numel() == 1:
        places = places.reshape(1, 1) + torch.arange(parts.shape[2], device=places.device)[None]
    made = rotated(parts, cosines[places][:, None], sines[places][:, None], bool(call.integer("interleaved", 0)))
    return joined(made) if flat else made


@implements("RotaryEmbedding")
def standard_rotary_embedding(
    call: Call, x: Tensor, cosines: Tensor, sines: Tensor, places: Tensor | None = None
) -> Tensor:
    flat = x.ndim == 3
    parts = heads_of(x, call.integer("num_heads")) if flat else x
    if places is not None:
        cosines, sines = cosines[places], sines[places]
    made = rotated(parts, cosines[:, None], sines[:, None], bool(call.integer("interleaved", 0)))
    return joined(made) if flat else made


@implements("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    call: Call,
    words: Tensor,
    segments: Tensor | None,
    word_table: Tensor,
    place_table: Tensor,
    segment_table: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, ...]:
    steps = torch.arange(words.shape[1], device=words.device)[None] if places is None else places
    total = word_table[words.long()] + place_table[steps.long()]
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    normal = functional.layer_norm(total, total.shape[-1:], scale, shift, call.number("epsilon", 1e-12))
    lengths = words.new_zeros(words.shape[0]) if mask is None else (mask == 1).sum(1)
    return (normal, lengths.to(torch.int32), total)[: call.results]


# ------------------------------------------------------------------------------------------- fused activations
@implements("BiasGelu", domain=MICROSOFT)
def bias_gelu(_: Call, x: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(x + bias)


@implements("Gelu", domain=MICROSOFT)
def gelu(_: Call, x: Tensor) -> Tensor:
    return functional.gelu(x)


@implements("FastGelu", domain=MICROSOFT)
def fast_gelu(_: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@implements("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.number("alpha", 1.702) * x)
