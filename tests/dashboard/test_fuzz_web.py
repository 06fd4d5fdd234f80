"""The dashboard's port: whatever is asked, the answer is one of those that are documented."""
import contextlib
import http.client
import re
import socket

import pytest
from fuzzing import changes, damage, end, fuzz, memory_at_most
from hive_processes import LIMIT
from hypothesis import strategies as st
from test_web import NEWEST, Facts, Port, parse

from hive.dashboard.web import FILES
from hive.network.answers import MOST, Query, Refusal

KNOWN = {200, 304, 400, 403, 404, 405, 421, 426, 503, 414, 431}  # the last two by websockets
SECRET = b"this is not for visitors"
PATHS = [*FILES, "/api/state", "/api/history", "/api/peers", "/api/samples", "/api/rounds/3",
         "/api/rounds/", "/api/events", "/metrics", "/healthz", "/model.safetensors", "/last.pt",
         "/best.pt", "/hive"]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A dashboard with files around it that are nobody's business."""
    folder = tmp_path_factory.mktemp("runs") / "hive"
    folder.mkdir()
    for path in (folder / "key", folder / "journal.db", folder.parent / "secret"):
        path.write_bytes(SECRET)
    (folder / "last.pt").write_bytes(b"weights" * 100)
    port = Port(Facts(folder))
    yield port
    port.close()


# --------------------------------------------------------------------------------------------------
# Strategies
# --------------------------------------------------------------------------------------------------

def joined(*parts):
    return st.tuples(*parts).map("".join)


ascii_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
awkward = st.sampled_from(["..", ".", "%2e%2e", "%2f", "\\", "%5c", "%00", "%", "%zz", "//", "%ff",
                           "hive", "web.py", "..;", "key", "journal.db", "secret", "runs", "~",
                           "%c0%ae%c0%ae", "api", "rounds", "last.pt", "http://localhost/key"])
numbers = st.one_of(
    st.integers(-5, 40).map(str), st.integers(-10**20, 10**20).map(str), ascii_text,
    st.sampled_from(["", "0", "00", "1e9", "1.0", "-0", "+1", "%31", "%D9%A1", "%F0%9F%92%80",
                     "1%00", "9" * 16, "9" * 17, "9" * 5000, "NaN", "inf", "0x1", "1_0", "%ff"]))
paths = st.one_of(
    st.sampled_from(PATHS), st.lists(awkward | ascii_text, max_size=6).map(
        lambda parts: "/" + "/".join(parts)),
    joined(st.just("/api/rounds/"), numbers), joined(st.sampled_from(PATHS), ascii_text))
fields = st.lists(joined(
    st.sampled_from(["from", "to", "points", "limit", "round", "since", "session"]) | ascii_text,
    st.sampled_from(["=", "==", "", "%3d"]), numbers), max_size=12).flatmap(
        lambda values: st.sampled_from(["&", ";", "&&"]).map(lambda sign: sign.join(values)))
targets = joined(paths, st.sampled_from(["?", "?", "", "#", "??"]), fields)
latin = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"),
                max_size=30)
headers = st.lists(st.tuples(
    st.sampled_from(["Host", "Origin", "If-None-Match", "Range", "Upgrade", "Connection",
                     "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Content-Length",
                     "Transfer-Encoding", "X-Forwarded-For", "Forwarded", "Cookie", "Expect"])
    | st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True),
    latin | st.sampled_from([
        "localhost", "127.0.0.1", "[::1]", "example.org", "null", "http://localhost", "*",
        f'W/"weights-{NEWEST}"', '"x", W/"weights-3"', "bytes=0-9", "bytes=-1", "bytes=9-1",
        "bytes=0-,1-,2-", "bytes=" + "9" * 30 + "-", "websocket", "Upgrade", "13", "0", "chunked",
        "1", "1.2.3.4", "1.2.3.4, ::1", "100-continue", "AAAAAAAAAAAAAAAAAAAAAA=="])), max_size=8)


def answered(port, request):
    """Status, headers and content that a request gets; None when it is closed without a word."""
    with socket.create_connection(("127.0.0.1", port.number), timeout=LIMIT) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            if b"\r\n\r\n" not in request:  # it is not waited for
                end(connection)
        method = "HEAD" if request.startswith(b"HEAD ") else "GET"
        answer = http.client.HTTPResponse(connection, method=method)
        try:
            answer.begin()
            return answer.status, {} if answer.status == 101 else answer.headers, (
                b"" if answer.status == 101 else answer.read())
        except (http.client.BadStatusLine, ConnectionError):
            return None
        finally:
            answer.close()


