"""The page itself, on Gradio: components and what happens when they change. Only this module imports Gradio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from affectgpt_r1.data.layouts.manifest import read_columns
from affectgpt_r1.data.layouts.mer import audio_file, is_safe_name, video_file
from affectgpt_r1.errors import AffectGPTError
from affectgpt_r1.inference.app import fragments
from affectgpt_r1.inference.app.answer_files import KINDS, ORDERS, AnswerTable, Choice, choose
from affectgpt_r1.inference.app.judging import (
    JudgementFiles,
    Pair,
    checked_rater,
    judged_so_far,
    next_pair,
    pairs_to_judge,
)
from affectgpt_r1.inference.app.trial import NUM_ALTERNATIVES, try_clip, try_file
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.report.wheel_drawing import WHEEL
from affectgpt_r1.types import MODALITIES

TITLE = "affectgpt-r1"
MOST_ROWS = 200  # of the list in Compare; every clip is reached by its number
NONE, ANY = "none", "any"
_SUBTITLES = "subtitle_chieng.csv"
_SYNTHETIC = "Clips and labels are synthetic: rendered by this repository, with exact labels."
# Gradio asks for 1920 x 1440, which a busy machine encodes so late that seconds of it are one byte when they end.
_CAMERA = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}}
# Else what is chosen or typed while an earlier choice is at work is lost.
_LATEST: dict[str, Any] = {"trigger_mode": "always_last"}
_TEMPLATES = files("affectgpt_r1.inference.app") / "templates"


@dataclass(frozen=True)
class Sources:
    """What the page shows and writes."""

    policies: dict[str, Path]  # by what the page calls them
    load: Callable[[Path], Predictor]
    table: AnswerTable
    data: Path  # the data folder of the clips
    judgements: JudgementFiles
    synthetic: bool = False
    subtitles: dict[str, str] = field(default_factory=dict)

    def media(self, name: str) -> str | None:
        """Return a clip's video, else its sound; None where the data folder has neither."""
        if not is_safe_name(name):
            return None
        paths = (video_file(self.data, name), audio_file(self.data, name))
        return next((str(path) for path in paths if path.is_file()), None)

    def clips(self) -> list[str]:
        """Return the clips of the data folder that have a video."""
        return sorted(path.stem for path in (self.data / "video").glob("*.mp4"))


def read_subtitles_of(data: Path) -> dict[str, str]:
    """Return what is said in the clips of a data folder; nothing where it has no such file."""
    path = data / _SUBTITLES
    return read_columns(path, "english") if path.is_file() else {}


def build_page(sources: Sources) -> gr.Blocks:
    """Return the page with its three tabs."""
    predictors = lru_cache(maxsize=3)(lambda name: sources.load(sources.policies[name]))
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# {TITLE}" + (f"\n{_SYNTHETIC}" if sources.synthetic else ""))
        # In a tab it would not be there before the tab is first shown.
        remembered = gr.BrowserState("", storage_key="affectgpt-r1-rater", secret="not a secret: a name")
        for line in sources.table.faults:
            gr.HTML(fragments.fault(f"left out: {line}"))
        with gr.Tab("Try", id="try"):
            _try_tab(sources, predictors)
        with gr.Tab("Compare", id="compare"):
            _compare_tab(page, sources)
        with gr.Tab("Judge", id="judge"):
            _judge_tab(page, sources, remembered)
    return page


def launch_options() -> dict[str, Any]:
    """Return what ``Blocks.launch`` needs to look and behave as this page does."""
    system = ["system-ui", "sans-serif"]
    return {
        "css": (_TEMPLATES / "app.css").read_text("utf-8"),
        "head": f"<script>{(_TEMPLATES / 'keys.js').read_text('utf-8')}</script>",
        "theme": gr.themes.Default(font=system, font_mono=["ui-monospace", "monospace"]),
        # Nothing is fetched from, or told to, another machine, and no answer is kept in the browser.
        **{"share": False, "ssr_mode": False, "pwa": False, "mcp_server": False},
        **{"footer_links": [], "run_history": False},
    }


