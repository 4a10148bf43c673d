"""Chats behind a URL, against a server on this machine, and answers kept on disk."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from affectgpt_r1.emotion.chat import CachedChat, ChatError, UrlChat


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.statuses, self.content, self.silent = [], [], "[happy, calm]", threading.Event()
        self.body = None
        self.silent.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def chat(self, model="tiny", **settings):
        return UrlChat(self.url, model, **{"pause": 0.0} | settings)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), request))
        self.server.silent.wait(10)
        answer = {"choices": [{"message": {"role": "assistant", "content": self.server.content}}]}
        body = self.server.body if self.server.body is not None else json.dumps(answer).encode()
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
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
        (b'{"choices": [{"message": {"content": null}}]}', "NoneType in place of text"),
    ],
)
def test_answers_of_another_kind(server, body, message):
    server.body = body
    with pytest.raises(ChatError, match=message):
        server.chat()("a")


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


def test_pauses_double(server, monkeypatch):
    pauses = []
    monkeypatch.setattr("affectgpt_r1.emotion.chat.time.sleep", pauses.append)
    server.statuses = [503] * 3
    assert server.chat(pause=0.5, retries=3)("a") == "[happy, calm]"
    assert pauses == [0.5, 1.0, 2.0]


def test_silence(server):
    server.silent.clear()
    with pytest.raises(ChatError, match=r"no answer within 0\.2 s \(2 times asked\); raise the time-out"):
        server.chat(timeout=0.2, retries=1)("b")


def test_no_server(tmp_path):
    with pytest.raises(ChatError, match=r"cannot be reached .*is the server running\?"):
        UrlChat("http://127.0.0.1:1/v1", "tiny", pause=0.0)("a")
    for address in ("file:///etc", "", "127.0.0.1:80"):
        with pytest.raises(ChatError, match="no address of a chat model"):
            UrlChat(address, "tiny")("a")
