"""What tests of several wings build: a job, tokens, and anything that a message may hold."""
import hashlib
import secrets
from dataclasses import replace
from functools import partial

from hypothesis import strategies as st

from gltch_2_7m import Config, TrainConfig
from hive.learning.sync import SYNCS
from hive.session.job import Job, Limits
from hive.session.protocol import Digest, Flag, Maybe, Number, Object, OneOf, Several, Text, Whole

JOB_TEXT = "Tomorrow, and tomorrow, and tomorrow, creeps in this petty pace from day to day.\n"
TINY = Config(block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
TINY_RECIPE = TrainConfig(steps=12, batch_size=4, eval_every=4, log_every=2, sample_every=0,
                          warmup=3, precision="fp32", device="cpu")
FRENCH = "Être, ou ne pas être. Abc, déjà vu.\n" * 40
make_token = partial(secrets.token_hex, 32)


def make_job(text=JOB_TEXT, **changes):
    characters, content = "".join(sorted(set(text))), text.encode()
    job = Job(hive="a run", size="1m", mode="diloco",
              config=Config(vocab_size=len(characters), block_size=16, n_layer=2, n_head=2,
                            n_embd=16),
              recipe=TrainConfig(), sync=SYNCS["diloco"], limits=Limits(steps=100),
              characters=characters, text=hashlib.sha256(content).hexdigest(),
              text_bytes=len(content))
    return replace(job, **changes)


numbers = st.integers() | st.floats() | st.sampled_from([10**400, -10**400, 1e308])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner,
                                                                max_size=3), max_leaves=8)
objects = st.dictionaries(st.text(max_size=9), st.integers() | st.lists(st.text(max_size=9)),
                          max_size=3)


def values_of(field):
    """Everything that a field may hold."""
    if isinstance(field, Maybe):
        return st.none() | values_of(field.kind)
    if isinstance(field, Several):
        return st.lists(values_of(field.kind), max_size=field.most)
    if isinstance(field, Number):
        return st.floats(field.least, field.most) | st.just(int(field.most))
    return {Text: lambda: st.text(max_size=field.longest), Flag: st.booleans,
            OneOf: lambda: st.sampled_from(field.words),
            Whole: lambda: st.integers(field.least, field.most), Object: lambda: objects,
            Digest: lambda: st.text("0123456789abcdef", min_size=64, max_size=64)}[type(field)]()
