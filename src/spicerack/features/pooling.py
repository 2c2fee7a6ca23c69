"""A sample's hidden states in one row: their mean, their position-weighted mean, their leading directions."""

from __future__ import annotations

import torch
from torch import Tensor


def pooled_states(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Mean and position-weighted mean of every sample's hidden states, float32.

    The weighted mean has weights `i / sum i` over the sample's own tokens i = 1, 2, ... (RDS+, arXiv 2503.01807, after
    SGPT). Its released code weighs pads too, which makes a row depend on its batch; here pads have no weight.

    Args:
        hidden: (b, t, h).
        attention_mask: (b, t), 0 at pads, which stand on the right; None where there are none.

    Returns:
        (b, 2, h): mean, weighted mean.
    """
    samples, length, _ = hidden.shape
    mask = torch.ones(samples, length, device=hidden.device) if attention_mask is None else attention_mask.float()
    position = torch.arange(1, length + 1, device=hidden.device, dtype=torch.float32)
    weights = torch.stack([mask, mask * position], dim=1)  # (b, 2, t)
    return torch.bmm(weights / weights.sum(2, keepdim=True), hidden.float())


def leading_directions(states: Tensor, rank: int) -> tuple[Tensor, float]:
    """The best `rank` rows in the place of all of a sample's states.

    With `X = U S V^T` these are `s_j v_j`, j < rank: of all sets of so many rows, their `sum_j s_j^2 v_j v_j^T` is
    nearest to `X^T X = sum_t x_t x_t^T`, which FisherSFT adds (arXiv 2505.14826). They come from the eigenvectors of
    the smaller of the two Gram matrices, in float64. Each vector's largest entry is positive.

    Args:
        states: X (t, h), t >= 1.
        rank: >= 1; rows beyond min(t, h) are zero.

    Returns:
        (rank, h) float32, and the share of the trace `sum_t |x_t|^2` that they keep, in (0, 1]; 1.0 where it is 0.
    """
    exact = states.double() if states.device.type != "mps" else states.cpu().double()  # MPS has no float64
    tokens, width = exact.shape
    kept = min(rank, tokens, width)
    small = exact @ exact.T if tokens <= width else exact.T @ exact
    if not bool(torch.isfinite(small).all()):
        return torch.full((rank, width), float("nan")), float("nan")
    values, vectors = torch.linalg.eigh(small)  # ascending
    leading = vectors[:, -kept:].flip(1).T  # (kept, t) or (kept, h)
    rows = leading @ exact if tokens <= width else values[-kept:].flip(0).clamp(min=0).sqrt()[:, None] * leading
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    result = torch.zeros(rank, width, dtype=torch.float64, device=exact.device)
    result[:kept] = torch.where(largest < 0, -rows, rows)
    trace = float(exact.square().sum())
    share = min(1.0, float(rows.square().sum()) / trace) if trace > 0 else 1.0
    return result.float(), share