def _try_tab(sources: Sources, predictors: Callable[[str], Predictor]) -> None:
    choices = list(sources.policies)
    if not choices:
        gr.Markdown("No trained policy yet: run `make grpo`, or name one by `--checkpoint`.")
        return
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            clip = gr.Dropdown(sources.clips(), value=None, label="A clip of the data folder", elem_id="ag-try-clip")
            video = gr.Video(
                label="Video: drop a file, or record",
                sources=["upload", "webcam"],
                webcam_options=gr.WebcamOptions(constraints=_CAMERA),
                elem_id="ag-try-video",
            )
            subtitle = gr.Textbox(label="What is said", info="empty: a subtitle track of the file, if it has one")
            first = gr.Dropdown(choices, value=choices[0], label="Policy", elem_id="ag-try-policy")
            second = gr.Dropdown([NONE, *choices], value=NONE, label="Compare with", elem_id="ag-try-second")
            number = gr.Slider(0, 64, value=NUM_ALTERNATIVES, step=1, label="Sampled alternatives")
            button = gr.Button("Answer", variant="primary", elem_id="ag-try")
        with gr.Column(scale=5):
            shown = gr.HTML(
                "<p class='ag-soft'>Choose a clip or drop a file, then press Answer.</p>", elem_id="ag-tried"
            )

    def choose_clip(name: str | None) -> tuple[Any, str]:
        return (sources.media(name), sources.subtitles.get(name, "")) if name else (gr.skip(), gr.skip())

    def answer(known: str | None, path: str | None, said: str, one: str, other: str, samples: float) -> str:
        if not path:
            return fragments.fault("choose a clip, or drop a file")
        columns = []
        for name in dict.fromkeys(policy for policy in (one, other) if policy in sources.policies):
            try:
                predictor = predictors(name)
                if known:
                    tried = try_clip(predictor, sources.data, known, said.strip(), int(samples))
                else:
                    tried = try_file(predictor, Path(path), said.strip() or None, int(samples))
            except AffectGPTError as error:
                columns.append(fragments.fault(str(error).replace(path, Path(path).name)))
                continue
            device = str(predictor.policy.device)
            columns.append(fragments.trial(name, tried, predictor.lexicon, predictor.media.visual, device))
        return f'<div class="ag-answers">{"".join(columns)}</div>'

    clip.input(choose_clip, clip, [video, subtitle], **_LATEST)
    # What was said in another clip must not be taken for what is said in this file.
    for changed in (video.upload, video.stop_recording, video.clear):
        changed(lambda: (None, ""), None, [clip, subtitle])
    button.click(answer, [clip, video, subtitle, first, second, number], shown)


