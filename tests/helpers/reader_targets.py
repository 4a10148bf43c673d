"""What is fuzzed: each reader of foreign files, given bytes, and seeds of which a fuzzer makes others.

A target must return, or raise an AffectGPTError of one short line; anything else is a failure. Archives are built here
from the bytes, so that their checksums are right and the reader behind them is reached; the first byte says how.
"""

import io
import json
import os
import resource
import time
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import openpyxl

from affectgpt_r1.data.layouts.manifest import read_columns, read_cues
from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench_set
from affectgpt_r1.data.layouts.recognition_sets import read_recognition_set
from affectgpt_r1.data.media.subtitles import read_subtitles
from affectgpt_r1.emotion import lexicon_cache
from affectgpt_r1.emotion import published_lexicon as published
from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion, parse_labels
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import AffectGPTError
from affectgpt_r1.io.object_archive import read_object_dict
from affectgpt_r1.metrics.prediction_files import read_named_sets
from affectgpt_r1.policy.hf_folder import SETTINGS_FILE, WEIGHTS_FILE, read_exported, read_multimodal
from affectgpt_r1.rewards.judges import ChatJudge, RecordedCuesJudge

MOST_SECONDS, MOST_BYTES = 2.0, 1 << 30
LEXICON = load_lexicon("bundled")


def _extract(text):
    return extract_labels(text, LEXICON)


