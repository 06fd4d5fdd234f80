"""Weights as a safetensors file, which browsers and `gltch_2_7m.py` read.

The format is 8 bytes that say how long the header is, the header as JSON, and the tensors
(https://github.com/huggingface/safetensors#format). The Hive's flat fp32 vector is already the
last part, so the header is all there is to make.
"""
from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import Any, Dict

from gltch_2_7m import FORMAT as CHECKPOINT
from gltch_2_7m import Config, outline
from hive.session.events import finite


def header(config: Config, **about: Any) -> bytes:
    """What precedes the flat weights of such a network. `about` goes into the metadata, of which a
    checkpoint needs vocabulary, text and step, and val_loss if it is known and finite."""
    known = {"format": CHECKPOINT, "config": asdict(config),
             **{name: value for name, value in about.items() if finite(value) == value}}
    entries: Dict[str, Any] = {"__metadata__": {"format": "pt", "gltch": json.dumps(known)}}
    end = 0
    for name, parameter in outline(config).named_parameters():
        start, end = end, end + 4 * parameter.numel()
        entries[name] = {"dtype": "F32", "shape": list(parameter.shape),
                         "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text
