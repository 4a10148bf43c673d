"""A server in this process that speaks what rollouts use of vLLM's protocol, with the reference engine behind it."""

from __future__ import annotations

import base64
import copy
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from affectgpt_r1.engine.base import EmbeddedPrompts, SpecialTokens
from affectgpt_r1.engine.reference import ReferenceEngine
from affectgpt_r1.types import Sampling

MODEL = "toy"


class VLLMStub(ThreadingHTTPServer):
    """Serves a transformers language model and adapters from PEFT's folders.

    Attributes:
        asked: Paths in the order in which they were asked for.
        adapters: Models by name.
        dies_after: Completion requests that are answered; the next one closes the server, as a kill would.
        answers: Status and text by path, given in place of the server's own; each once.
        lost: Paths that do what they are asked and whose answer does not arrive; each once.
    """

    daemon_threads = True

    def __init__(self, model: Any, *, name: str = MODEL, max_length: int = 4096) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.name, self.max_length = model.eval(), name, max_length
        self.adapters: dict[str, Any] = {}
        self.folders: dict[str, str] = {}
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.answers: dict[str, list[tuple[int, str]]] = {}
        self.lost: list[str] = []
        self.dies_after: int | None = None
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that have gone."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and answer, as vLLM 0.32 gives them."""
        if path == "/v1/models":
            cards = [{"id": name, "root": root, "max_model_len": None} for name, root in self.folders.items()]
            return 200, {"data": [{"id": self.name, "root": "", "max_model_len": self.max_length}, *cards]}
        if path == "/v1/load_lora_adapter":
            from peft import PeftModel

            if body["lora_name"] in self.folders:
                return 400, {"error": {"message": f"The lora adapter '{body['lora_name']}' has already been loaded."}}
            model = PeftModel.from_pretrained(copy.deepcopy(self.model), body["lora_path"])
            self.adapters[body["lora_name"]], self.folders[body["lora_name"]] = model.eval(), body["lora_path"]
        elif path == "/v1/unload_lora_adapter":
            if body["lora_name"] not in self.folders:
                return 404, {"error": {"message": f"The lora adapter '{body['lora_name']}' cannot be found."}}
            del self.adapters[body["lora_name"]], self.folders[body["lora_name"]]
        elif path == "/reset_prefix_cache":
            return 200, {"success": True}
        elif path == "/v1/completions":
            return 200, {"choices": complete(self.adapters.get(body["model"], self.model), body)}
        return 200, {}


def complete(model: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of a completion, drawn by the reference engine and the request's seed."""
    prompt = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
    engine = ReferenceEngine(model)
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    sampling = Sampling(
        body["temperature"], body["top_p"], max(body["top_k"], 0), max_completion_length=body["max_tokens"]
    )
    drawn = engine.generate(
        engine.prefill(EmbeddedPrompts(prompt[None], mask, engine.token_embedding())),
        body["n"],
        sampling,
        SpecialTokens(body["stop_token_ids"], [int(token) for token in body["logit_bias"]], 0),
        generator=torch.Generator().manual_seed(body["seed"]),
    )
    return [
        {
            "index": index,
            "token_ids": ids[kept].tolist(),
            "logprobs": {"token_logprobs": logps[kept].tolist()},
            "finish_reason": "length" if truncated else "stop",
        }
        for index, (ids, kept, logps, truncated) in enumerate(
            zip(drawn.ids, drawn.mask.bool(), drawn.per_token_logps, drawn.truncated.tolist(), strict=True)
        )
    ]


class _Handler(BaseHTTPRequestHandler):
    server: VLLMStub

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        with self.server.lock:
            if self.path == "/v1/completions" and self.server.dies_after is not None:
                self.server.dies_after -= 1
                if self.server.dies_after < 0:
                    self.server.socket.close()  # whoever asks from now on is refused
                    self.connection.close()
                    return
            self.server.asked.append(self.path)
            self.server.bodies.append(body)
            given = self.server.answers.get(self.path)
            status, answer = given.pop(0) if given else self.server.answer(self.path, body)
            if self.path in self.server.lost:
                self.server.lost.remove(self.path)
                return
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(model: Any, **options: Any) -> Iterator[VLLMStub]:
    """Serve a model until the end of the context."""
    server = VLLMStub(model, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
