"""Chats behind a URL, against a server on this machine, and answers kept on disk."""

import asyncio
import gzip
import json
import os
import random
import resource
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from affectgpt_r1.emotion import chat_client as chat
from affectgpt_r1.emotion.chat_client import CachedChat, ChatError, UrlChat, answer_all


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.statuses, self.content, self.silent = [], [], "[happy, calm]", threading.Event()
        self.body = self.raw = None
        self.more, self.stopped = b"", threading.Event()  # sent after `raw` again and again
        self.meet = lambda prompt: None  # called with each prompt; what it returns, if anything, is the status
        self.silent.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def chat(self, model="tiny", **settings):
        return UrlChat(self.url, model, **{"pause": 0.0} | settings)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Authorization"), None))

    def do_POST(self):
        if self.server.raw is not None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = True
            self.wfile.write(self.server.raw)
            with suppress(OSError):
                while self.server.more:
                    self.wfile.write(self.server.more)
                    self.server.stopped.wait(0.02 if len(self.server.more) < 100 else 0)
            return
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), request))
        prompt = request["messages"][-1]["content"]
        status = self.server.meet(prompt)
        self.server.silent.wait(10)
        answer = {"choices": [{"message": {"role": "assistant", "content": self.server.content.format(prompt)}}]}
        body = self.server.body if self.server.body is not None else json.dumps(answer).encode()
        with suppress(OSError):  # who asked may have given up
            self.send_response(status or (self.server.statuses.pop(0) if self.server.statuses else 200))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.silent.set()
        server.more = b""
        server.stopped.set()
        server.shutdown()
        thread.join()


def test_asks_at_temperature_0_with_the_key(server):
    assert server.chat(max_tokens=7)("She smiles.", "Say how she feels.") == "[happy, calm]"
    ((path, key, request),) = server.requests
    assert (path, key) == ("/v1/chat/completions", "Bearer a key")
    assert request == {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 7,
        "messages": [
            {"role": "system", "content": "Say how she feels."},
            {"role": "user", "content": "She smiles."},
        ],
    }


def test_no_instruction_is_no_message(server):
    server.chat()("Hello")
    assert [message["role"] for message in server.requests[0][2]["messages"]] == ["user"]


def test_a_question_is_asked_once(server):
    chat = server.chat()
    assert CachedChat(chat)("a", "b") == CachedChat(chat)("a", "b") == "[happy, calm]"
    assert len(server.requests) == 1
    CachedChat(chat)("a")
    CachedChat(chat)("b", "a")
    CachedChat(replace(chat, model="large"))("a", "b")
    CachedChat(replace(chat, max_tokens=3))("a", "b")
    assert len(server.requests) == 5


def test_many_questions_are_under_way_at_once_and_answered_in_order(server):
    met, under_way, most = threading.Barrier(8), [], []

    def meet(prompt):
        under_way.append(prompt)
        most.append(len(under_way))
        met.wait(10)  # until eight have come: one after another they would never meet
        under_way.remove(prompt)

    server.meet, server.content = meet, "[{}]"
    prompts = [str(number) for number in range(24)]

    assert answer_all(server.chat(concurrency=8), prompts) == [f"[{prompt}]" for prompt in prompts]
    assert max(most) == 8


def test_answers_that_came_before_a_failure_are_not_asked_again(server):
    chat = CachedChat(server.chat(concurrency=2))
    server.meet = lambda prompt: 400 if prompt == "5" else None
    with pytest.raises(ChatError, match="answered 400 Bad Request: check the URL, key and model"):
        answer_all(chat, ["1", "2", "3", "4", "1", "5"])
    server.meet, server.requests = (lambda prompt: None), []

    assert answer_all(chat, ["1", "2", "5", "1"]) == ["[happy, calm]"] * 4
    assert [request["messages"][0]["content"] for _, _, request in server.requests] == ["5"]


