"""LSTM, GRU and RNN: torch's own kernels where they compute the same, step by step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import Call, implements

Activation = Callable[[Tensor], Tensor]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """An activation by the name that a node gives it, in whichever case."""
    match name.lower():
        case "sigmoid":
            return torch.sigmoid
        case "tanh":
            return torch.tanh
        case "relu":
            return torch.relu
        case "affine":
            return lambda x: (1.0 if alpha is None else alpha) * x + (beta or 0.0)
        case "leakyrelu":
            return lambda x: functional.leaky_relu(x, 0.01 if alpha is None else alpha)
        case "thresholdedrelu":
            return lambda x: torch.where(x > (1.0 if alpha is None else alpha), x, torch.zeros_like(x))
        case "scaledtanh":
            return lambda x: (1.0 if alpha is None else alpha) * torch.tanh((1.0 if beta is None else beta) * x)
        case "hardsigmoid":
            return lambda x: torch.clamp((0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta), 0, 1)
        case "elu":
            return lambda x: functional.elu(x, 1.0 if alpha is None else alpha)
        case "softsign":
            return functional.softsign
        case "softplus":
            return functional.softplus
    from spa.errors import ModelError

    raise ModelError(f"activation {name!r} of a recurrent layer is not known")


def _activations(call: Call, defaults: Sequence[str], directions: int) -> list[list[Activation]]:
    """The activations of each direction."""
    given = call.node.attributes.get("activations")
    names = list(given.as_strings()) if given is not None else list(defaults) * directions
    parameters = [call.node.attributes.get(f"activation_{word}") for word in ("alpha", "beta")]
    alphas, betas = ([] if p is None else list(p.as_floats()) for p in parameters)
    made = [
        _activation(name, alphas[at] if at < len(alphas) else None, betas[at] if at < len(betas) else None)
        for at, name in enumerate(names)
    ]
    each = len(defaults)
    return [made[start : start + each] for start in range(0, len(made), each)]


def _is_plain(call: Call, defaults: Sequence[str], lengths: Tensor | None) -> bool:
    """Whether nothing is asked for that torch's kernels do not have."""
    given = call.node.attributes.get("activations")
    usual = given is None or [n.lower() for n in given.as_strings()] == [n.lower() for n in defaults] * (
        2 if call.text("direction", "forward") == "bidirectional" else 1
    )
    return usual and lengths is None and not call.has("clip") and call.text("direction", "forward") != "reverse"


def _reordered(x: Tensor, order: Sequence[int], axis: int) -> Tensor:
    """Gates in torch's order."""
    parts = x.chunk(len(order), axis)
    return torch.cat([parts[at] for at in order], axis)


def _flat_weights(w: Tensor, r: Tensor, b: Tensor | None, order: Sequence[int]) -> list[Tensor]:
    """Each direction's weights as torch takes them."""
    flat = []
    for direction in range(w.shape[0]):
        flat += [_reordered(w[direction], order, 0), _reordered(r[direction], order, 0)]
        if b is not None:
            flat += [_reordered(half, order, 0) for half in b[direction].chunk(2)]
    return flat


def _first(h: Tensor | None, like: Tensor, directions: int, hidden: int) -> Tensor:
    return like.new_zeros((directions, like.shape[1], hidden)) if h is None else h


