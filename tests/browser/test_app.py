"""The page in Chromium: each tab as a person uses it."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.hostile_names import NAMES, SCRIPT

pytestmark = pytest.mark.slow


def test_try_a_real_video_a_broken_one_and_a_clip(serve, sources_of, policy, visit, tmp_path):
    samples = pytest.importorskip("iscc_samples", reason="needs `pip install iscc-samples`: real videos")
    real = next(path for path in map(Path, samples.videos()) if path.suffix == ".mp4")
    page = visit(serve(sources_of(NAMES, policy)))
    video, answer = page.locator("#ag-try-video"), page.locator("#ag-try")

    def upload(path):
        if video.get_by_label("Clear").count():
            video.get_by_label("Clear").click()
        video.locator("input[type=file]").set_input_files(path)
        video.locator("video").wait_for()
        answer.click()

    broken = tmp_path / f"{SCRIPT}.mp4"
    broken.write_bytes(b"\0" * 5000)
    upload(broken)
    page.wait_for_selector("#ag-tried .ag-fault")
    assert "cannot be read as video or sound: Invalid data found" in page.locator("#ag-tried").inner_text()

    page.locator("#ag-try-second input").click()
    page.get_by_role("option", name="run/sft").click()
    upload(real)
    page.wait_for_selector("#ag-tried .ag-trial >> nth=1")
    text = page.locator("#ag-tried").inner_text()
    assert text.count("What else it might have said") == 2
    assert "8 windows" not in text
    assert page.locator("#ag-tried .ag-trial >> nth=0").locator(".ag-frames:not(.wide) img").count() == 3
    assert page.locator("#ag-tried .ag-sound rect").count() == 4  # two windows of two policies

    page.locator("#ag-try-clip input").click()
    page.get_by_role("option", name="clip_01").click()
    page.wait_for_function("document.querySelector('textarea').value.startsWith('I said')")
    answer.click()
    page.wait_for_function("document.querySelector('#ag-tried').innerText.includes('clip_01')")
    assert SCRIPT in page.locator("#ag-tried .ag-trial >> nth=0").inner_text()


def test_a_recording_of_the_camera_is_answered(serve, sources_of, policy, visit):
    page = visit(serve(sources_of(NAMES, policy)), permissions=["camera", "microphone"])
    video = page.locator("#ag-try-video")
    video.get_by_label("Capture from camera").click()
    video.get_by_role("button", name="Click to Access Webcam").click()

    video.get_by_label("start recording").click()
    page.wait_for_timeout(3000)
    video.get_by_label("start recording").click()  # which says "Stop" now
    video.get_by_label("Trim video to selection").wait_for()
    page.locator("#ag-try").click()

    page.wait_for_selector("#ag-tried .ag-trial")
    assert page.locator("#ag-tried .ag-frames:not(.wide) img").count() == 3
    assert page.locator("#ag-tried .ag-sound rect").count() == 2


def test_an_upload_over_the_limit_is_refused(serve, sources_of, policy, visit, tmp_path):
    page = visit(serve(sources_of(NAMES, policy), 0.01))
    large = tmp_path / "large.mp4"
    large.write_bytes(b"\0" * 50_000)

    page.locator("#ag-try-video input[type=file]").set_input_files(large)

    page.get_by_text("exceed", exact=False).first.wait_for()


def test_compare_filters_search_and_keys(serve, sources_of, visit):
    page = visit(serve(sources_of(NAMES)))
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#ag-compared .ag-wheel")
    shown, count = page.locator("#ag-compared"), page.locator("#ag-count")
    assert "26 of 26 clips" in count.inner_text()

    def pick(name, option):
        page.locator(f"#ag-{name} input").click()
        page.get_by_role("option", name=option, exact=True).click()

    def at(place):
        page.wait_for_function(f"document.querySelector('#ag-position input').value == '{place}'")

    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    at(2)
    page.keyboard.press("k")
    at(1)
    pick("order", "worst F1")
    pick("kind", "repeated words")
    page.wait_for_function("document.querySelector('#ag-count').innerText.startsWith('26 of')")
    assert shown.locator(".ag-answers article").count() == 3
    pick("second", "control")
    pick("kind", "empty answers")
    page.wait_for_function("document.querySelector('#ag-count').innerText.startsWith('1 of')")
    assert "clip_03" in shown.inner_text()
    assert "no words" in shown.inner_text()
    pick("kind", "all")
    page.locator("#ag-search input, #ag-search textarea").first.fill("onerror")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#ag-count').innerText.startsWith('26 of')")
    page.locator("#ag-search input, #ag-search textarea").first.fill("clip <")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#ag-count').innerText.startsWith('1 of')")
    assert SCRIPT in shown.inner_text()
    assert page.locator("#ag-compared img, #ag-list img").count() == 0


def test_twenty_judgements_survive_reloads_and_two_people_agree(serve, sources_of, visit):
    sources = sources_of(NAMES)
    address = serve(sources)
    file = sources.judgements.preferences

    def lines():
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    def start(page, name):
        page.get_by_role("tab", name="Judge").click()
        if name:
            page.get_by_label("Your name or initials").fill(name)
            page.locator("#ag-start").click()
        page.wait_for_selector("#ag-pair .ag-two")

    def judge(page, key, done, name):
        page.keyboard.press(key)
        page.wait_for_function(
            f"document.querySelector('#ag-progress').innerText.startsWith('{done} of ') && "
            f"document.querySelector('#ag-progress').innerText.includes('{name}')"
        )

    anna = visit(address)
    start(anna, "anna")
    assert anna.locator("#ag-pair").inner_text().count("answer") >= 2
    assert not any(system in anna.locator("#ag-pair h4").all_inner_texts() for system in ("sft", "grpo", "control"))
    for done in range(1, 21):
        anna.locator("h1").click()
        judge(anna, "12sn"[done % 4], done, "anna")
        assert len(lines()) == done  # on the disk before the next pair is shown
        if done in (7, 14):
            anna.reload()
            start(anna, "")  # the browser remembers the name, the file the place
            anna.wait_for_function(f"document.querySelector('#ag-progress').innerText.startsWith('{done} of ')")
    ben = visit(address)
    start(ben, "ben")
    for done in range(1, 6):
        ben.locator("h1").click()
        judge(ben, "1", done, "ben")
    rows = lines()
    assert [row["rater"] for row in rows] == ["anna"] * 20 + ["ben"] * 5
    assert len({row["name"] for row in rows}) == 25
    assert [(row["clip"], {row["system1"], row["system2"]}) for row in rows[:5]] == [
        (row["clip"], {row["system1"], row["system2"]}) for row in rows[20:]
    ]
    words = ben.locator("#ag-words input")
    for word in ("happ", "bittersweet"):
        words.fill(word)
        ben.wait_for_timeout(300)
        words.press("Enter")
    ben.locator("#ag-save").click()
    ben.wait_for_function("document.querySelector('#ag-saved').innerText.includes('labels-ben.jsonl')")
    ben.get_by_text("Ranking and agreement so far").click()
    ben.locator("#ag-refresh").click()
    ben.wait_for_selector("#ag-standing table")
    text = ben.locator("#ag-standing").inner_text()
    assert "25 judgements by 2 people: anna, ben" in text
    assert "On the 5 pairs that two or more people judged" in text
    written = {path.name for path in sources.judgements.folder.iterdir()}
    assert written == {"preferences.jsonl", "labels-ben.jsonl"}


@pytest.mark.parametrize("tab", ["Try", "Compare", "Judge"])
def test_nothing_is_wider_than_a_phone(serve, sources_of, policy, visit, tab):
    page = visit(serve(sources_of(NAMES, policy)), viewport={"width": 390, "height": 844}, is_mobile=True)
    page.get_by_role("tab", name=tab).click()
    if tab == "Judge":
        page.get_by_label("Your name or initials").fill("anna")
        page.locator("#ag-start").click()
        page.wait_for_selector("#ag-pair .ag-two")
    if tab == "Compare":
        page.wait_for_selector("#ag-compared .ag-wheel")

    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_20_000_clips_stay_usable(serve, sources_of, visit):
    page = visit(serve(sources_of([f"clip_{number:05}" for number in range(20_000)])))
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#ag-compared .ag-wheel")
    page.locator("h1").click()

    started = time.perf_counter()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#ag-position input').value == '2'")
    turned = time.perf_counter() - started
    started = time.perf_counter()
    page.locator("#ag-search input, #ag-search textarea").first.fill("clip_1999")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#ag-count').innerText.startsWith('10 of 20,000')")
    searched = time.perf_counter() - started

    print(f"20,000 clips: next in {turned:.2f} s, search in {searched:.2f} s")
    assert turned < 3
    assert searched < 10


def test_other_sites_send_nothing(serve, sources_of):
    at = urlsplit(serve(sources_of(NAMES))).netloc
    body = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhi\r\n--x--\r\n'
    statuses = []
    for headers in ({"Origin": f"http://{at}"}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        connection = HTTPConnection(at)
        connection.request(
            "POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x", **headers}
        )
        statuses.append(connection.getresponse().status)
    assert statuses == [200, 403, 403]
