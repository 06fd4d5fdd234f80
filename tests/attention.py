"""What each head of a network looks at, by a plain forward pass."""
import math

import torch


def attention_of(model, ids):
    """ids (B, T) -> the attention of each layer, (B, nh, T, T): rows are who looks, at whom."""
    found = []

    def look(attention, inputs):
        q, k, _ = attention.split(inputs[0])  # (B, nh, T, hs)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.size(3))
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        found.append(scores.masked_fill(future, -math.inf).softmax(3))

    hooks = [block.attention.register_forward_pre_hook(look) for block in model.blocks]
    with torch.inference_mode():
        model(ids)
    for hook in hooks:
        hook.remove()
    return found
