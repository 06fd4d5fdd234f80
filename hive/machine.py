"""What this machine is called, whether it is large enough, and whether it has what we need."""
from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple, Optional, cast

import torch

from gltch_2_7m import GltchError, Runtime, TrainConfig, narrowest, parameters_of, require
from hive.session.job import Job
from hive.session.messages import Kind

# What training takes, in numbers of four bytes; measured, and rather too little than too much.
TRAINING_COPIES = 7  # weights, gradients, running mean, optimizer, and what a step needs of them
HIVE_COPIES = 4  # weights, feedback, the update and its bytes
BLOCK_ACTIVATIONS = 20  # of one block for one character, per unit of width
LOGITS = 3  # for one character, per character of the vocabulary


def require_websockets(what: str) -> None:
    try:
        import websockets  # noqa: F401
    except ImportError:
        raise GltchError(f"{what} needs the package websockets: pip install websockets") from None


def size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} MB"
        count /= 1000
    return f"{count:.1f} GB"


def device_kind(runtime: Runtime) -> Kind:
    return cast(Kind, runtime.device.type)  # `pick_device` takes no others


def device_name(runtime: Runtime) -> str:
    if runtime.device.type == "cuda":
        name = torch.cuda.get_device_name(runtime.device)
    elif runtime.device.type == "mps":
        name = f"Apple {platform.machine()}"
    else:
        name = f"CPU {platform.machine()}, {os.cpu_count()} cores"
    return name if runtime.world == 1 else f"{runtime.world} x {name}"


class Memory(NamedTuple):
    """Bytes."""

    training: int  # where the arithmetic happens
    holding: int  # in main memory besides: the text, and vectors as long as the network


def memory_of(job: Job, recipe: TrainConfig, runtime: Runtime) -> Memory:
    """About what each process of a peer takes with this recipe, before anything is built."""
    config, count = job.config, parameters_of(job.config)
    width, context, cpu = config.n_embd, config.block_size, runtime.device.type == "cpu"
    at_once = recipe.batch_size // runtime.world  # see FastTrainer.micro_batches
    if recipe.low_memory:
        at_once = at_once // 8
    elif cpu:
        at_once = min(at_once, 4096 // context)
    block = BLOCK_ACTIVATIONS * width  # per character
    kept = config.n_layer * width + block if recipe.low_memory else config.n_layer * block
    activations = max(1, at_once) * context * (kept + LOGITS * config.vocab_size)
    number = torch.empty(0, dtype=narrowest(config.vocab_size)).element_size()
    return Memory(
        training=4 * TRAINING_COPIES * count
        + (4 if cpu or runtime.precision == "fp32" else 2) * activations,
        holding=4 * HIVE_COPIES * count + (1 + 2 * number) * job.text_bytes)


def free_memory(device: torch.device) -> Optional[int]:
    """Bytes that are free on a device, or at least all it has; None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass  # not Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def require_memory(job: Job, recipe: TrainConfig, runtime: Runtime) -> None:
    """Raises GltchError when the job would take more memory than there is."""
    training, holding = memory_of(job, recipe, runtime)
    main, needs = torch.device("cpu"), {}
    if runtime.device.type == "cuda":
        needs[runtime.device], needs[main] = training, holding
    else:
        needs[main] = training + holding
    for device, need in needs.items():
        if device == main:
            need *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        free = free_memory(device)
        require(free is None or need <= free, f"To train this hive's network with "
                f"{recipe.batch_size:,} sequences a step takes about {size(need)} of memory, and "
                f"{size(free or 0)} are free: use a smaller --batch-size, --low-memory, or another "
                "machine.")