def check(answer, head_only=False):
    if answer is None:  # no HTTP at all
        return
    status, headers, content = answer
    assert status in KNOWN | {101}, answer
    assert SECRET not in content
    if headers.get("Content-Type") == "application/json" and status >= 400 and not head_only:
        assert list(parse(content)) == ["error"]


# --------------------------------------------------------------------------------------------------
# Tests
# --------------------------------------------------------------------------------------------------

@fuzz(300, text=fields | st.text(max_size=50),
      name=st.sampled_from(["from", "points", "limit", "round"]), least=st.integers(0, 5),
      most=st.integers(5, 10**6) | st.just(MOST), known=[
          {"text": f"from={number}", "name": "from", "least": 0, "most": MOST}
          for number in ("9" * 5000, "%D9%A3", "%C2%B2", "-1", "+1", "1_0", "%30")])
def test_a_number_that_is_asked_for_is_in_its_range_or_refused(text, name, least, most):
    try:
        value = Query(text).number(name, least, most)
    except Refusal as error:
        assert error.status == 400 and str(error).isprintable() and str(error).endswith(".")
    else:
        assert value is None or type(value) is int and least <= value <= most
        assert value is None or str(value)[-1] in text or "%" in text


@pytest.mark.parametrize("part", ["&", "a=1&", "%39", "9", "%", "+", "%f0", "=", ";"])
def test_no_query_takes_more_than_little_memory(part):
    text = "round=" + part * (8192 // len(part))  # websockets takes no longer line
    with memory_at_most(4 * 10**6), contextlib.suppress(Refusal):
        Query(text).number("round", 0)


@fuzz(250, target=targets, fields=headers, known=[
    {"target": "/../runs/hive/key", "fields": []}, {"target": "/%2e%2e/key", "fields": []},
    {"target": "/key", "fields": [("Range", "bytes=0-")]},
    {"target": "/last.pt", "fields": [("Range", "bytes=0-9"), ("If-None-Match", "*")]},
    {"target": "/api/rounds/" + "9" * 15, "fields": []}])
def test_any_address_with_any_headers_gets_a_documented_answer(port, target, fields):
    if not any(name == "Host" for name, _ in fields):
        fields = [("Host", "localhost"), *fields]
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    check(answered(port, "\r\n".join(lines).encode("latin-1")))


@fuzz(150, method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE",
                                   "CONNECT", "get", "", "G\0T", "\xff"]),
      target=targets | st.text(max_size=10), version=st.sampled_from([
          "HTTP/1.1", "HTTP/1.0", "HTTP/2", "HTTP/0.9", "http/1.1", "", "HTTP/1.1 x"]),
      how=st.just([]) | changes, body=st.binary(max_size=20))
def test_any_request_at_all_gets_a_documented_answer_or_none(port, method, target, version, how,
                                                             body):
    request = f"{method} {target} {version}\r\nHost: localhost\r\n\r\n".encode()
    request = damage(request, how) + body
    check(answered(port, request), request.startswith(b"HEAD "))
    assert answered(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200


@pytest.mark.parametrize("request_", [
    b"GET /" + b"a" * 10**6 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10**6 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 10**5 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: " + b"a" * 8000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n",
    b"\r\n" * 10**5, b"\0" * 10**6], ids=["address", "header", "headers", "host", "body", "lines",
                                          "zeros"])
def test_a_request_without_end_is_refused_before_it_takes_memory(port, request_):
    with memory_at_most(10 * len(request_) + 10**6):
        check(answered(port, request_))
    assert answered(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200


@fuzz(100, host=latin | joined(st.sampled_from(["localhost", "127.0.0.1", "[::1]", "LOCALHOST."]),
                               ascii_text))
def test_only_own_names_are_answered(port, host):
    answer = answered(port, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    check(answer)
    if answer and answer[0] == 200:
        assert re.match(r"(?i)\s*(localhost|[\d.]+|\[?[\da-f:.%]+\]?|" + re.escape(
            socket.gethostname()) + r")", host), host
    else:
        assert answer is None or answer[0] in (400, 421)
