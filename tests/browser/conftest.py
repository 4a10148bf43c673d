"""A page with two policies, three clips and hostile names, and Debian's Chromium."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from helpers.hostile_names import SCRIPT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WORDS = {"sft": ["sad", "sad"], "grpo": ["happy", "proud"], "control": ["angry"]}


def write_answers(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for system, words in WORDS.items():
        rows = []
        for number, name in enumerate(names):
            own = [] if system == "control" and number == 3 else words
            target = ["happy"] if number % 2 else ["sad", "angry"]
            text = f"<think> {SCRIPT} because {system} saw it. </think><answer> {', '.join(own)} </answer>"
            rows.append({"name": name, "target": target, "openset": own, "completion": text, "without": {"audio": []}})
        (folder / f"{system}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


@pytest.fixture(scope="session")
def serve():
    """``serve(sources)`` returns the address of a page that is closed at the end."""
    pytest.importorskip("gradio", reason="the page needs `pip install '.[app]'`")
    from affectgpt_r1.inference.app.serve import launch

    pages = []

    def start(sources, megabytes=20):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pages.append(launch(sources, "127.0.0.1", port, megabytes, block=False))
        return f"http://127.0.0.1:{port}/"

    yield start
    for page in pages:
        page.close()


@pytest.fixture(scope="session")
def sources_of(tmp_path_factory, write_mp4):
    """``sources_of(names, policy)``: answers of three systems to clips, with a video and a hostile subtitle."""
    from affectgpt_r1.data.dataset import MediaSettings
    from affectgpt_r1.emotion.lexicon import load_lexicon
    from affectgpt_r1.inference.app.answer_files import read_answers
    from affectgpt_r1.inference.app.judging import JudgementFiles
    from affectgpt_r1.inference.app.page import Sources
    from affectgpt_r1.inference.label_file import Predictor
    from affectgpt_r1.types import Sampling

    def make(names, policy=None):
        folder = tmp_path_factory.mktemp("page")
        write_answers(folder / "outputs" / "run" / "predictions", names)
        for name in names[:3]:
            write_mp4(folder / "data" / "video" / f"{name}.mp4", size=64)
        lexicon, media = load_lexicon("bundled"), MediaSettings(num_frames=3, image_size=48, num_windows=2)
        sampling = Sampling(temperature=0.0, max_completion_length=6)
        return Sources(
            policies={} if policy is None else {"run/grpo": folder / "grpo", "run/sft": folder / "sft"},
            load=lambda path: Predictor(policy, media, sampling, lexicon, "centre"),
            table=read_answers(folder / "outputs", lexicon),
            data=folder / "data",
            judgements=JudgementFiles(folder / "judgements"),
            subtitles=dict.fromkeys(names, f"I said {SCRIPT}"),
        )

    return make


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """Build ``configs/model/tiny.yaml`` with random weights, for frames of 48 pixels."""
    import torch
    from omegaconf import OmegaConf

    from affectgpt_r1.config.compose import CONFIGS
    from affectgpt_r1.policy.build_policy import build_policy
    from affectgpt_r1.policy.prompts import PromptTemplate
    from affectgpt_r1.policy.tokenizer import build_tokenizer

    template, tokenizer = (
        PromptTemplate("How does the person feel?"),
        tmp_path_factory.mktemp("policy") / "tokenizer.json",
    )
    build_tokenizer(["<answer> happy, proud </answer>", "I said so."], template.phrases(), 400, tokenizer)
    config = OmegaConf.load(CONFIGS / "model" / "tiny.yaml")
    config.tokenizer, config.video_encoder.image_size = str(tokenizer), 48
    arguments = {str(key): value for key, value in OmegaConf.to_container(config, resolve=True).items()}
    del arguments["_target_"]
    torch.manual_seed(0)
    return build_policy(**arguments, template=template).eval()


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    if CHROMIUM is None:
        pytest.skip("needs Debian's package chromium")
    with playwright.sync_playwright() as driver:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """``visit(address, context=None, **options)`` opens the page; it fails where a script of a file ran."""
    contexts, asked = [], []

    def open_page(address, context=None, **options):
        if context is None:
            context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append((address, request.url)))
        page.goto(address)
        page.get_by_role("tab", name="Judge").wait_for()
        return page

    yield open_page
    for context in contexts:
        assert [page.title() for page in context.pages if "run" in page.title()] == []
        context.close()
    foreign = [url for address, url in asked if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []
