"""Weights as one flat vector, updates as few bytes, and nothing lost on the way.

An update (a pseudo-gradient going up, an outer update coming down) is a vector with one fp32 number
per parameter. A codec turns it into 4 bytes per parameter (`fp32`), about a half (`q4`), a quarter
(`q2`) or a 35th (`top64`). What a codec rounds away, `ErrorFeedback` adds to the next update.

Decoding is bit-identical on every machine: each value is one number times a bf16 scale, a single
fp32 product, or one of the scales themselves.
"""
from __future__ import annotations

import ctypes
import hashlib
import sys
from typing import Dict, Iterable, Iterator, Protocol, Tuple

import torch
from torch import Tensor, nn

from gltch_2_7m import GltchError, require

BLOCK = 128  # values that share a scale in q4 and q2
CHUNK, KEPT = 4096, 64  # top64 keeps this many of each chunk
IN_CACHE = 1024  # blocks that are encoded at once: a new vector costs as much as using it
WHOLE = slice(0, sys.maxsize)  # of a vector
LOW, HIGH, BETWEEN = 0.4528, 1.510, 0.9816  # best four levels of a normal distribution (Lloyd, Max)


# --------------------------------------------------------------------------------------------------
# Tensors and bytes
# --------------------------------------------------------------------------------------------------

def to_bytes(values: Tensor) -> bytes:
    """The memory of a contiguous CPU tensor, little-endian on every machine PyTorch supports."""
    values = values.contiguous()  # its memory lives while it has this name
    return ctypes.string_at(values.data_ptr(), values.numel() * values.element_size())


