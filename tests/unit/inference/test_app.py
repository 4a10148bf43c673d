"""The page's parts without a browser: what is shown first, what is written, what is escaped and what is not served."""

from __future__ import annotations

import json
import shutil
import socket
from argparse import Namespace
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from affectgpt_r1.cli import app as command
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError, MediaError
from affectgpt_r1.inference.app import fragments
from affectgpt_r1.inference.app.answer_files import Choice, choose, read_answers
from affectgpt_r1.inference.app.judging import JudgementFiles, judged_so_far, next_pair, pairs_to_judge
from affectgpt_r1.inference.app.serve import check_port, find_sources
from affectgpt_r1.inference.app.trial import find_policies, try_clip, try_file
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.types import Sampling

LEXICON = load_lexicon("bundled")
SCRIPT = "<script>document.title='run'</script>"
ANSWERS = {
    "sft": {"one": ["happy"], "two": ["sad", "Sad"], "three": []},
    "grpo": {"one": ["happy"], "two": ["joyful"], "three": ["angry"]},
}
TARGETS = {"one": ["happy"], "two": ["sad"], "three": ["angry"]}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for system, answers in ANSWERS.items():
        path = tmp_path / "outputs" / "run" / "predictions" / f"{system}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"name": name, "target": TARGETS[name], "openset": words, "completion": f"<answer>{SCRIPT}</answer>"}
            for name, words in answers.items()
        ]
        rows[0]["without"] = {"video": [], "audio": ["happy"]}
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return tmp_path / "outputs"


@pytest.fixture
def table(outputs):
    return read_answers(outputs, LEXICON)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (Choice(), ["one", "three", "two"]),
        (Choice("sft", "grpo", order="largest disagreement"), ["three", "two", "one"]),
        (Choice("sft", order="worst F1"), ["three", "one", "two"]),
        (Choice(kind="repeated words"), ["two"]),
        (Choice(kind="empty answers"), ["three"]),
        (Choice("grpo", kind="empty answers"), []),
        (Choice(cluster="anger"), ["three"]),
        (Choice(reliance="video"), ["one"]),
        (Choice(reliance="audio"), []),
        (Choice(search="JOY"), ["two"]),
    ],
)
def test_clips_are_chosen_and_ordered(table, choice, names):
    assert choose(table, choice) == names


def test_systems_of_two_runs_are_told_apart_and_a_bad_file_is_listed(outputs):
    other = outputs / "other" / "predictions"
    other.mkdir(parents=True)
    (other / "sft.jsonl").write_text('{"name": "one", "openset": ["happy"]}\n', "utf-8")
    (other / "bad.jsonl").write_text('{"name": "one"}\n', "utf-8")

    table = read_answers(outputs, LEXICON)

    assert table.systems == ["other/sft", "grpo", "run/sft"]
    assert table.faults == [f"{other / 'bad.jsonl'}: line 1 lacks name or openset: write it by `evaluate` or `predict`"]


def test_two_people_judge_the_same_pairs_and_resume(table, tmp_path):
    files = JudgementFiles(tmp_path / "judgements")
    pairs = {rater: pairs_to_judge(table, table.systems, rater) for rater in ("anna", "ben")}

    assert [pair.clip for pair in pairs["anna"]] == [pair.clip for pair in pairs["ben"]]
    assert {pair.clip for pair in pairs["anna"]} == {"two", "three"}  # on `one` both say the same
    for rater in ("anna", "ben"):
        for done in range(2):
            place, judged = next_pair(pairs[rater], JudgementFiles(files.folder).judgements(), rater)
            assert (place, judged) == (done, done)
            pair = pairs[rater][place]
            for _ in range(2):  # a key that is held down
                files.prefer(table, pair, rater, "a1" if pair.first == "grpo" else "a2")
        assert next_pair(pairs[rater], files.judgements(), rater) == (None, 2)
    (line, *others) = files.preferences.read_text("utf-8").splitlines()
    assert len(others) == 3
    assert set(json.loads(line)) >= {"name", "clip", "rater", "time", "system1", "system2", "a1", "a2", "preference"}
    report = judged_so_far(files, table)
    assert [(rank.system, rank.won) for rank in report["ranking"]] == [("grpo", 4), ("sft", 0)]
    assert report["agreement"][:2] == (2, 1.0)


def test_own_words_measure_how_far_people_agree(table, tmp_path):
    files = JudgementFiles(tmp_path)
    files.label("one", "anna", ["sad"])
    assert files.label("one", "anna", [" happy ", "happy", "", "bitter\nsweet"]) == ("happy", "bitter sweet")
    files.label("one", "ben", ["joyful"])

    assert files.labels_of("anna") == {"one": ("happy", "bitter sweet")}
    (agreement,) = judged_so_far(files, table)["labels"]
    assert (agreement["raters"], agreement["clips"]) == (("anna", "ben"), 1)
    assert 0.5 < agreement["f1"] <= 1


@pytest.mark.parametrize("name", ["", "../anna", "a/b", ".hidden", "x" * 41, "a\nb", SCRIPT])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="give a name of up to 40 letters"):
        JudgementFiles(tmp_path).label("one", name, ["happy"])
    assert list(tmp_path.iterdir()) == []


