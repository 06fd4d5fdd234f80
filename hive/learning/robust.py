"""Other ways to one update from many: what a minority sends has a bounded effect, whatever it is.

They need all updates of a round at once, which are kept as they came and decoded piece by piece,
and cost a little of what honest peers find; they do not say who is who. `rules` and `trust` do.
"""
from __future__ import annotations

from typing import Callable, Dict, Iterator, Optional, Tuple

import torch
from torch import Tensor

TRIMMED = 0.25  # of the values at either end
ITERATIONS = 3

Pieces = Callable[[], Iterator[Tuple[slice, Tensor]]]  # of updates (K, n): a part of the n values,
# and what all updates say there (K, m)


def trimmed_mean(pieces: Pieces, weights: Tensor, centre: Tensor) -> Tensor:
    """Of each coordinate of updates (K, n) the mean (n,) without the smallest and the largest
    values (Yin et al. 2018, arXiv 1803.01498, definition 2). Weights (K,) play no part: a peer
    that claims much would be trimmed less."""
    cut = int(TRIMMED * len(weights))
    result = torch.empty_like(centre)
    for part, updates in pieces():
        ordered = updates.T.contiguous().sort(1).values  # twice as fast as along the updates
        result[part] = ordered[:, cut: len(updates) - cut].mean(1)
    return result


def centred_clip(pieces: Pieces, weights: Tensor, centre: Tensor) -> Tensor:
    """The weighted mean (n,) of updates (K, n), each no further from the centre than the median of
    them (Karimireddy et al. 2021, arXiv 2012.10333, algorithm 2). The centre (n,), at first that of
    the round before, moves to what comes out.

    It is always the first centre plus some of each update's way from there, so that inner products
    of these ways (K, K) tell all distances."""
    shares = weights.double() / weights.sum()
    products = torch.zeros(len(weights), len(weights), dtype=torch.float64)
    for part, updates in pieces():
        away = updates - centre[part]
        products += away @ away.T
    steps = torch.zeros_like(shares)  # of each way
    for _ in range(ITERATIONS):
        along = products @ steps
        distances = (products.diag() - 2 * along + steps @ along).clamp(min=0).sqrt()
        kept = shares * (distances.median() / distances.clamp(min=1e-30)).clamp(max=1.0)
        steps = steps * (1 - kept.sum()) + kept
    result = torch.empty_like(centre)
    for part, updates in pieces():
        result[part] = centre[part] + steps.float() @ (updates - centre[part])
    return result


Combination = Callable[[Pieces, Tensor, Tensor], Tensor]
COMBINATIONS: Dict[str, Optional[Combination]] = {
    "mean": None, "trimmed": trimmed_mean, "clipped": centred_clip}