def _laid(call: Call, x: Tensor, *states: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
    """Data with steps first, states with directions first, whatever the layout."""
    if not call.integer("layout", 0):
        return x, list(states)
    return x.transpose(0, 1), [None if state is None else state.transpose(0, 1) for state in states]


def _given_back(call: Call, y: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
    """Results as the layout has them; `y` is (steps, directions, batch, hidden)."""
    if call.integer("layout", 0):
        return (y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states))
    return (y, *states)


def _apart(y: Tensor, directions: int) -> Tensor:
    """torch's (steps, batch, directions x hidden) as (steps, directions, batch, hidden)."""
    return y.reshape(*y.shape[:2], directions, -1).transpose(1, 2)


@implements("LSTM")
def lstm(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    first_h: Tensor | None = None,
    first_c: Tensor | None = None,
    p: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates lie as input, output, forget, cell; torch has input, forget, cell, output."""
    x, (first_h, first_c) = _laid(call, x, first_h, first_c)
    directions, hidden = w.shape[0], r.shape[2]
    h, c = _first(first_h, x, directions, hidden), _first(first_c, x, directions, hidden)
    defaults = ("Sigmoid", "Tanh", "Tanh")
    if _is_plain(call, defaults, lengths) and p is None and not call.integer("input_forget", 0):
        flat = _flat_weights(w, r, b, (0, 2, 3, 1))
        y, h, c = torch.lstm(x, (h, c), flat, b is not None, 1, 0.0, False, directions == 2, False)
        return _given_back(call, _apart(y, directions), h, c)
    acts = _activations(call, defaults, directions)

    def step(d: int, xt: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        f, g, out = acts[d]
        h, c = state
        gates = xt @ w[d].T + h @ r[d].T
        if b is not None:
            gates = gates + b[d, : 4 * hidden] + b[d, 4 * hidden :]
        i, o, forget, cell = gates.chunk(4, -1)
        peep = None if p is None else p[d].chunk(3)
        if peep is not None:
            i, forget = i + peep[0] * c, forget + peep[2] * c
        i = f(_clipped(call, i))
        forget = 1 - i if call.integer("input_forget", 0) else f(_clipped(call, forget))
        c = forget * c + i * g(_clipped(call, cell))
        o = f(_clipped(call, o if peep is None else o + peep[1] * c))
        return o * out(c), c

    y, (h, c) = _stepped(call, x, [h, c], lengths, directions, step)
    return _given_back(call, y, h, c)


@implements("GRU")
def gru(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    first_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates lie as update, reset, new; torch has reset, update, new."""
    x, (first_h,) = _laid(call, x, first_h)
    directions, hidden = w.shape[0], r.shape[2]
    h = _first(first_h, x, directions, hidden)
    defaults, after = ("Sigmoid", "Tanh"), bool(call.integer("linear_before_reset", 0))
    if _is_plain(call, defaults, lengths) and after:
        flat = _flat_weights(w, r, b, (1, 0, 2))
        y, h = torch.gru(x, h, flat, b is not None, 1, 0.0, False, directions == 2, False)
        return _given_back(call, _apart(y, directions), h)
    acts = _activations(call, defaults, directions)

    def step(d: int, xt: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        f, g = acts[d]
        (h,) = state
        mine, theirs = (None, None) if b is None else b[d].chunk(2)
        z, reset, new = (xt @ w[d].T if mine is None else xt @ w[d].T + mine).chunk(3, -1)
        rz, rr, rn = r[d].chunk(3)
        bz, br, bn = (0.0, 0.0, 0.0) if theirs is None else theirs.chunk(3)
        z = f(_clipped(call, z + h @ rz.T + bz))
        reset = f(_clipped(call, reset + h @ rr.T + br))
        again = reset * (h @ rn.T + bn) if after else (reset * h) @ rn.T + bn
        new = g(_clipped(call, new + again))
        return ((1 - z) * new + z * h,)

    y, (h,) = _stepped(call, x, [h], lengths, directions, step)
    return _given_back(call, y, h)


@implements("RNN")
def rnn(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    first_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    x, (first_h,) = _laid(call, x, first_h)
    directions, hidden = w.shape[0], r.shape[2]
    acts = _activations(call, ("Tanh",), directions)

    def step(d: int, xt: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        total = xt @ w[d].T + state[0] @ r[d].T
        if b is not None:
            total = total + b[d, :hidden] + b[d, hidden:]
        return (acts[d][0](_clipped(call, total)),)

    y, (h,) = _stepped(call, x, [_first(first_h, x, directions, hidden)], lengths, directions, step)
    return _given_back(call, y, h)


def _clipped(call: Call, x: Tensor) -> Tensor:
    edge = call.number("clip", 0.0)
    return torch.clamp(x, -edge, edge) if edge else x


def _stepped(
    call: Call,
    x: Tensor,
    states: list[Tensor],
    lengths: Tensor | None,
    directions: int,
    step: Callable[[int, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]],
) -> tuple[Tensor, list[Tensor]]:
    """Results (steps, directions, batch, hidden) and last states (directions, batch, hidden).

    A sequence that is shorter than the others gives zeros behind its end, and its state stays.
    """
    ys, lasts = [], []
    for d in range(directions):
        backwards = d == 1 or call.text("direction", "forward") == "reverse"
        state = tuple(s[d] for s in states)
        made: list[Tensor] = [x.new_zeros(0)] * x.shape[0]
        for t in reversed(range(x.shape[0])) if backwards else range(x.shape[0]):
            new = step(d, x[t], state)
            if lengths is not None:
                there = (t < lengths.to(x.device))[:, None]
                state = tuple(torch.where(there, n, s) for n, s in zip(new, state, strict=True))
                made[t] = torch.where(there, new[0], torch.zeros_like(new[0]))
            else:
                state, made[t] = new, new[0]
        ys.append(torch.stack(made) if made else x.new_zeros((0, *state[0].shape)))
        lasts.append(state)
    return torch.stack(ys, 1), [torch.stack(parts) for parts in zip(*lasts, strict=True)]