def test_what_comes_from_files_is_escaped(table):
    shown = [
        fragments.clip(table, "one", SCRIPT, ["sft"]),
        fragments.two(table, pairs_to_judge(table, table.systems, "anna")[0]),
        fragments.quoted(SCRIPT),
        fragments.fault(f"{SCRIPT}.mp4: cannot be read"),
    ]

    assert all("&lt;script&gt;" in html and "<script" not in html for html in shown)


def test_a_trial_shows_what_the_policy_saw_and_might_have_said(tiny_policy, write_video, tmp_path):
    tiny_policy.eval()
    media = MediaSettings(num_frames=3, image_size=48, num_windows=2)
    predictor = Predictor(tiny_policy, media, Sampling(temperature=0.0, max_completion_length=6), LEXICON, "centre")
    path = write_video(tmp_path / f"{SCRIPT.replace('/', '')}.mp4", sound=True)

    tried = try_file(predictor, path, SCRIPT, 8)
    html = fragments.trial("grpo", tried, LEXICON, "face", "cpu")

    assert [picture.shape for picture in tried.seen] == [(48, 48, 3)] * 3
    assert len(tried.pictures) == 3
    assert tried.sound.seconds == pytest.approx(2.0, abs=0.2)
    assert len(tried.sound.windows) == 2
    assert sum(times for _, times, _ in tried.alternatives) == 8
    assert all(0 < probability <= 1 for _, _, probability in tried.alternatives)
    assert html.count("<img") == 6
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 2  # the file's name and what is said


def test_confidence_names_the_words_of_the_answer_first(tiny_policy, write_video, tmp_path):
    tiny_policy.eval()
    media = MediaSettings(num_frames=3, image_size=48, num_windows=2)
    predictor = Predictor(tiny_policy, media, Sampling(temperature=0.0, max_completion_length=6), LEXICON, "centre")
    tried = try_file(predictor, write_video(tmp_path / "clip.mp4", sound=True), "", 0)
    many = {"sad": 0.5, **{f"word{number}": 0.1 for number in range(9)}, "happy": 0.0625}
    confidence = {
        "samples": 16,
        "labels": many,
        "clusters": {"wheel1": {"joy": 0.4, "sadness": 0.5}},
        "calibrated": True,
    }

    def shown(**changes):
        row = tried.row | {"labels": ["Happy", "proud"], "confidence": confidence | changes}
        return fragments.trial("sft", tried._replace(row=row), LEXICON, "face", "cpu").replace(
            "\N{NO-BREAK SPACE}", " "
        )

    html = shown()
    order = ["<strong>happy</strong></bdi> 6 %", "<strong>proud</strong></bdi> not sampled", "<bdi>sad</bdi> 50 %"]
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    assert "answered without text: write it into “What is said”" in html  # and not by an option of `predict`
    assert html.count("word4") == 1
    assert "word5" not in html  # eight words
    assert "Sectors: sadness 50 %, joy 40 %" in html
    assert "The probability that people name it, too, from 16 sampled answers" in html
    assert "The fraction of 16 sampled answers that name it; not calibrated" in shown(calibrated=False)


def test_a_clip_of_the_data_folder_is_read_as_in_training(tiny_policy, tiny_data_root, tmp_path):
    tiny_policy.eval()
    media = MediaSettings(num_frames=3, image_size=48, num_windows=2)
    predictor = Predictor(tiny_policy, media, Sampling(temperature=0.0, max_completion_length=6), LEXICON, "centre")
    data = tiny_data_root(tmp_path / "data")

    prepared = try_clip(predictor, data, "sample_03", "hello", 0)
    shutil.rmtree(data / "openface_face")
    found = try_clip(predictor, data, "sample_03", "hello", 0)

    assert prepared.seen[0][0, 0].tolist() == [170, 0, 30]  # BGR crops of 30 blue and 170 red
    assert found.seen[0][0, 0].tolist() != [170, 0, 30]
    assert (prepared.row["name"], prepared.row["subtitle"], prepared.alternatives) == ("sample_03", "hello", [])
    (data / "openface_face" / "sample_03").mkdir(parents=True)
    (data / "openface_face" / "sample_03" / "sample_03.npy").write_bytes(b"no crops")
    with pytest.raises(MediaError, match="sample_03"):
        try_clip(predictor, data, "sample_03", "hello", 0)


def test_the_probability_of_a_sample_is_that_of_its_tokens(tiny_policy, write_video, tmp_path):
    from affectgpt_r1.inference.read_file import read_clip

    media = MediaSettings(num_frames=3, image_size=48, num_windows=2)
    predictor = Predictor(tiny_policy, media, Sampling(temperature=0.0, max_completion_length=1), LEXICON, "centre")
    clip, _ = read_clip(write_video(tmp_path / "clip.mp4"), "hello", media, "centre")

    sampled = predictor.alternatives(clip, 400)

    # One token each: distinct answers are disjoint events, and the likeliest one's frequency is near its probability.
    probability_of = {completion.text: probability for completion, probability in sampled}
    assert sum(probability_of.values()) <= 1 + 1e-5
    likeliest = max(probability_of, key=probability_of.get)
    frequency = np.mean([completion.text == likeliest for completion, _ in sampled])
    assert frequency == pytest.approx(probability_of[likeliest], abs=0.1)