def test_a_failure_ends_the_questions_that_still_wait(server):
    answered, failed = [], threading.Event()

    def meet(prompt):
        if prompt != "0":
            failed.wait(10)
            answered.append(prompt)
        return 400

    server.meet = meet
    with pytest.raises(ChatError, match="answered 400"):
        answer_all(server.chat(retries=0), [str(number) for number in range(9)])
    assert answered == []
    failed.set()


def test_an_interrupt_ends_the_questions_that_still_wait(server):
    answered, come = [], threading.Barrier(4, lambda: os.kill(os.getpid(), signal.SIGINT))

    def meet(prompt):
        come.wait(10)
        server.silent.wait(10)
        answered.append(prompt)

    server.silent.clear()
    server.meet = meet
    with pytest.raises(KeyboardInterrupt):
        answer_all(server.chat(), list("abcd"))
    assert answered == []


def test_any_other_chat_is_asked_one_after_another(tmp_path, monkeypatch):
    class Echo:
        identity = "echo"

        def __call__(self, prompt, instruction=""):
            return prompt * 2

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = []

    assert answer_all(CachedChat(Echo()), ["a", "b"], keep=lambda *pair: kept.append(pair)) == ["aa", "bb"]
    assert answer_all(CachedChat(Echo()), ["b"], keep=lambda *pair: kept.append(pair)) == ["bb"]
    assert kept == [("a", "aa"), ("b", "bb"), ("b", "bb")]


def test_a_damaged_answer_on_disk_is_asked_anew(server, tmp_path):
    chat = CachedChat(server.chat())
    chat("a")
    (kept,) = (tmp_path / "affectgpt_r1" / "chat").iterdir()
    for damaged in ("{", "[1]"):
        kept.write_text(damaged)
        assert chat("a") == "[happy, calm]"
    assert len(server.requests) == 3
    assert chat("a") == "[happy, calm]"
    assert len(server.requests) == 3


def test_an_answer_that_cannot_be_kept_is_still_given(server, tmp_path):
    (tmp_path / "affectgpt_r1").write_text("in the way")
    assert CachedChat(server.chat())("a") == "[happy, calm]"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "did not answer as an OpenAI-compatible API"),
        (b'{"choices": []}', "did not answer as an OpenAI-compatible API"),
        (b"[]", "did not answer as an OpenAI-compatible API"),
        (b"\xff\xfe\x00", "did not answer as an OpenAI-compatible API"),
        (b"[" * 200_000, "did not answer as an OpenAI-compatible API does .*nested too deeply"),
        (b"9" * 10_000, "did not answer as an OpenAI-compatible API"),
        (b'{"error": "\x1b]0;pwned\x07"}', "did not answer as an OpenAI-compatible API"),
        (b'{"choices": [{"message": {"content": "\\ud800 happy"}}]}', "did not answer as an OpenAI-compatible API"),
        (b'{"choices": [{"message": {"content": null}}]}', "NoneType in place of text"),
        (b'{"choices": [{"message": {"content": ["x"]}}]}', "list in place of text"),
        (b" " * (chat.MAX_BYTES + 1), "more than 1048576 bytes"),
    ],
)
def test_answers_of_another_kind(server, body, message):
    server.body = body
    with pytest.raises(ChatError, match=message) as refused:
        server.chat()("a")
    assert len(server.requests) == 1
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("raw", "more", "message"),
    [
        (HEAD + b"\r\n", b"a" * 65536, "answered with more than 1048576 bytes"),
        (HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"a" * 9_000_000), b"", "did not answer as"),
        (HEAD + b"\r\n", b" ", r"gave no answer within 0\.3 s; raise the time-out"),
        (HEAD + b"X: ", b"x", r"gave no answer within 0\.3 s; raise the time-out"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", r"gave no answer within 0\.3 s; raise the time-out"),
        (HEAD + b"X: ", b"x" * 65536, "cannot be reached .RemoteProtocolError"),
        (b"\x1b]0;pwned\x07\r\n\r\n", b"", "cannot be reached .RemoteProtocolError"),
        (b"HTTP/1.1 401 \x1b[31mkey \x1b]0;pwned\x07\r\nContent-Length: 0\r\n\r\n", b"", "answered 401 Unauthorized"),
        (b"HTTP/1.1 401 pwned\r\n\r\n", b"a" * 65536, "answered 401 Unauthorized: check the URL"),
        (b"HTTP/1.1 302 X\r\nLocation: http://localhost:{port}/stolen\r\n\r\n", b"", "answered 302 Found"),
        (b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:{port}/v1\r\n\r\n", b"", "answered 307 Temporary Redirect"),
        (b"HTTP/1.1 301 X\r\nLocation: file:///etc/passwd\r\n\r\n", b"", "answered 301 Moved Permanently"),
    ],
    ids=[
        "endless",
        "gzip",
        "drip",
        "drip-header",
        "drip-100",
        "long-header",
        "no-http",
        "reason",
        "error",
        "loop-host",
        "loop",
        "file",
    ],
)
def test_servers_that_mean_harm(server, raw, more, message):
    server.raw, server.more = raw.replace(b"{port}", str(server.server_port).encode()), more
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ChatError, match=message) as refused:
        server.chat(timeout=0.3 if 0 < len(more) < 100 else 5, retries=0)("a")
    assert time.monotonic() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # KiB
    assert server.requests == [], "nothing is asked elsewhere"
    assert str(refused.value).isprintable()
    assert "pwned" not in str(refused.value) or "RemoteProtocolError" in str(refused.value)
    assert "a key" not in repr(refused.value)


