"""Text: any UTF-8 text in any pieces, where it comes from, and the order training sees it in.

No test reaches the network or the person's own cache: see `place` in conftest.py.
"""
import gzip
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import gltch_2_7m as gltch
from gltch_2_7m import Corpus, GltchError, Vocabulary, Windows, encode_chunks, load_corpus

quick = settings(deadline=None, max_examples=30)
PLAY = b"First Citizen:\nSpeak, speak.\n\nAll:\nResolved. resolved.\n"


@pytest.fixture
def website(monkeypatch):
    """A local server stands for all others; `content` is what it sends (None: 404), `headers` what
    it says of it. /moved leads to /."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests += 1
            moved = self.path == "/moved"
            self.send_response(302 if moved else 404 if server.content is None else 200)
            for header in [("Location", "/")] if moved else server.headers:
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(b"" if moved else server.content or b"")

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.headers, server.requests = PLAY, [], 0
    server.address = f"http://127.0.0.1:{server.server_port}/play.txt"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(gltch, "SHAKESPEARE_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(gltch, "SHAKESPEARE_SHA256", hashlib.sha256(PLAY).hexdigest())
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def text_of(corpus):
    return corpus.vocabulary.decode(corpus.ids.tolist())


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def sentence(error):
    """What the person reads: one line that ends with a full stop."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


# --- Encoding -------------------------------------------------------------------------------------


@quick
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8))
def test_a_text_in_any_pieces_encodes_like_the_whole_in_sorted_order(pieces):
    text = "".join(pieces)
    characters = "".join(sorted(set(text)))
    ids, found, digest = encode_chunks(pieces)
    assert found == characters
    assert ids.tolist() == [characters.index(c) for c in text]
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert Vocabulary(found).decode(ids.tolist()) == text


@quick
@given(st.text("abc\n", min_size=1), st.text("xyz"))
def test_a_known_alphabet_keeps_its_numbers(text, others):
    alphabet = "".join(sorted({*"abc\n", *others}, reverse=True))
    ids, characters, _ = encode_chunks([text], alphabet)
    assert characters == alphabet
    assert ids.tolist() == [alphabet.index(c) for c in text]


def test_a_character_outside_a_known_alphabet_is_named():
    with pytest.raises(GltchError) as error:
        encode_chunks(["abc", "axb"], "abc")
    assert "'x'" in sentence(error)


@pytest.mark.parametrize("count, dtype", [
    (200, torch.uint8), (256, torch.uint8), (257, torch.int16), (300, torch.int16),
    (40_000, torch.int32)])
def test_numbers_take_the_narrowest_type_that_holds_the_alphabet(count, dtype):
    alphabet = "".join(c for c in map(chr, range(0x20, 0x20000)) if c.isprintable())[:count]
    backwards = alphabet[::-1]
    ids, characters, _ = encode_chunks([backwards[:150], backwards[150:]])
    assert (characters, ids.dtype) == (alphabet, dtype)
    assert ids.tolist() == list(range(count))[::-1]


@quick
@given(st.text(min_size=1))
def test_decoding_is_the_inverse_of_encoding(text):
    vocabulary = Vocabulary("".join(sorted(set(text))))
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64 and ids.shape == (len(text),)
    assert vocabulary.decode(ids.tolist()) == text


def test_a_vocabulary_names_the_characters_it_does_not_know():
    vocabulary = Vocabulary("abc")
    assert len(vocabulary) == 3
    assert vocabulary.unknown("cab") == []
    assert vocabulary.unknown("zazy") == ["y", "z"]
    with pytest.raises(GltchError) as error:
        vocabulary.encode("cabbage")
    assert "'e', 'g'" in sentence(error)


def test_a_character_listed_twice_is_no_vocabulary():
    with pytest.raises(GltchError):
        Vocabulary("abca")


# --- Files, folders, standard input ---------------------------------------------------------------


def test_windows_line_ends_become_newlines_and_the_byte_order_mark_is_dropped(tmp_path):
    path = write(tmp_path / "windows.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\nfour, five, six\r\n")
    corpus = load_corpus([path])
    assert text_of(corpus) == "one\ntwo\nthree\nfour, five, six\n"
    assert corpus.digest == hashlib.sha256(text_of(corpus).encode()).hexdigest()


