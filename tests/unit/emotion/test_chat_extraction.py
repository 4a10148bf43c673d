"""The chat extractor against a server on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from affectgpt_r1.emotion.chat_extraction import ChatError, ChatExtractor, text_extractor
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.score import main


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.status, self.content, self.silent = [], 200, "[happy, calm]", threading.Event()
        self.body = None
        self.silent.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), request))
        self.server.silent.wait(10)
        answer = {"choices": [{"message": {"role": "assistant", "content": self.server.content}}]}
        body = self.server.body if self.server.body is not None else json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.silent.set()
        server.shutdown()
        thread.join()


def test_asks_once_at_temperature_0(server):
    extract = ChatExtractor(server.url, "tiny")
    assert extract("She smiles.") == extract("She smiles.") == (("happy", "calm"), (), "chat")
    assert extract("<answer>sad</answer>") == (("sad",), (), "answer")
    ((path, key, request),) = server.requests
    assert (path, key) == ("/v1/chat/completions", "Bearer a key")
    assert (request["model"], request["temperature"]) == ("tiny", 0)
    assert request["messages"][-1] == {"role": "user", "content": "She smiles."}


def test_another_text_or_model_is_asked_anew(server):
    ChatExtractor(server.url, "tiny")("a")
    ChatExtractor(server.url, "tiny")("b")
    ChatExtractor(server.url, "large")("a")
    assert len(server.requests) == 3


def test_a_damaged_answer_on_disk_is_asked_anew(server, tmp_path):
    extract = ChatExtractor(server.url, "tiny")
    extract("a")
    (kept,) = (tmp_path / "affectgpt_r1" / "chat").iterdir()
    kept.write_text("{")
    assert extract("a").labels == ("happy", "calm")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", ()),
        ("The list is ['happy', \"sad\"].", ("happy", "sad")),
        ("happy, sad", ("happy", "sad")),
        ("] [", ("] [",)),
        ("", ()),
    ],
)
def test_forms_of_answers(server, content, words):
    server.content = content
    assert ChatExtractor(server.url, "tiny")("a").labels == words


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "did not answer as an OpenAI-compatible API"),
        (b'{"choices": []}', "did not answer as an OpenAI-compatible API"),
        (b"[]", "did not answer as an OpenAI-compatible API"),
        (b'{"choices": [{"message": {"content": null}}]}', "NoneType in place of text"),
    ],
)
def test_answers_of_another_kind(server, body, message):
    server.body = body
    with pytest.raises(ChatError, match=message):
        ChatExtractor(server.url, "tiny")("a")


def test_refusals_and_silence(server):
    server.status = 401
    with pytest.raises(ChatError, match=r"answered 401 .*check the URL, key and model"):
        ChatExtractor(server.url, "tiny")("a")
    server.silent.clear()
    with pytest.raises(ChatError, match=r"no answer within 0\.2 s"):
        ChatExtractor(server.url, "tiny", timeout=0.2)("b")


def test_no_server(server):
    with pytest.raises(ChatError, match="cannot be reached"):
        ChatExtractor("http://127.0.0.1:1/v1", "tiny")("a")
    with pytest.raises(ChatError, match="no address of a chat model"):
        ChatExtractor("file:///etc", "tiny")("a")


def test_choice_of_extractor(server):
    lexicon = load_lexicon("bundled")
    assert text_extractor(lexicon, None, None)("not sad") == ((), ("not sad",), "text")
    assert text_extractor(lexicon, server.url, "tiny")("not sad").source == "chat"
    with pytest.raises(ChatError, match="both --chat-url and --chat-model"):
        text_extractor(lexicon, server.url, None)


def test_score_asks_the_model_for_free_text(server, tmp_path, capsys):
    (tmp_path / "p.csv").write_text("name,reason\na,She smiles.\n")
    (tmp_path / "t.csv").write_text('name,openset\na,"happy, calm"\n')
    files = ["--predictions", str(tmp_path / "p.csv"), "--targets", str(tmp_path / "t.csv")]
    main([*files, "--chat-url", server.url, "--chat-model", "tiny"])
    assert "100.00 [100.00, 100.00]" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main([*files, "--chat-url", server.url])
    assert stopped.value.code == 2
