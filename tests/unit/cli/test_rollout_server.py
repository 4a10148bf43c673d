"""vLLM's command, its environment, and a server that is started and stopped."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys

import pytest

from affectgpt_r1.cli.rollout_server import main
from affectgpt_r1.config.rollout_server import serve, server_command
from helpers.configs import compose_config

RUN = "experiment=affectgpt_r1/grpo"
SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
options = dict(zip(sys.argv[1:], sys.argv[2:]))
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        card = {"id": options["--served-model-name"], "max_model_len": 9}
        self.wfile.write(json.dumps({"data": [card]}).encode())
    def log_message(self, *_):
        pass
print("serves", os.environ["VLLM_SERVER_DEV_MODE"], os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], flush=True)
HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


def test_requirements(tmp_path, capsys):
    main(["--requirements", str(tmp_path / "vllm.txt")])
    assert (tmp_path / "vllm.txt").read_text().splitlines()[-1] == "vllm==0.32.0"
    assert capsys.readouterr().out == (
        f"python3 -m venv vllm-env && vllm-env/bin/pip install -r {tmp_path / 'vllm.txt'}\n"
    )


def test_the_command_serves_the_language_model_of_the_run(tmp_path, capsys):
    (tmp_path / "Qwen2.5-7B-Instruct").mkdir()
    main([RUN, f"paths.weights={tmp_path}", "model.lora.r=12", "--dry-run", "--vllm", "--gpu-memory-utilization 0.5"])
    assert shlex.split(capsys.readouterr().out) == [
        *("vllm-env/bin/python", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", f"{tmp_path}/Qwen2.5-7B-Instruct", "--served-model-name", "Qwen/Qwen2.5-7B-Instruct"),
        *("--host", "127.0.0.1", "--port", "8000", "--dtype", "bfloat16", "--max-lora-rank", "16", "--max-loras", "1"),
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--enable-prompt-embeds", "--enable-lora", "--gpu-memory-utilization", "0.5"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["experiment=demo/grpo"], "serves pretrained weights, and adapters that train"),
        ([RUN, "model.lora=null"], "serves pretrained weights, and adapters that train"),
        ([RUN, "model.lora.r=600"], "model.lora.r=600: vLLM takes at most 512"),
        ([RUN, "--python", "/nowhere/python"], "--python /nowhere/python cannot be run (No such file or directory)"),
        ([RUN, "--python", "/bin/false"], "vLLM ended by itself with code 1: read its messages above"),
    ],
)
def test_refusals(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("affectgpt-r1 rollout-server: ")
    assert said in error


def test_a_taken_port_is_refused(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SystemExit):
            main([RUN, f"rollout.server.url={url}", "--python", "/bin/false"])
    assert f"{url} is in use: stop what listens there, or give rollout.server.url=" in capsys.readouterr().err


def test_the_server_ends_with_the_command(tmp_path, capfd):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    python = tmp_path / "python"
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -S {script} "$@"\n')
    python.chmod(0o755)
    config = compose_config("train", RUN, "rollout=vllm", f"rollout.server.url=http://127.0.0.1:{port}")
    said = []

    def stop(line):
        said.append(line)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        serve(config, server_command(config, str(python)), stop)
    ready = f"Ready at http://127.0.0.1:{port}: train with rollout=vllm in another terminal; Ctrl-C stops this"
    assert said == [ready]
    assert capfd.readouterr().err == "serves 1 1\n"
    assert signal.getsignal(signal.SIGTERM) is before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