def test_emoji_accents_and_other_scripts_are_characters_like_any_other(tmp_path):
    text = "🎭 Être — ou ne pas être? 生存还是毁灭 👩‍🚀"
    assert text_of(load_corpus([write(tmp_path / "a.txt", text)])) == text


def test_a_character_across_a_chunk_boundary_stays_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(gltch, "CHUNK", 3)
    text = "ab🎭\n\nc🎭🎭d\nÊtre, être, êtres\n"
    path = write(tmp_path / "a.txt", text.replace("\n", "\r\n"))
    assert text_of(load_corpus([path])) == text


def test_files_and_folders_are_read_in_order_without_hidden_and_binary_ones(tmp_path):
    last = write(tmp_path / "z.txt", "Last comes first when named first. ")
    folder = tmp_path / "folder"
    write(folder / "b.txt", "Then b. ")
    write(folder / "a.txt", "In the folder a. ")
    write(folder / "sub" / "c.md", "Below it c. ")
    write(folder / ".hidden", "hidden")
    write(folder / ".git" / "config", "hidden as well")
    write(folder / "picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\r")
    write(folder / "old.txt", b"caf\xe9")
    (folder / "nothing").mkdir()
    corpus = load_corpus([last, str(folder), last])
    assert text_of(corpus) == ("Last comes first when named first. \nIn the folder a. \nThen b. \n"
                               "Below it c. \nLast comes first when named first. ")
    assert corpus.paths == [last, str(folder), last]
    assert last in corpus.source and str(folder) in corpus.source


def test_relative_paths_are_kept_as_absolute_ones(place):
    path = write(place / "a.txt", PLAY)
    assert load_corpus(["a.txt"]).paths == [path]


class Stdin:
    def __init__(self, content):
        self.buffer = io.BytesIO(content)


def test_a_dash_reads_standard_input_and_leaves_it_open(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(PLAY))
    corpus = load_corpus(["-"])
    assert (text_of(corpus), corpus.paths) == (PLAY.decode(), ["-"])
    assert not sys.stdin.buffer.closed  # `train` asks later whether it is a terminal


@pytest.mark.parametrize("content, reason", [
    (b"", "0 characters: too short"),
    (b"\xef\xbb\xbf", "0 characters: too short"),
    (b"To be, or not.\r\n", "15 characters: too short"),
    (b"text and then\0binary, more than twenty bytes of it", "binary file"),
    (b"caf\xe9 and more than twenty bytes of it", "not UTF-8 text (byte 0xe9)"),
])
def test_an_unusable_file_is_named_with_the_reason(tmp_path, content, reason):
    path = write(tmp_path / "play.txt", content)
    with pytest.raises(GltchError) as error:
        load_corpus([path])
    assert path in sentence(error) and reason in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 30, b"\xff" * 30])
def test_an_unusable_standard_input_is_an_error_too(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    with pytest.raises(GltchError) as error:
        load_corpus(["-"])
    assert sentence(error)


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "missing.txt")
    with pytest.raises(GltchError) as error:
        load_corpus([path])
    assert path in sentence(error) and "no file or folder" in str(error.value)


@pytest.mark.parametrize("files", [[], [".hidden"], ["binary\0"]])
def test_a_folder_without_text_files_is_named(tmp_path, files):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in files:
        write(folder / name.rstrip("\0"), name * 10)
    with pytest.raises(GltchError) as error:
        load_corpus([str(folder)])
    assert str(folder) in sentence(error) and "no text files" in str(error.value)


def test_a_text_with_characters_the_model_does_not_know_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "All of the letters, and an ß.")
    with pytest.raises(GltchError) as error:
        load_corpus([path], Vocabulary(gltch.SHAKESPEARE_CHARACTERS))
    assert "1 characters the model does not know: 'ß'; leave" in sentence(error)


def test_a_text_is_encoded_in_the_vocabulary_of_the_model(tmp_path):
    vocabulary = Vocabulary("zyxwvutsrqponmlkjihgfedcba. ")
    corpus = load_corpus([write(tmp_path / "a.txt", "a text in small letters.")], vocabulary)
    assert corpus.vocabulary.characters == vocabulary.characters
    assert text_of(corpus) == "a text in small letters."


