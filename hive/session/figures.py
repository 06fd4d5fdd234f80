"""What a peer's session knows for its progress line."""
from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Figures:
    peers: int = 1
    loss: float = math.nan
    val_loss: float = math.nan
    speed: float = 0.0  # characters a second
