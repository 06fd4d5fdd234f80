"""The state of a run in the text format of Prometheus."""
from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, Optional, Tuple, cast, get_args

from hive.session.messages import Kind
from hive.session.schema import PeerState, State


def metrics(state: State) -> bytes:
    """The state in the text format of Prometheus."""
    lines: List[str] = []

    def add(name: str, kind: str, text: str, *values: Tuple[Dict[str, str], Optional[float]]
            ) -> None:
        lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}"])
        for labels, value in values:
            if value is not None:
                inside = ",".join(f'{key}="{escaped(label)}"' for key, label in labels.items())
                lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")

    about = {"run": state["run"], "size": state["size"], "mode": state["mode"]}
    add("gltch_info", "gauge", "The run.", (about, 1))
    for name, kind, field, text in METRICS:
        add(name, kind, text, ({}, cast(Mapping[str, Any], state)[field]))
    add("gltch_finished", "gauge", "1 when the run is over.", ({}, int(bool(state["finished"]))))
    add("gltch_updates_total", "counter", "Updates of peers, by what became of them.",
        *(({"verdict": verdict}, cast(int, count))
          for verdict, count in state["updates"].items()))
    states = [peer["state"] for peer in state["peers"]]
    add("gltch_peers", "gauge", "Connected peers, by what they are doing.",
        *(({"state": name}, states.count(name)) for name in get_args(PeerState)))
    kinds = [peer["kind"] for peer in state["peers"]]
    add("gltch_peers_by_kind", "gauge", "Connected peers, by the kind of their device.",
        *(({"kind": name}, kinds.count(name)) for name in get_args(Kind)))
    add("gltch_peers_set_aside", "gauge", "Peers whose updates do not count, connected or not.",
        ({}, state["set_aside"]))
    add("gltch_rollbacks_total", "counter", "Rounds that went back to an earlier version.",
        ({}, len(state["undone"])))
    add("process_start_time_seconds", "gauge", "When the process began, in unix seconds.",
        ({}, PROCESS_STARTED))
    add("process_cpu_seconds_total", "counter", "Processor time of the process.",
        ({}, time.process_time()))
    return ("\n".join(lines) + "\n").encode()


def escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


METRICS = [
    ("gltch_rounds_total", "counter", "version", "Rounds committed."),
    ("gltch_steps_total", "counter", "step", "Steps made."),
    ("gltch_characters_total", "counter", "tokens", "Characters trained on in counted updates."),
    ("gltch_training_seconds_total", "counter", "seconds", "Time spent in rounds."),
    ("gltch_received_bytes_total", "counter", "bytes_up", "Bytes from peers."),
    ("gltch_sent_bytes_total", "counter", "bytes_down", "Bytes to peers."),
    ("gltch_train_loss_nats", "gauge", "loss", "Training loss of the last round."),
    ("gltch_validation_loss_nats", "gauge", "val_loss", "Validation loss, latest."),
    ("gltch_characters_per_second", "gauge", "speed", "Characters counted per second, lately."),
    ("gltch_flops", "gauge", "flops", "Floating point operations per second, lately."),
]
PROCESS_STARTED = time.time()  # give or take what loading PyTorch took