def _written(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _split(data):
    """Two parts of the bytes; the first two say where."""
    place = int.from_bytes(data[:2], "little")
    return data[2 : 2 + place], data[2 + place :]


def npz(data, folder):
    if data[:1] == b"W":
        names, items = _split(data[1:])
        data = _archive({"filenames.npy": names, "fileitems.npy": items})
    read_named_sets(_written(folder, "a.npz", data), _extract)


def objects(data, folder):
    if data[:1] == b"W":
        data = _archive({"test_corpus.npy": data[1:]})
    path = _written(folder, LAYOUTS["sims"].label_file, data)
    read_object_dict(path, "test_corpus")
    read_unibench_set(folder, "sims", transcription=False)


@cache
def _workbook():
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Sheet1"
    runs = [f"{kind}_run{run}" for run in range(1, 9) for kind in ("word", "synonym")]
    sheet.append(["level1", "level2", "level3", *runs])
    sheet.append(["happy", "joy", "glee", *["happy", "glad, merry"] * 8])
    file = io.BytesIO()
    book.save(file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in sorted(archive.namelist())}


def xlsx(data, folder):
    if data[:1] == b"W":
        members = dict(_workbook())
        members[sorted(members)[data[1] % len(members) if len(data) > 1 else 0]] = data[2:]
        data = _archive(members)
    path = _written(folder, "wheel1.xlsx", data)
    for read in (published._read_wheel, published._read_synonyms):
        _attempt(read, path)


def _attempt(read, *arguments):
    """Let the next reader have the bytes, too."""
    try:
        read(*arguments)
    except AffectGPTError as error:
        check_message(str(error))


def csv(data, folder):
    path = _written(folder, "a.csv", data)
    _attempt(read_named_sets, path, _extract)
    _attempt(read_columns, path, "openset")
    _attempt(published._read_forms, path)
    _attempt(lambda: ChatJudge(None, path)._descriptions)
    for name, place in (("dfew", "EmoLabel_DataSplit/test(single-labeled)/set_1.csv"), ("ravdess", "labels.csv")):
        _written(folder / name, place, data)
        _attempt(read_recognition_set, folder / name, name)


def jsonl(data, folder):
    path = _written(folder, "a.jsonl", data)
    _attempt(read_named_sets, path, _extract)
    _attempt(read_cues, path)
    _attempt(lambda: RecordedCuesJudge(path).worth("a", "a smile"))


def srt(data, folder):
    read_subtitles(_written(folder, "a.srt", data))


def settings(data, folder):
    exported = folder / "exported"
    _written(exported, "tokenizer.json", b"{}")
    _written(exported, SETTINGS_FILE, data)
    _attempt(read_exported, exported)
    # A damaged lexicon in the cache is compiled again.
    os.environ["XDG_CACHE_HOME"] = str(folder)
    _written(folder, f"affectgpt_r1/lexicon-v{lexicon_cache._COMPILER_VERSION}-d.json", data)
    lexicon_cache.cached_lexicon("d", lambda: Lexicon("small", (((),) * 5,) * 2, {}))


def text(data, folder):
    said = data.decode("utf-8", "replace")
    _extract(said)
    parse_labels(said)
    parse_completion(said, enable_thinking=len(said) % 2 == 0)


def safetensors(data, folder):
    if data[:1] == b"W":
        header, rest = _split(data[1:])
        data = len(header).to_bytes(8, "little") + header + rest
    _written(folder, SETTINGS_FILE, b"{}")
    _written(folder, WEIGHTS_FILE, data)
    read_multimodal(folder)


TARGETS = {read.__name__: read for read in (npz, objects, xlsx, csv, jsonl, srt, settings, text, safetensors)}


def _array(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def _pair(names, items):
    return b"W" + len(names).to_bytes(2, "little") + names + items


_TIMES = "1\n00:00:01,000 --> 00:00:02,000\n"


def seeds(target):
    """Return the target's seeds: small ones of every kind, and published ones where ``AFFECTGPT_FIXTURES`` has them."""
    own = {
        "npz": lambda: [
            _pair(_array(np.array(["a", "b"])), _array(np.array(["x, y", ""]))),
            _pair(_array(np.array(["a", "b"])), _array(np.array([["x", "y"], ["é", ""]], order="F"))),
            _archive({"filenames.npy": _array(np.array(["a"])), "fileitems.npy": _array(np.array(["x"]))}),
        ],
        "objects": lambda: [
            b"W"
            + _array(
                np.array({"a": {"emo": "happy", "val": np.float32(1)}, "b": {"emo": np.str_("é"), "val": 1}}, object)
            ),
            b"W" + _array(np.array({"a": {"val": 1}, "b": {"val": 0.5}, "c": {"val": True}}, object)),
        ],
        "xlsx": lambda: [b"W" + bytes([place]) + part for place, part in enumerate(_workbook().values())],
        "csv": lambda: [
            b'name,openset,reason,format,label,video_name\na,"[happy, sad]",He smiles.,"happier, happiest",1,1\n',
            b"\xef\xbb\xbfname,reason\r\na,not happy\r\n\r\nb,\r\n",
            b"name,label,openset\n01-01-03-01-01-01-01,happy,calm\n",
        ],
        "jsonl": lambda: [
            b'{"name":"a","openset":["happy"],"cues":{"smile":0.5},"cue_phrases":["a smile"]}\n',
            b'\n{"name":"b","reason":"not sad","cues":{}}\n{"name":"\\ud83d\\ude00","openset":"calm, happy"}\n',
        ],
        "srt": lambda: [
            f"{_TIMES}Hi <b>you</b>\n\n2\n00:00:02.000 --> 00:00:03.000\n{{\\an8}}42\n".encode(),
            f"{_TIMES}Hé\n".encode("utf-16"),
        ],
        "settings": lambda: [
            lexicon_cache.lexicon_to_json(LEXICON)[:5000].encode(),
            b'{"name":"x","cluster_names":[[["a"]],[["a"]]],"masks":[[[1],[1]]],"entries":[["a",null,0]],"forms":"a\\u0000b",'
            b'"entry_of_form":[0,0]}',
            b'{"kind":"adapter","template":{"question":"How?"},"model":{"video_encoder":{"pretrained":null},'
            b'"audio_encoder":{},"language_model":{"pretrained":"x"}},"digests":{"a":"b"}}',
        ],
        "text": lambda: [
            b"<think>He smiles.</think><answer>happy, sad</answer>",
            b"I am not happy, angry or sad; no longer afraid. Isn't she calm?",
            b"['happy', \"sad\"]",
        ],
        "safetensors": lambda: [
            _pair(b'{"__metadata__":{"media":"x"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}', bytes(8)),
            _pair(b'{"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}', bytes(2)),
        ],
    }[target]()
    shared = os.environ.get("AFFECTGPT_FIXTURES")
    return [*own, *_published(target, Path(shared))] if shared else own


def _published(target, shared):
    outputs = shared / "published_outputs"
    if target == "npz":
        for path in sorted(outputs.glob("**/*openset*.npz"))[::12]:
            with np.load(path) as archive:
                yield _pair(*(_array(archive[key][:3]) for key in ("filenames", "fileitems")))
            yield path.read_bytes()[:40_000]
    elif target == "objects":
        for path in sorted(outputs.glob("labels/*/*.npz")):
            with zipfile.ZipFile(path) as archive:
                yield b"W" + min((archive.read(name) for name in archive.namelist()), key=len)[:20_000]
    elif target == "csv":
        for path in sorted(outputs.glob("**/*.csv")):
            yield b"".join(path.read_bytes().splitlines(keepends=True)[:3])
    elif target in ("text", "jsonl"):
        for path in sorted(outputs.glob("ov_merd/**/*.npz"))[::8]:
            with np.load(path) as archive:
                for item in archive["fileitems"][:2].tolist():
                    row = json.dumps({"name": "a", "reason": str(item)})
                    yield (row if target == "jsonl" else str(item)).encode()
    elif target == "xlsx" and "AFFECTGPT_WHEELS" in os.environ:
        for path in sorted(Path(os.environ["AFFECTGPT_WHEELS"]).glob("mer2025/*.xlsx"))[:2]:
            yield path.read_bytes()
            with zipfile.ZipFile(path) as archive:
                for place, name in enumerate(sorted(_workbook())):
                    if name in archive.namelist():
                        yield b"W" + bytes([place]) + archive.read(name)[:20_000]


def check_message(message):
    assert len(message) <= 1200, "a message longer than a screen"


def check(target, data, folder):
    """Run a target on bytes; whether they were accepted.

    Raises:
        Exception: Whatever it raises but an AffectGPTError; AssertionError for one that took too long.
    """
    start = time.process_time()
    try:
        TARGETS[target](data, folder)
        accepted = True
    except AffectGPTError as error:
        check_message(str(error))
        accepted = False
    assert time.process_time() - start < MOST_SECONDS, f"took {time.process_time() - start:.1f} s"
    return accepted


def limit_memory():
    """Let an allocation of more than ``MOST_BYTES`` raise a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + MOST_BYTES,) * 2)
