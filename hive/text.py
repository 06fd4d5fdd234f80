"""The text of a run, from the bytes that travel and are kept."""
from __future__ import annotations

import codecs
from pathlib import Path

from torch import Tensor

from gltch_2_7m import CHUNK, Corpus, Vocabulary, encode_chunks, require
from hive.session.job import Job

TEXT = "text.txt"  # in the run's folder: a restart and the peers need no other file


class TrainingText(Corpus):
    """What peers get of a text: they train on all of it, in the same windows as the whole text has.
    The tenth that is held out never leaves the coordinator, so that nobody can train on it."""

    @property
    def train(self) -> Tensor:
        return self.ids

    @property
    def validation(self) -> Tensor:
        return self.ids[:0]


def whole_bytes(corpus: Corpus) -> bytes:
    return encoded(corpus, corpus.ids)


def training_bytes(corpus: Corpus) -> bytes:
    """What peers get: the first bytes of the whole."""
    return encoded(corpus, corpus.train)


def encoded(corpus: Corpus, ids: Tensor) -> bytes:
    return b"".join(corpus.vocabulary.decode(part.tolist()).encode() for part in ids.split(1 << 18))


def given_bytes(job: Job, path: Path) -> bytes:
    """What peers get, from the file that holds the whole."""
    with open(path, "rb") as file:
        return file.read(job.text_bytes)


def corpus_of(job: Job, content: bytes) -> Corpus:
    """Of the whole text, or of what peers get of it. Raises GltchError when it is neither."""
    pieces = (content[i: i + CHUNK] for i in range(0, len(content), CHUNK))
    chunks = codecs.iterdecode(pieces, "utf-8", "replace")
    ids, characters, digest = encode_chunks(chunks, job.characters)
    require(digest in (job.text, job.source), "The text is not the one this hive trains on.")
    kind = Corpus if digest == job.source else TrainingText
    return kind("the text of the hive", ids, Vocabulary(characters), digest)