def test_policies_are_found_grpo_first(tmp_path):
    for run in ("mine/sft", "mine/grpo", "mine/control"):
        (tmp_path / run / "checkpoints").mkdir(parents=True)
        (tmp_path / run / "checkpoints" / "best.ckpt").touch()
    shutil.copytree(tmp_path / "mine" / "control", tmp_path / "ablations" / "73249f2a")
    (tmp_path / "ablations" / "73249f2a" / ".hydra").mkdir()
    (tmp_path / "ablations" / "73249f2a" / ".hydra" / "overrides.yaml").write_text(
        "- penalty=ratio\n- seed=2\n- ablation=penalty\n- trainer.max_steps=9\n", "utf-8"
    )

    found = find_policies(tmp_path, [tmp_path.parent / "exported"])

    others = {"mine/control", "ablations/73249f2a (penalty=ratio seed=2)"}
    assert list(found)[:3] == [str(tmp_path.parent / "exported"), "mine/grpo", "mine/sft"]
    assert set(list(found)[3:]) == others


def test_a_port_that_is_taken_and_a_folder_that_is_missing_are_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1 cannot be opened"):
            check_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"--outputs .*none: no such folder"):
        find_sources(Namespace(outputs=tmp_path / "none", data=tmp_path))


def test_the_command_listens_on_this_machine_unless_told(capsys, monkeypatch):
    served, said = [], []

    def serve(options):
        served.append(options)
        said.append(capsys.readouterr().err)

    monkeypatch.setattr(command, "serve", serve)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")

    command.main([])
    command.main(["--host", "0.0.0.0"])
    with pytest.raises(SystemExit):
        command.main(["--max-upload", "0"])

    assert [options.host for options in served] == ["127.0.0.1", "0.0.0.0"]
    errors = capsys.readouterr().err
    assert said[0] == "affectgpt-r1 app: starting, with the runs of outputs ...\n"  # before the slow imports
    assert "anybody who reaches 0.0.0.0 can use this page" in said[1]
    assert "--max-upload 0.0: give megabytes, above 0" in errors


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve a small page on a free port; ``(fetch, folder)``, where ``fetch`` sends paths as they are."""
    pytest.importorskip("gradio", reason="the page needs `pip install '.[app]'`")
    from affectgpt_r1.inference.app.page import Sources
    from affectgpt_r1.inference.app.serve import launch

    folder = tmp_path_factory.mktemp("page")
    path = folder / "outputs" / "run" / "predictions"
    path.mkdir(parents=True)
    (path / "sft.jsonl").write_text('{"name": "one", "target": ["happy"], "openset": ["sad"]}\n', "utf-8")
    (path / "grpo.jsonl").write_text('{"name": "one", "target": ["happy"], "openset": ["happy"]}\n', "utf-8")
    (folder / "data" / "video").mkdir(parents=True)
    (folder / "data" / "video" / "one.mp4").write_bytes(b"film")
    (folder / "data" / "secret.csv").write_text("name\n", "utf-8")
    table, judgements = read_answers(folder / "outputs", LEXICON), JudgementFiles(folder / "judgements")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = launch(
        Sources({}, lambda path: None, table, folder / "data", judgements), "127.0.0.1", port, 0.001, block=False
    )

    def fetch(path, method="GET", body=None, **headers):
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")

    yield fetch, folder
    page.close()


def test_the_page_hands_out_the_clips_and_no_other_file(served):
    fetch, folder = served

    def status(path):
        return fetch(f"/gradio_api/file={path}")[0]

    assert status(folder / "data" / "video" / "one.mp4") == 200
    assert status(folder / "data" / "secret.csv") == 403
    assert status(f"{folder}/data/video/../secret.csv") == 403
    assert status(f"{folder}/data/video/%2e%2e/secret.csv") == 403
    assert status("/etc/passwd") == 403
    assert status(folder / "outputs" / "run" / "predictions" / "sft.jsonl") == 403
    assert status(Path(__file__).resolve()) == 403


def test_an_upload_over_the_limit_is_refused(served):
    fetch, _ = served

    def upload(size):
        head = '--x\r\nContent-Disposition: form-data; name="files"; filename="clip.mp4"\r\n\r\n'
        body = f"{head}{'0' * size}\r\n--x--\r\n"
        return fetch("/gradio_api/upload", "POST", body, **{"Content-Type": "multipart/form-data; boundary=x"})[0]

    assert (upload(900), upload(5000)) == (200, 413)


def test_the_page_has_its_three_tabs_and_asks_nothing_of_other_machines(served):
    fetch, _ = served

    status, html = fetch("/")
    labels = {part["props"].get("label") for part in json.loads(fetch("/config")[1])["components"]}

    assert status == 200
    assert labels >= {"Try", "Compare", "Judge", "Your name or initials", "Search"}
    assert "fonts.googleapis.com" not in html
