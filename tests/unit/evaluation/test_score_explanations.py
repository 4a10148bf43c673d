"""EMER's ratings against a chat server on this machine: prompts, parsing, averaging, cache, failure; and offline."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from affectgpt_r1.cli.score import main
from affectgpt_r1.metrics.functional.explanation import clue_similarity

REFERENCES = {"a": "He smiles broadly. He is happy.", "b": "Her voice trembles. She is sad.", "c": "A frown."}
PREDICTIONS = {"a": "He smiles broadly, he seems joyful.", "b": "She is angry.", "c": ""}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        instruction, prompt = (message["content"] for message in request["messages"])
        self.server.asked.append((instruction, prompt, request["temperature"]))
        answer = {"choices": [{"message": {"content": self.server.answer(instruction, prompt)}}]}
        body = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def judge(instruction, prompt):
    if "square brackets" in instruction:
        return "[happy]" if "smiles" in prompt else "[]"
    if "list" in instruction:
        return {"Reference:\nhappy\n\nPrediction:\nhappy": "10"}.get(prompt, "There is no overlap.")
    return "Rating: 8" if "smiles" in prompt else "<think>10?</think> 3.5/10"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.answer, server.status = [], judge, 200
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path):
    (tmp_path / "t.csv").write_text("name,english\n" + "".join(f"{n},{text}\n" for n, text in REFERENCES.items()))
    (tmp_path / "p.json").write_text(json.dumps([{"name": n, "reason": t} for n, t in PREDICTIONS.items()]))

    def call(*options, targets="t.csv", columns="reason=english"):
        files = ["--predictions", str(tmp_path / "p.json"), "--targets", str(tmp_path / targets), "--explanations"]
        main([*files, "--target-columns", columns, "--json", str(tmp_path / "out.json"), *options])
        return json.loads((tmp_path / "out.json").read_text())

    return call


def chat_options(server):
    return "--chat-url", f"http://127.0.0.1:{server.server_port}/v1", "--chat-model", "judge"


def test_ratings_are_asked_for_averaged_and_kept(server, run, capsys):
    report = run(*chat_options(server))

    assert {name: clip["clue_overlap"] for name, clip in report["clips"].items()} == {"a": 8, "b": 3.5, "c": 1}
    assert {name: clip["label_overlap"] for name, clip in report["clips"].items()} == {"a": 10, "b": None, "c": 1}
    scores = report["scores"]
    assert (scores["clue_overlap"]["mean"], scores["clue_overlap"]["rated"]) == (pytest.approx(12.5 / 3), 3)
    assert (scores["label_overlap"]["mean"], scores["label_overlap"]["rated"]) == (5.5, 2)
    low, high = scores["clue_overlap"]["interval"]
    assert 1 <= low < scores["clue_overlap"]["mean"] < high <= 8
    assert report["notes"] == [
        "label_overlap: 1 answer of the chat model has no rating from 1 to 10, which is left out of the mean.",
        "1 prediction is empty: the lowest rating, unasked.",
    ]
    printed = capsys.readouterr().out
    assert "EMER clue overlap, 1 to 10" in printed
    assert f"rated by http://127.0.0.1:{server.server_port}/v1 judge" in printed

    # Of each clip that has a prediction: its clues; the words of both descriptions; the words' overlap.
    assert len(server.asked) == 2 * 4
    assert {temperature for *_, temperature in server.asked} == {0}
    prompts = [prompt for _, prompt, _ in server.asked]
    assert prompts[0] == (
        "Reference:\nHe smiles broadly. He is happy.\n\nPrediction:\nHe smiles broadly, he seems joyful."
    )
    assert "Reference:\nnone\n\nPrediction:\nnone" in prompts
    assert run(*chat_options(server)) == report
    assert len(server.asked) == 8


def test_a_server_that_fails_is_one_line(server, run, capsys):
    server.status = 401
    with pytest.raises(SystemExit) as stopped:
        run(*chat_options(server))
    assert stopped.value.code == 2
    assert "/v1/chat/completions answered 401 Unauthorized: check the URL, key and model" in capsys.readouterr().err


def test_nothing_rated_is_no_score(server, run):
    server.answer = lambda instruction, prompt: "I cannot say."
    scores = run(*chat_options(server), "--lexicon", "bundled")["scores"]
    assert scores["clue_overlap"] == {"mean": 1, "interval": [1, 1], "rated": 1}  # the empty prediction


def test_without_a_chat_the_scores_are_offline_and_say_so(run, capsys):
    report = run()
    assert list(report["scores"]) == ["offline_clue_similarity", "offline_label_f1"]
    assert report["judge"] is None
    assert [report["clips"][name]["offline_label_f1"] for name in "abc"] == [1, 0, None]
    assert report["clips"]["a"]["offline_clue_similarity"] == pytest.approx(0.5)
    printed = capsys.readouterr().out
    assert printed.count("(not the published score)") == 2
    assert "EMER clue" not in printed


def test_emers_first_file_is_read_as_it_is(run, tmp_path):
    rows = "".join(f"{name},angry,said,{text}\n" for name, text in REFERENCES.items())
    (tmp_path / "gt-eng.csv").write_text("names,emotions,subtitles,reasons\n" + rows)
    report = run(targets="gt-eng.csv", columns="name=names")
    assert report["scores"] == run()["scores"]
    assert report["notes"][:2] == [
        "gt-eng.csv: column 'emotions' was read as 'openset'.",
        "gt-eng.csv: column 'reasons' was read as 'reason'.",
    ]


def test_clue_similarity_is_of_words_in_clauses():
    assert clue_similarity("He smiles broadly.", "broadly smiles") == 1
    assert clue_similarity("He smiles broadly.", "") == 0
    assert clue_similarity("", "He smiles.") == 0


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("name,english\na,\nb,x\nc,x\n", "reason=english", "t.csv: the reference of 'a' is empty; leave the clip out"),
        ("name,english\na,x\na,y\n", "reason=english", "t.csv, row 3: the name 'a' is there twice"),
        ("name,openset\na,x\n", "name=name", "t.csv, row 2: no free text under 'reason'; name its column by --columns"),
        ("name,reason\n", "name=name", "t.csv: the file has no rows"),
    ],
)
def test_faults_are_one_line(run, tmp_path, capsys, content, columns, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(SystemExit):
        run("--subset", columns=columns)
    assert message in capsys.readouterr().err


def test_other_outputs_do_not_go_with_it(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("--per-clip", str(tmp_path / "c.csv"))
    assert (
        "--explanations takes --predictions and --targets, and of the other outputs --json" in capsys.readouterr().err
    )