def _compare_tab(page: gr.Blocks, sources: Sources) -> None:
    table = sources.table
    if not table.names:
        gr.Markdown("No answers yet: `make evaluate` writes them to `predictions/` of a run.")
        return
    systems = table.systems
    start = next((system for system in systems if "grpo" in system), systems[-1])
    rest = [system for system in systems if system != start] or systems
    with gr.Row():
        first = gr.Dropdown(systems, value=start, label="System", min_width=140, elem_id="ag-first")
        second = gr.Dropdown(systems, value=rest[-1], label="against", min_width=140, elem_id="ag-second")
        order = gr.Dropdown(list(ORDERS), value=ORDERS[1], label="Order", scale=2, min_width=210, elem_id="ag-order")
        kind = gr.Dropdown(list(KINDS), value=KINDS[0], label="Show", min_width=140, elem_id="ag-kind")
        clusters = [ANY, *table.lexicon.clusters(WHEEL)]
        cluster = gr.Dropdown(clusters, value=ANY, label="Cluster", min_width=140, elem_id="ag-cluster")
        reliance = gr.Dropdown([ANY, *MODALITIES], value=ANY, label="Relies on", min_width=140, elem_id="ag-reliance")
        search = gr.Textbox(label="Search", placeholder="clip, word or text", min_width=140, elem_id="ag-search")
    with gr.Row(elem_classes="ag-steps"):
        back = gr.Button("← Previous", elem_id="ag-previous", min_width=90)
        position = gr.Number(1, label="Clip", minimum=1, precision=0, min_width=90, elem_id="ag-position")
        forward = gr.Button("Next →", elem_id="ag-next", min_width=90)
    count = gr.Markdown(elem_id="ag-count")
    with gr.Row():
        video = gr.Video(label="Clip", interactive=False, scale=1, min_width=220, height=300)
        with gr.Column(scale=3):
            shown = gr.HTML(elem_id="ag-compared")
    listed = gr.Dataframe(
        headers=["", "clip", "target", "F1", "F1 against", "answer"],
        datatype="str",
        interactive=False,
        label="Clips in this order; select one",
        max_height=320,
        elem_id="ag-list",
    )
    names = gr.State(list[str]())
    filters = [first, second, order, kind, cluster, reliance, search]

    def filtered(*chosen: str) -> tuple[Any, ...]:
        one, other, by, show, sector, modality, text = chosen
        found = choose(
            table,
            Choice(
                one, other, by, show, "" if sector == ANY else sector, "" if modality == ANY else modality, text or ""
            ),
        )
        rows = _listed_rows(table, found[:MOST_ROWS], one, other)
        said = f"{len(found):,} of {len(table.names):,} clips"
        said += f"; the first {MOST_ROWS} are listed below" if len(found) > MOST_ROWS else ""
        return found, said, rows, *at(found, 1, one, other)

    def at(found: list[str], number: float | None, one: str, other: str) -> tuple[Any, ...]:
        if not found:
            return 1, "<p class='ag-soft'>No clip is left; widen the filters.</p>", None
        place = min(max(1, int(number or 1)), len(found))
        name = found[place - 1]
        html = fragments.clip(table, name, sources.subtitles.get(name, ""), [one, other])
        return place, html, sources.media(name)

    def selected(found: list[str], one: str, other: str, event: gr.SelectData) -> tuple[Any, ...]:
        return at(found, event.index[0] + 1, one, other)

    clip_parts = [position, shown, video]
    everything = [names, count, listed, *clip_parts]
    latest: dict[str, Any] = {**_LATEST, "show_progress": "hidden"}
    for component in filters[:-1]:
        component.input(filtered, filters, everything, **latest)
    search.submit(filtered, filters, everything, **latest)
    search.blur(filtered, filters, everything, **latest)
    page.load(filtered, filters, everything, show_progress="hidden")
    where = [names, position, first, second]
    back.click(lambda found, place, *pair: at(found, place - 1, *pair), where, clip_parts, show_progress="hidden")
    forward.click(lambda found, place, *pair: at(found, place + 1, *pair), where, clip_parts, show_progress="hidden")
    position.submit(at, where, clip_parts, **latest)
    listed.select(selected, [names, first, second], clip_parts, **latest)


def _listed_rows(table: AnswerTable, names: Sequence[str], one: str, other: str) -> list[list[str]]:
    return [
        [
            str(number),
            name,
            ", ".join(table.targets[name]),
            _points(table.f1(one, [name])[0]),
            _points(table.f1(other, [name])[0]),
            ", ".join(table.answers[one][name].labels) if name in table.answers.get(one, {}) else "",
        ]
        for number, name in enumerate(names, start=1)
    ]


def _points(f1: float) -> str:
    return "–" if f1 != f1 else f"{100 * f1:.0f}"


def _words_field(table: AnswerTable) -> gr.Dropdown:
    return gr.Dropdown(
        sorted(word for word, entry in table.lexicon.entries.items() if entry.base == word),
        value=[],
        multiselect=True,
        allow_custom_value=True,
        label="Your own words for this clip (optional)",
        info="as many as fit: choose a word of the wheel from the list; Enter takes what is typed",
        elem_id="ag-words",
    )


def _clip_and_answers() -> tuple[gr.Video, gr.HTML, gr.HTML]:
    """Show a clip, what is said in it, and two answers without names."""
    with gr.Row():
        video = gr.Video(label="Clip", interactive=False, scale=1, min_width=220, height=300)
        with gr.Column(scale=3):
            return video, gr.HTML(elem_id="ag-said"), gr.HTML(elem_id="ag-pair")


def _ranking_so_far(sources: Sources) -> None:
    """Show the ranking of systems and the agreement of raters, computed when asked."""
    with gr.Accordion("Ranking and agreement so far", open=False, elem_id="ag-standing-fold"):
        standing = gr.HTML(elem_id="ag-standing")
        refresh = gr.Button("Compute", elem_id="ag-refresh")
    refresh.click(lambda: fragments.standing(judged_so_far(sources.judgements, sources.table)), None, standing)


