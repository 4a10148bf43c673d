"""Collect what the page shows, and serve it."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.inference.app.answer_files import read_answers
from affectgpt_r1.inference.app.judging import JudgementFiles
from affectgpt_r1.inference.app.page import Sources, build_page, launch_options, read_subtitles_of
from affectgpt_r1.inference.app.same_origin import LOOPBACK, SameOrigin
from affectgpt_r1.inference.app.trial import find_policies
from affectgpt_r1.inference.load_policy import load_predictor


def serve(options: argparse.Namespace) -> None:
    """Serve the page until it is interrupted; see ``affectgpt-r1 app --help`` for the options.

    Raises:
        ConfigError: The port is taken, or a folder does not exist.
    """
    check_port(options.host, options.port)
    sources = find_sources(options)
    print(
        f"{len(sources.policies)} policies; {len(sources.table.names):,} clips answered by "
        f"{len(sources.table.systems)} systems; judgements go to {sources.judgements.folder}",
        file=sys.stderr,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else what was uploaded would stay on the disk
    launch(sources, options.host, options.port, options.max_upload)


def launch(sources: Sources, host: str, port: int, megabytes: float, *, block: bool = True) -> Any:
    """Serve the page, until interrupted or, without ``block``, until the returned page is closed."""
    page = build_page(sources).queue(default_concurrency_limit=1)
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=round(megabytes * 1e6),
        allowed_paths=served_folders(sources.data),
        app_kwargs={"middleware": [Middleware(SameOrigin, loopback_only=host in LOOPBACK)]},
        prevent_thread_lock=True,
        quiet=True,  # else it advises to share the page by a public link
        **launch_options(),
    )
    if block:
        print(f"open {page.local_url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        page.block_thread()
    return page


def find_sources(options: argparse.Namespace) -> Sources:
    """Read prediction files and find policies and clips below the folders that the options name.

    Raises:
        ConfigError: The folder of the outputs does not exist.
    """
    outputs, data = options.outputs.resolve(), options.data.resolve()
    if not outputs.is_dir():
        raise ConfigError(f"--outputs {options.outputs}: no such folder; run `make grpo`, or name another")
    load = partial(
        load_predictor,
        changes=options.set,
        device=options.device,
        faces=options.faces or "detect",
        contributions=True,
        num_samples=16,
    )
    return Sources(
        policies=find_policies(outputs, [path.resolve() for path in options.checkpoint]),
        load=load,
        table=read_answers(outputs, load_lexicon(options.lexicon)),
        data=data,
        judgements=JudgementFiles(options.judgements or outputs / "judgements"),
        synthetic=(data / "demo.json").is_file(),
        subtitles=read_subtitles_of(data),
    )


def served_folders(data: Path) -> list[str]:
    """Return the only folders whose files the page hands out, in addition to what was uploaded to it: the clips'."""
    return [str(data / name) for name in ("video", "video_new", "audio", "subaudio", "subvideo", "subvideo-tgt")]


def check_port(host: str, port: int) -> None:
    """Raise a ConfigError unless the server can listen there; Gradio would take another port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} of {host} cannot be opened ({error}); give another --port") from error