def test_the_variable_gltch_data_is_used_and_named_when_no_path_is_given(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", PLAY)
    monkeypatch.setenv("GLTCH_DATA", path)
    corpus = load_corpus()
    assert (text_of(corpus), corpus.paths) == (PLAY.decode(), [path])
    assert path in corpus.source and "GLTCH_DATA" in corpus.source


def test_a_given_path_wins_over_gltch_data(tmp_path, monkeypatch):
    monkeypatch.setenv("GLTCH_DATA", str(tmp_path / "missing.txt"))
    corpus = load_corpus([write(tmp_path / "a.txt", PLAY)])
    assert text_of(corpus) == PLAY.decode() and "GLTCH_DATA" not in corpus.source


def test_an_empty_gltch_data_counts_as_none(monkeypatch):
    monkeypatch.setenv("GLTCH_DATA", "")
    assert "built in" in load_corpus().source


@quick
@given(st.integers(20, 5000))
def test_nine_tenths_are_for_training_and_the_last_tenth_for_validation(n):
    corpus = Corpus("", torch.arange(n), Vocabulary("a"), "")
    assert torch.equal(torch.cat([corpus.train, corpus.validation]), corpus.ids)
    assert len(corpus.train) == n * 9 // 10


MEASURE = """
import resource, sys
import gltch_2_7m as gltch
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = gltch.load_corpus([sys.argv[1]])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(corpus.ids), corpus.digest, (after - before) * unit)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="measures with the module resource")
def test_memory_for_a_large_text_stays_within_a_few_bytes_per_character(tmp_path):
    content = (PLAY + bytes(range(32, 127))) * 140_000
    path = write(tmp_path / "large.txt", content)
    # Started by a small process: Linux hands a child the peak of the one that started it.
    start = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    out = subprocess.check_output([sys.executable, "-c", start, "-c", MEASURE, path],
                                  cwd=str(Path(gltch.__file__).parent),
                                  env={**os.environ, "OMP_NUM_THREADS": "1"})
    length, digest, growth = out.decode().split()
    assert int(length) == len(content) > 20_000_000
    assert digest == hashlib.sha256(content).hexdigest()
    assert 0 < int(growth) < 6 * len(content)


# --- Archives -------------------------------------------------------------------------------------


def pack(path, members, **settings):
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED, **settings) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize("name", ["play.txt.gz", "play"])
def test_a_gz_file_is_the_text_in_it_whatever_its_name(tmp_path, name):
    path = write(tmp_path / name, gzip.compress(PLAY))
    corpus = load_corpus([path])
    assert (text_of(corpus), corpus.paths) == (PLAY.decode(), [path])
    assert corpus.digest == load_corpus([write(tmp_path / "plain.txt", PLAY)]).digest


@pytest.mark.parametrize("name", ["plays.zip", "plays"])
def test_a_zip_file_is_its_texts_in_the_order_of_their_names(tmp_path, capsys, name):
    path = pack(tmp_path / name, [
        ("z.txt", "Last in the archive. "), ("a/b.txt", "Second. "), ("a/a.txt", "First. "),
        ("a/.hidden", "hidden"), ("__MACOSX/a.txt", "hidden"), ("picture.png", b"\x89PNG\0"),
        ("old.txt", b"caf\xe9"), ("inner.gz", gzip.compress(PLAY)), ("folder/", "")])
    assert text_of(load_corpus([path])) == "First. \nSecond. \nLast in the archive. "
    assert f"3 files in {path} are not UTF-8 text" in capsys.readouterr().err


def test_encrypted_members_of_a_zip_file_are_left_out_and_counted(tmp_path, capsys):
    path = pack(tmp_path / "plays.zip", [("a.txt", PLAY), ("b.txt", PLAY)])
    content = bytearray(Path(path).read_bytes())
    entry = content.rindex(b"PK\1\2")  # of b.txt in the list at the end
    content[entry + 8] |= 1  # encrypted
    Path(path).write_bytes(content)
    assert text_of(load_corpus([path])) == PLAY.decode()
    assert "1 files in" in capsys.readouterr().err


@pytest.mark.parametrize("members", [[], [("picture.png", b"\x89PNG\0")]])
def test_a_zip_file_without_texts_is_named(tmp_path, members):
    path = pack(tmp_path / "plays.zip", [*members, ("folder/", "")])
    with pytest.raises(GltchError) as error:
        load_corpus([path])
    assert sentence(error) == f"There are no text files in {path}: save some as UTF-8."


@pytest.mark.parametrize("kind", ["gz", "zip", "zip of two"])
def test_what_unpacks_to_more_than_is_sensible_is_refused_before_it_is_all_read(
        tmp_path, monkeypatch, kind):
    monkeypatch.setattr(gltch, "MOST_BYTES", 2 << 20)
    bomb = b"a" * (64 << 20)
    path = (write(tmp_path / "bomb", gzip.compress(bomb)) if kind == "gz" else
            pack(tmp_path / "bomb", [("a", bomb)] if kind == "zip" else
                 [("a", bomb[: 3 << 19]), ("b", bomb[: 3 << 19])]))
    read, count = gltch.Unpacked.readinto, [0]

    def counted(self, buffer):
        count[0] += len(buffer)
        return read(self, buffer)

    monkeypatch.setattr(gltch.Unpacked, "readinto", counted)
    with pytest.raises(GltchError) as error:
        load_corpus([path])
    assert path in sentence(error) and "2 MB" in str(error.value)
    assert count[0] < 4 << 20


@pytest.mark.parametrize("make", [
    lambda path: write(path, gzip.compress(PLAY * 99)[:-9]),
    lambda path: write(path, gzip.compress(PLAY * 99)[:60] + b"?" * 60),
    lambda path: write(path, gzip.compress(PLAY)[:-8] + b"\0" * 8),
    lambda path: write(path, Path(pack(path, [("a.txt", PLAY * 99)])).read_bytes()[:-30]),
    lambda path: write(path, Path(pack(path, [("a.txt", PLAY * 99)])).read_bytes().replace(
        b"PK\1\2", b"PK??")),
    lambda path: write(path, Path(pack(path, [("a.txt", PLAY * 999)])).read_bytes().replace(
        b"a.txt", b"b.txt", 1)),
])
def test_a_damaged_archive_is_named(tmp_path, make):
    path = make(tmp_path / "damaged")
    with pytest.raises(GltchError) as error:
        load_corpus([path])
    assert path in sentence(error) and "damaged" in str(error.value)


@settings(deadline=None, max_examples=150,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1,
                               max_size=4))
@example(True, [(291, 1)])  # a member that begins before the file does
def test_an_archive_with_any_bytes_changed_is_a_text_or_a_sentence(tmp_path, zipped, changes):
    path = tmp_path / "changed"
    if zipped:
        pack(path, [("a.txt", PLAY), ("b.txt", PLAY * 9)])
    else:
        write(path, gzip.compress(PLAY))
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    path.write_bytes(content)
    try:
        assert len(load_corpus([str(path)]).ids) >= 20
    except GltchError as error:
        assert str(path) in str(error)


# --- Addresses on the web -------------------------------------------------------------------------


def kept():
    folder = gltch.cache_folder() / "texts"
    return list(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("content", [PLAY, gzip.compress(PLAY)], ids=["plain", "gz"])
@pytest.mark.parametrize("announced", [True, False])
def test_an_address_is_downloaded_once_and_then_read_from_the_cache(
        website, capsys, content, announced):
    website.content = content
    website.headers = [("Content-Length", str(len(content)))] if announced else []
    for _ in range(2):
        corpus = load_corpus([website.address])
        assert (text_of(corpus), corpus.paths) == (PLAY.decode(), [website.address])
        assert website.address in corpus.source
    assert website.requests == 1
    name = hashlib.sha256(website.address.encode()).hexdigest()
    assert {path.name: path.read_bytes() for path in kept()} == {
        name: content, f"{name}.sha256": hashlib.sha256(content).hexdigest().encode()}
    said = capsys.readouterr().err
    assert "download  0.0 MB" in said and "again" not in said


@pytest.mark.parametrize("damage", [
    lambda copy, digest: copy.write_bytes(b"?" + copy.read_bytes()[1:]),
    lambda copy, digest: copy.write_bytes(copy.read_bytes()[:-1]),
    lambda copy, digest: copy.write_bytes(b""),
    lambda copy, digest: digest.write_bytes(b"\xff"),
    lambda copy, digest: digest.unlink(),  # a kill came between the two files
])
def test_a_copy_that_does_not_fit_its_sha256_is_downloaded_again_with_a_sentence(
        website, capsys, damage):
    load_corpus([website.address])
    damage(*sorted(kept(), key=lambda path: len(path.name)))
    capsys.readouterr()
    for _ in range(2):
        assert text_of(load_corpus([website.address])) == PLAY.decode()
    said = capsys.readouterr().err
    assert website.requests == 2 and said.count("does not fit its SHA-256") == 1
    assert website.address in said


def test_a_damaged_copy_is_not_used_without_a_network(website):
    load_corpus([website.address])
    copy, _ = sorted(kept(), key=lambda path: len(path.name))
    copy.write_bytes(b"Another text, long enough to learn from.")
    website.content = None
    with pytest.raises(GltchError, match="could not be downloaded"):
        load_corpus([website.address])


def test_a_zip_file_can_be_downloaded_and_stands_beside_files(website, tmp_path):
    website.content = Path(pack(tmp_path / "a.zip", [("b", "Two. "), ("a", "One. ")])).read_bytes()
    path = write(tmp_path / "c.txt", "Three and the end.")
    assert text_of(load_corpus([website.address, path])) == "One. \nTwo. \nThree and the end."


def test_an_address_that_moved_is_followed(website):
    moved = website.address.replace("play.txt", "moved")
    assert text_of(load_corpus([moved])) == PLAY.decode()


def refused(address, *words):
    with pytest.raises(GltchError) as error:
        load_corpus([address])
    assert address in sentence(error), error
    for word in words:
        assert word in str(error.value)
    assert kept() == []


def test_a_download_that_fails_is_a_sentence_and_leaves_nothing_behind(website, monkeypatch):
    website.content = None
    refused(website.address, "could not be downloaded (it answers 404): check the address")
    website.content = PLAY
    website.headers = [("Content-Length", str(len(PLAY) + 5))]
    refused(website.address, "could not be downloaded")
    website.headers = [("Content-Length", "many")]
    refused(website.address, "could not be downloaded")
    refused("http://127.0.0.1:1/nobody", "could not be downloaded (ConnectionError): check")
    refused("https://nobody.invalid/text", "could not be downloaded")
    refused("http://", "could not be downloaded")
    refused("http://[", "could not be downloaded")
    monkeypatch.setitem(sys.modules, "requests", None)
    refused(website.address, "pip install requests")


@pytest.mark.parametrize("announced", [True, False])
def test_a_download_that_is_too_large_is_broken_off(website, monkeypatch, announced):
    monkeypatch.setattr(gltch, "MOST_BYTES", 1 << 20)
    website.content = PLAY * 40_000
    website.headers = [("Content-Length", str(len(website.content)))] if announced else []
    refused(website.address, "larger than 1 MB")


def test_an_interrupted_download_leaves_nothing_behind(website, monkeypatch):
    def interrupted(self, *words):
        raise KeyboardInterrupt

    monkeypatch.setattr(gltch.Progress, "line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_corpus([website.address])
    assert kept() == []


def test_a_page_that_is_not_text_is_a_sentence(website):
    website.content = b"\x89PNG\r\n\x1a\n" + bytes(40)
    with pytest.raises(GltchError, match="is not UTF-8 text"):
        load_corpus([website.address])


# --- Tiny Shakespeare and the built-in text -------------------------------------------------------


def cached():
    return gltch.cache_folder() / "tinyshakespeare.txt"


def test_tiny_shakespeare_is_downloaded_once_and_then_read_from_the_cache(website):
    for _ in range(2):
        corpus = load_corpus()
        assert (corpus.source, text_of(corpus)) == ("Tiny Shakespeare", PLAY.decode())
        assert (website.requests, cached().read_bytes()) == (1, PLAY)
    assert corpus.paths == ["@shakespeare"]
    assert [path.name for path in gltch.cache_folder().iterdir()] == ["tinyshakespeare.txt"]


def test_the_cache_lies_in_xdg_cache_home_or_the_home_folder(tmp_path, monkeypatch):
    assert gltch.cache_folder() == tmp_path / "cache" / "gltch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert gltch.cache_folder() == tmp_path / ".cache" / "gltch"


@pytest.mark.parametrize("corrupt", [b"", PLAY[:-1], PLAY + b"!"])
def test_a_corrupt_cache_is_downloaded_again(website, corrupt):
    write(cached(), corrupt)
    assert text_of(load_corpus()) == PLAY.decode()
    assert (website.requests, cached().read_bytes()) == (1, PLAY)


def test_a_corrupt_cache_is_not_used_without_a_network():
    write(cached(), PLAY)  # not the real SHA-256
    assert "built in" in load_corpus().source


def test_a_download_with_the_wrong_sha256_is_refused_and_not_kept(website, capsys):
    website.content = PLAY + b"<script>"
    assert "built in" in load_corpus().source
    assert website.requests == 1 and not cached().exists()
    assert "SHA-256" in capsys.readouterr().err


def test_an_error_page_is_no_text(website, capsys):
    website.content = None
    assert "built in" in load_corpus().source
    assert website.requests == 1 and not cached().exists()
    assert "could not be downloaded" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(website, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", write(tmp_path / "a file, no folder", "x"))
    assert load_corpus().source == "Tiny Shakespeare"


def test_a_full_disk_does_not_stop_the_run_and_leaves_nothing_behind(website, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert load_corpus().source == "Tiny Shakespeare"
    assert list(gltch.cache_folder().iterdir()) == []
    assert "No space left on device" in capsys.readouterr().err


def test_without_the_package_requests_the_built_in_text_is_used(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "requests", None)  # makes `import requests` fail
    assert "built in" in load_corpus().source
    assert "pip install requests" in capsys.readouterr().err


def test_without_a_network_the_built_in_text_has_the_65_characters_and_enough_of_them(capsys):
    corpus = load_corpus()
    assert "built in" in corpus.source and "could not be downloaded" in capsys.readouterr().err
    assert corpus.vocabulary.characters == gltch.SHAKESPEARE_CHARACTERS
    assert len(corpus.vocabulary) == 65
    assert len(corpus.ids) >= 200_000
    assert text_of(corpus) == gltch.builtin_text()


# --- Windows --------------------------------------------------------------------------------------

ids_and_sizes = st.integers(1, 12).flatmap(
    lambda size: st.tuples(st.integers(size + 1, 150), st.just(size)))


@quick
@given(ids_and_sizes, st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_an_epoch_visits_each_window_once_without_overlap(shape, seed, epoch):
    n, size = shape
    windows = Windows(torch.arange(n), size, seed)
    count = windows.per_epoch
    starts = sorted(windows.start(epoch * count + i) for i in range(count))
    assert 0 <= starts[0] and starts[-1] + size + 1 <= n
    assert all(after - before == size for before, after in zip(starts, starts[1:]))
    assert n - count * size <= 2 * size  # less than two windows are left out


@quick
@given(ids_and_sizes, st.integers(0, 2**31 - 1), st.data())
def test_targets_are_the_inputs_shifted_by_one(shape, seed, data):
    n, size = shape
    windows = Windows(torch.arange(n).to(torch.int16), size, seed)
    indices = data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=4))
    inputs, targets = windows.batch(indices)
    assert inputs.shape == targets.shape == (len(indices), size)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs + 1, targets)  # the text counts upwards


@quick
@given(ids_and_sizes, st.lists(st.integers(0, 60), max_size=20))
def test_random_access_equals_sequential_access(shape, indices):
    n, size = shape
    sequential, jumping = (Windows(torch.arange(n), size, 7) for _ in range(2))
    row = [sequential.start(i) for i in range(61)]
    assert [jumping.start(i) for i in indices] == [row[i] for i in indices]


def epochs(seed, count=4):
    windows = Windows(torch.arange(1001), 10, seed)
    starts = [windows.start(i) for i in range(count * windows.per_epoch)]
    return [starts[i: i + windows.per_epoch] for i in range(0, len(starts), windows.per_epoch)]


def test_every_epoch_has_another_order_and_offsets_vary():
    orders = [tuple(start // 10 for start in epoch) for epoch in epochs(1)]
    assert len(set(orders)) == 4
    assert len({epoch[0] % 10 for epoch in epochs(1, 20)}) > 5


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(2)[0]


def test_a_text_of_exactly_one_window_works():
    windows = Windows(torch.arange(9), 8, seed=0)
    inputs, targets = windows.batch([0, 1, 2])
    assert inputs.tolist() == [list(range(8))] * 3
    assert targets.tolist() == [list(range(1, 9))] * 3


def test_a_text_shorter_than_one_window_is_refused_with_both_lengths():
    with pytest.raises(GltchError) as error:
        Windows(torch.arange(8), 8, seed=0)
    assert "has 8 characters" in sentence(error) and "takes 9" in str(error.value)