def _judge_tab(page: gr.Blocks, sources: Sources, remembered: gr.BrowserState) -> None:
    table, written = sources.table, sources.judgements
    if len(table.systems) < 2:
        gr.Markdown("Judging takes the answers of two systems or more: `make evaluate` writes them.")
        return
    rater, chosen = gr.State(""), gr.State(list[str]())
    # The browser says which pair it showed when a key was pressed; what the server holds may be ahead of that.
    place = gr.Number(None, precision=0, visible=False)
    with gr.Row():
        name = gr.Textbox(label="Your name or initials", info="is written with each judgement", elem_id="ag-rater")
        compared = gr.CheckboxGroup(table.systems, value=table.systems, label="Systems", elem_id="ag-systems")
        start = gr.Button("Start, or continue", variant="primary", elem_id="ag-start")
    progress = gr.Markdown(elem_id="ag-progress")
    with gr.Column(visible=False) as judging:
        video, said, shown = _clip_and_answers()
        with gr.Row():
            labels = {"a1": "First is better (1)", "a2": "Second is better (2)", "same": "Both as good (s)",
                      "neither": "Neither fits (n)"}  # fmt: skip
            buttons = {key: gr.Button(text, elem_id=f"ag-prefer-{key}", min_width=130) for key, text in labels.items()}
        with gr.Row():
            words = _words_field(table)
            save = gr.Button("Save words", min_width=110, scale=0, elem_id="ag-save")
        saved = gr.Markdown(elem_id="ag-saved")
    _ranking_so_far(sources)

    @lru_cache(maxsize=32)
    def pairs(systems: tuple[str, ...], person: str) -> list[Pair]:
        return pairs_to_judge(table, systems, person)

    def following(systems: Sequence[str], person: str) -> tuple[Any, ...]:
        every = pairs(tuple(systems), person)
        number, done = next_pair(every, written.judgements(), person)
        state = f"{done:,} of {len(every):,} pairs judged as {person}"
        if number is None:
            said_so = "nothing is left to judge. Thank you." if every else "choose two systems or more"
            return None, f"{state}: {said_so}", gr.update(visible=False), None, "", "", [], ""
        clip = every[number].clip
        html = fragments.quoted(sources.subtitles.get(clip, "")), fragments.two(table, every[number])
        own = list(written.labels_of(person).get(clip, ()))
        return number, state, gr.update(visible=True), sources.media(clip), *html, own, ""

    def begin(person: str, systems: list[str]) -> tuple[Any, ...]:
        try:
            person = checked_rater(person)
            return person, systems, person, *following(systems, person)
        except AffectGPTError as error:
            return "", [], gr.skip(), None, f"⚠ {error}", gr.update(visible=False), None, "", "", [], ""

    def prefer(preference: str) -> Callable[..., tuple[Any, ...]]:
        def judge(person: str, systems: list[str], number: int | None) -> tuple[Any, ...]:
            try:
                if person and number is not None:
                    written.prefer(table, pairs(tuple(systems), person)[number], person, preference)
                return following(systems, person)
            except AffectGPTError as error:
                raise gr.Error(str(error)) from error

        return judge

    def save_words(person: str, systems: list[str], number: int | None, given: list[str]) -> str:
        if not person or number is None:
            return ""
        try:
            kept = written.label(pairs(tuple(systems), person)[number].clip, person, given or [])
        except AffectGPTError as error:
            raise gr.Error(str(error)) from error
        return f"saved {len(kept)} word{'s' if len(kept) != 1 else ''} to {written.labels(person).name}"

    parts = [place, progress, judging, video, said, shown, words, saved]
    start.click(begin, [name, compared], [rater, chosen, remembered, *parts])
    name.submit(begin, [name, compared], [rater, chosen, remembered, *parts])
    for key, button in buttons.items():
        button.click(prefer(key), [rater, chosen, place], parts, show_progress="hidden")
    save.click(save_words, [rater, chosen, place, words], saved, show_progress="hidden")
    page.load(
        lambda person, systems: (person, *begin(person, systems)) if person else [gr.skip()] * (len(parts) + 4),
        [remembered, compared],
        [name, rater, chosen, remembered, *parts],
    )