def test_control_characters_are_taken_out_of_an_answer(server, tmp_path):
    server.content = "\x1b]0;pwned\x07happy\x1b[31m,\r\n\tcalm \x9b1m\u3000☺️"
    assert CachedChat(server.chat())("a") == "]0;pwnedhappy[31m,\n\tcalm 1m\u3000☺️"
    assert CachedChat(server.chat())("a") == "]0;pwnedhappy[31m,\n\tcalm 1m\u3000☺️"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "key", ["sk-SECRET\n", "sk-SECRET\r\nHost: x", "sk-SECRET\x1b", "sk-SECRETé", "\udc80sk-SECRET"]
)
def test_a_key_that_cannot_be_one_is_not_sent(server, monkeypatch, caplog, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ChatError, match="OPENAI_API_KEY holds a line break") as refused:
        server.chat()("a")
    assert "SECRET" not in str(refused.value) + caplog.text
    assert server.requests == []


def test_the_key_is_in_no_log(server, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SECRET")
    caplog.set_level("DEBUG")
    assert server.chat()("a") == "[happy, calm]"
    server.statuses = [401]
    with pytest.raises(ChatError) as refused:
        server.chat()("a")
    assert server.requests[0][1] == "Bearer sk-SECRET"
    assert "SECRET" not in caplog.text + str(refused.value) + repr(server.chat())
    assert not [record for record in caplog.records if record.name.startswith("http") and record.levelname == "INFO"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", value) for value in (0, -1, float("nan"), float("inf"), 1e9, "60", None)]
    + [("retries", -1), ("retries", 10**9), ("pause", -1), ("pause", float("nan")), ("max_tokens", 0)],
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(ChatError, match=f"the chat model's {name} is .*: give a number from"):
        UrlChat("http://127.0.0.1:1/v1", "tiny", **{name: value})


@pytest.mark.parametrize(
    "url", ["http://me:SECRET@127.0.0.1:1/v1", "http://127.0.0.1/v1?key=SECRET", "http://h/#SECRET"]
)
def test_a_key_in_the_url_is_refused_unshown(url):
    with pytest.raises(ChatError, match="a key belongs in OPENAI_API_KEY") as refused:
        UrlChat(url, "tiny")
    assert "SECRET" not in str(refused.value)


def test_a_proxy_is_asked(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    assert UrlChat("http://judge.invalid/v1", "tiny")("a") == "[happy, calm]"
    assert server.requests[0][0] == "http://judge.invalid/v1/chat/completions"
    monkeypatch.setenv("no_proxy", "judge.invalid")
    with pytest.raises(ChatError, match="cannot be reached"):
        UrlChat("http://judge.invalid/v1", "tiny", retries=0)("a")
    for proxy in ("socks5://127.0.0.1:1", "gopher://127.0.0.1"):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(ChatError, match="check URL and proxy settings"):
            UrlChat("http://other.invalid/v1", "tiny", retries=0)("a")


def test_certificates_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    chat._tls.cache_clear()
    try:
        with pytest.raises(ChatError, match=r"cannot be asked \(FileNotFoundError"):
            UrlChat("https://127.0.0.1:1/v1", "tiny", retries=0)("a")
    finally:
        chat._tls.cache_clear()


def test_a_notebook_runs_a_loop_of_its_own(server):
    async def cell():
        return server.chat()("a")

    assert asyncio.run(cell()) == "[happy, calm]"


@pytest.mark.parametrize("busy", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server, busy):
    server.statuses = [busy, busy]
    assert server.chat()("a") == "[happy, calm]"
    assert len(server.requests) == 3
    server.statuses = [busy] * 4
    with pytest.raises(ChatError, match=rf"answered {busy} .*\(3 times asked\)"):
        server.chat()("b")
    assert len(server.requests) == 6


def test_a_refusal_is_final(server):
    server.statuses = [401]
    with pytest.raises(ChatError, match=r"answered 401 [^(]*: check the URL, key and model"):
        server.chat()("a")
    assert len(server.requests) == 1


@pytest.fixture
def pauses(monkeypatch):
    taken = []

    async def note(seconds):
        taken.append(seconds)

    monkeypatch.setattr("affectgpt_r1.emotion.chat_client.asyncio.sleep", note)
    return taken


def test_pauses_double_with_jitter(server, pauses):
    state = random.getstate()
    for _ in range(2):
        server.statuses = [503] * 3
        assert server.chat(pause=0.5, retries=3)("a") == "[happy, calm]"
    for taken, pause in zip(pauses, [0.5, 1.0, 2.0] * 2, strict=True):
        assert pause <= taken <= pause * 1.25
    assert pauses[:3] != pauses[3:]
    assert random.getstate() == state, "the global generator belongs to training"


@pytest.mark.parametrize(("wanted", "taken"), [("7", 7), ("999999", 60), ("-1", 0), ("soon", 0), ("", 0), ("٣", 0)])
def test_the_server_says_when_to_ask_again_up_to_a_minute(server, pauses, wanted, taken):
    server.raw = f"HTTP/1.1 429 Busy\r\nRetry-After: {wanted}\r\nContent-Length: 0\r\n\r\n".encode()
    with pytest.raises(ChatError, match="answered 429 Too Many Requests"):
        server.chat(retries=1)("a")
    assert pauses == [taken]


def test_silence(server):
    server.silent.clear()
    with pytest.raises(ChatError, match=r"no answer within 0\.2 s \(2 times asked\); raise the time-out"):
        server.chat(timeout=0.2, retries=1)("b")


def test_no_server(tmp_path):
    with pytest.raises(ChatError, match=r"cannot be reached .*is the server running\?"):
        UrlChat("http://127.0.0.1:1/v1", "tiny", pause=0.0)("a")
    for address in (
        "file:///etc",
        "",
        "127.0.0.1:80",
        "http://",
        "http://[",
        "http://h:x",
        "http://h\n/",
        "http://h:99999",
    ):
        with pytest.raises(ChatError, match="not the address of a chat model") as refused:
            UrlChat(address, "tiny")
        assert str(refused.value).isprintable()