def from_bytes(content: bytes, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of its own; raises GltchError when the length does not fit the type."""
    if not content:
        return torch.empty(0, dtype=dtype)
    try:
        return torch.frombuffer(bytearray(content), dtype=dtype)
    except ValueError:
        raise GltchError(f"{len(content)} bytes are not a whole number of values.") from None


def pieces(model: nn.Module, part: slice) -> Iterator[Tensor]:
    """All parameters one after another, in the order of `model.parameters()`, are a vector (P,);
    these are the pieces of a part of it, in the memory of the model."""
    begin = 0
    for parameter in model.parameters():
        end = begin + parameter.numel()
        first, last = max(begin, part.start), min(end, part.stop)
        if first < last:
            yield parameter.detach().view(-1)[first - begin: last - begin]
        begin = end


def flatten(model: nn.Module, part: slice = WHOLE) -> Tensor:  # (P,) fp32 on the CPU
    """A part of the model's parameters as a flat vector of its own."""
    return torch.cat([piece.float().cpu() for piece in pieces(model, part)])


def unflatten(vector: Tensor, model: nn.Module, part: slice = WHOLE) -> None:
    """Copy a flat vector into a part of the model, exactly."""
    places = list(pieces(model, part))
    for place, values in zip(places, vector.split([len(place) for place in places])):
        place.copy_(values)


def replaced(vector: Tensor, part: slice, values: Tensor) -> Tensor:
    """The vector with other values in one part; a copy, unless these are all of it."""
    if len(values) == len(vector):
        return values
    after = vector.clone()
    after[part] = values
    return after


def digest(vector: Tensor) -> str:
    """SHA-256 of the fp32 bytes of a flat vector: equal exactly when every bit is."""
    vector = vector.contiguous()
    memory = ctypes.c_char * (vector.numel() * vector.element_size())
    return hashlib.sha256(memory.from_address(vector.data_ptr())).hexdigest()


# --------------------------------------------------------------------------------------------------
# Codecs
# --------------------------------------------------------------------------------------------------

def blocks_of(vector: Tensor, size: int) -> Tensor:  # (P,) -> (ceil(P / size), size)
    missing = -len(vector) % size
    return (torch.cat([vector, vector.new_zeros(missing)]) if missing else vector).reshape(-1, size)


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and zero where that is no number."""
    return scale.reciprocal().nan_to_num_(0, posinf=0)


class FP32:
    """Every value as it is."""

    block, planes = 1, (4,)

    def size(self, count: int) -> int:
        return 4 * count

    def encode(self, vector: Tensor) -> bytes:
        return to_bytes(vector)

    def decode(self, content: bytes, count: int) -> Tensor:
        return from_bytes(content)


class Q4:
    """Blocks of 128 values as whole numbers from -7 to 7, and the size of one as bf16."""

    block, planes = BLOCK, (BLOCK // 2, 2)

    def size(self, count: int) -> int:
        return -(-count // BLOCK) * (BLOCK // 2 + 2)

    def encode(self, vector: Tensor) -> bytes:
        blocks = blocks_of(vector, BLOCK)
        packed = torch.empty(len(blocks), BLOCK // 2, dtype=torch.uint8)
        unit = torch.empty(len(blocks), 1, dtype=torch.bfloat16)
        for some, into, size in zip(*(one.split(IN_CACHE) for one in (blocks, packed, unit))):
            scratch = some.abs()
            size.copy_(scratch.amax(1, keepdim=True) / 7)
            torch.mul(some, inverse(size.float()), out=scratch)
            whole = scratch.round_().clamp_(-7, 7).add_(8).nan_to_num_(0)
            low, high = whole.split(BLOCK // 2, 1)
            into.copy_(low.add_(high, alpha=16))  # as floats, which are computed faster
        return to_bytes(packed) + to_bytes(unit)

    def decode(self, content: bytes, count: int) -> Tensor:
        number = -(-count // BLOCK)
        packed, unit = from_bytes(content, torch.uint8).split([BLOCK // 2 * number, 2 * number])
        packed, unit = packed.view(number, BLOCK // 2), unit.view(torch.bfloat16).view(number, 1)
        whole = torch.cat([packed & 15, packed >> 4], 1).float()
        return whole.sub_(8).mul_(unit.float()).view(-1)[:count]


class Q2:
    """Blocks of 128 values as one of four levels, small or large and minus or plus, whose sizes are
    best for normally distributed values; the block's root mean square as bf16."""

    block, planes = BLOCK, (BLOCK // 4, 2)
    levels = torch.tensor([[(LOW, HIGH, -LOW, -HIGH)[byte >> shift & 3] for shift in (0, 2, 4, 6)]
                           for byte in range(256)])  # (256, 4), of what a byte stands for

    def size(self, count: int) -> int:
        return -(-count // BLOCK) * (BLOCK // 4 + 2)

    def encode(self, vector: Tensor) -> bytes:
        blocks = blocks_of(vector, BLOCK)
        rms = blocks.square().mean(1, keepdim=True).sqrt().bfloat16()  # (N, 1)
        level = (blocks < 0).to(torch.uint8) << 1 | (blocks.abs() > BETWEEN * rms.float())
        a, b, c, d = level.split(BLOCK // 4, 1)
        return to_bytes(a | b << 2 | c << 4 | d << 6) + to_bytes(rms)

    def decode(self, content: bytes, count: int) -> Tensor:
        number = -(-count // BLOCK)
        packed = from_bytes(content[: -2 * number], torch.uint8).int()
        rms = from_bytes(content[-2 * number:], torch.bfloat16).view(number, 1, 1).float()
        level = self.levels.index_select(0, packed).view(number, BLOCK // 4, 4)
        return (level.transpose(1, 2) * rms).reshape(-1)[:count]


class Top64:
    """The 64 largest of every 4096 values: where (12 bits), the sign and whether it is one of the
    larger ones (2 bits); the mean size of the smaller and of the larger ones as bf16.

    After SparseLoCo (arXiv 2508.15706, section 3), with two measured levels per sign.
    """

    block, planes = CHUNK, (KEPT * 12 // 8, KEPT // 4, 4)

    def size(self, count: int) -> int:
        return -(-count // CHUNK) * (KEPT * 12 // 8 + KEPT // 4 + 4)

    def encode(self, vector: Tensor) -> bytes:
        chunks = blocks_of(vector, CHUNK)
        place = chunks.abs().topk(KEPT, 1).indices.sort(1).values  # (N, 64)
        kept = chunks.gather(1, place)
        sizes = kept.abs()
        large = sizes > sizes.mean(1, keepdim=True)
        means = torch.cat([(sizes * chosen).sum(1, keepdim=True)
                           / chosen.sum(1, keepdim=True).clamp(min=1)
                           for chosen in (~large, large)], 1).bfloat16()  # (N, 2)
        even, odd = place[:, ::2], place[:, 1::2]
        places = torch.cat([even & 255, even >> 8 | (odd & 15) << 4, odd >> 4], 1).to(torch.uint8)
        level = (kept < 0).to(torch.uint8) << 1 | large
        a, b, c, d = level.split(KEPT // 4, 1)
        levels = a | b << 2 | c << 4 | d << 6
        return to_bytes(places) + to_bytes(levels) + to_bytes(means)

    def decode(self, content: bytes, count: int) -> Tensor:
        number = -(-count // CHUNK)
        lengths = [number * KEPT * 12 // 8, number * KEPT // 4, number * 4]
        places, levels, means = from_bytes(content, torch.uint8).split(lengths)
        first, middle, last = places.view(number, -1).long().split(KEPT // 2, 1)
        place = torch.stack([first | (middle & 15) << 8, middle >> 4 | last << 4], 2).flatten(1)
        packed = levels.view(number, KEPT // 4)
        level = torch.cat([packed >> shift & 3 for shift in (0, 2, 4, 6)], 1)
        low, high = means.clone().view(torch.bfloat16).view(number, 2).float().split(1, 1)
        size = torch.where(level & 1 > 0, high, low)
        chunks = torch.zeros(number, CHUNK)
        chunks.scatter_(1, place, torch.where(level & 2 > 0, -size, size))
        return chunks.view(-1)[:count]


class Codec(Protocol):
    """One way to write a vector as bytes: in blocks of values, of all blocks first some bytes, then
    some others; `planes` says how many of each block."""

    @property
    def block(self) -> int: ...
    @property
    def planes(self) -> Tuple[int, ...]: ...

    def size(self, count: int) -> int:
        """Bytes of this many values."""

    def encode(self, vector: Tensor) -> bytes: ...
    def decode(self, content: bytes, count: int) -> Tensor: ...


CODECS: Dict[str, Codec] = {"fp32": FP32(), "q4": Q4(), "q2": Q2(), "top64": Top64()}


def encode(codec: str, vector: Tensor) -> bytes:
    """Bytes of a flat fp32 vector (P,)."""
    return CODECS[codec].encode(vector)


def decode(codec: str, content: bytes, count: int) -> Tensor:  # (count,) fp32
    """The vector that the bytes stand for; may hold values that are not finite.

    Raises GltchError when codec or length are wrong.
    """
    require(codec in CODECS, f"There is no codec {codec!r}; known are {', '.join(CODECS)}.")
    expected = CODECS[codec].size(count)
    if len(content) != expected:
        raise GltchError(f"An update of {count:,} values in {codec} has {expected:,} bytes, not "
                         f"{len(content):,}.")
    return CODECS[codec].decode(content, count)


def decode_part(codec: str, content: bytes, count: int, part: slice) -> Tensor:
    """What `decode` gives there, without decoding the rest; parts begin where a chunk does."""
    known = CODECS[codec]
    blocks, first, last = (-(-end // known.block) for end in (count, part.start, part.stop))
    found, begin = b"", 0
    for size in known.planes:
        found += content[begin + first * size: begin + last * size]
        begin += blocks * size
    return known.decode(found, part.stop - part.start)


# --------------------------------------------------------------------------------------------------
# Error feedback
# --------------------------------------------------------------------------------------------------

class ErrorFeedback:
    """Remembers what earlier updates left unsent and adds it to the next.

    e <- beta e + update;  send Q(e);  e <- e - Q(e) once the other side has counted it. Until then,
    and if it never does, e keeps the whole update (Karimireddy et al., arXiv 1901.09847). An update
    may be of one part of the vector; e keeps what it has of the others. Of each part one update may
    be on its way, until it is settled.
    """

    def __init__(self, count: int, beta: float = 1.0):
        self.beta = beta
        self.residual = torch.zeros(count)  # (P,)
        self.sent: Dict[int, Tuple[str, bytes]] = {}  # codec and content, by where the part begins

    def encode(self, codec: str, update: Tensor, part: slice = WHOLE) -> bytes:
        """Add an update of a part and return what to send; `settle` says what became of it."""
        residual = self.residual[part]
        if self.beta != 1:
            residual.mul_(self.beta)
        residual.add_(update)
        content = encode(codec, residual)
        self.sent[part.start] = codec, content
        return content

    def settle(self, counted: bool, part: slice = WHOLE) -> None:
        """The update of this part that was on its way."""
        codec, content = self.sent.pop(part.start, ("", b""))
        if counted and codec:
            residual = self.residual[part]
            residual.sub_(decode(codec, content, len(residual)))

    def absorb(self, update: Tensor) -> None:
        """Keep an update of all parts (P,) for what is sent later."""
        self.residual.add_(update)

    def forget(self, parts: Iterable[slice] = (WHOLE,)) -> None:
        """Forget what was left unsent of these parts."""
        for part in parts:
            self.residual[part].zero_()
            self.sent.pop(part.start, None)
