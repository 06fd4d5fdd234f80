"""The text of a run, from the bytes that travel and are kept."""
from __future__ import annotations

import codecs

from gltch_2_7m import CHUNK, Corpus, Vocabulary, encode_chunks, require
from hive.session.job import Job

TEXT = "text.txt"  # in the run's folder: a restart and the peers need no other file


def corpus_of(job: Job, content: bytes) -> Corpus:
    """Raises GltchError when it is another text than the job's."""
    pieces = (content[i: i + CHUNK] for i in range(0, len(content), CHUNK))
    chunks = codecs.iterdecode(pieces, "utf-8", "replace")
    ids, characters, digest = encode_chunks(chunks, job.characters)
    require(digest == job.text, "The text is not the one this hive trains on.")
    return Corpus("the text of the hive", ids, Vocabulary(characters), digest)
