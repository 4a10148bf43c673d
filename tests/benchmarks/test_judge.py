"""Judge 16 groups of 8 reasonings by a chat model that takes 0.3 s an answer: 896 questions, against one after another.

Both sides give the same rewards. One after another is measured on one group, and taken 16 times.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from affectgpt_r1.emotion.chat_client import UrlChat
from affectgpt_r1.rewards.judges import ChatJudge
from affectgpt_r1.rewards.perception import PerceptionReward
from affectgpt_r1.types import Completion

CLIPS, GROUP, LATENCY = 16, 8, 0.3


class Handler(BaseHTTPRequestHandler):
    """Prefers the account whose last number is larger."""

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        first, second = (int(line.split()[-1]) for line in prompt.splitlines() if line.startswith("Account"))
        threading.Event().wait(LATENCY)
        body = json.dumps({"choices": [{"message": {"content": "A" if first > second else "B"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_questions_of_a_judge(server, tmp_path):
    path = tmp_path / "reasons.csv"
    path.write_text("name,reason\n" + "".join(f"clip_{clip},She smiles.\n" for clip in range(CLIPS)))
    completions = [
        Completion("", f"mark {7 * row % GROUP}", "", (), True, clip=f"clip_{clip}", group=clip)
        for clip in range(CLIPS)
        for row in range(GROUP)
    ]

    def timed(concurrency, rows):
        judge = ChatJudge(UrlChat(server, "tiny", concurrency=concurrency), path)
        started = time.perf_counter()
        rewards = PerceptionReward(judge)(completions=rows, targets=[()] * len(rows))
        return time.perf_counter() - started, rewards

    alone, expected = timed(1, completions[:GROUP])
    together, rewards = timed(32, completions)
    assert rewards == expected * CLIPS
    print(
        f"\n896 questions: {together:.1f} s; one after another {alone * CLIPS:.1f} s: {alone * CLIPS / together:.1f} x"
    )
    assert alone * CLIPS / together >= 16
