"""The nine published folders, written here in miniature, and what must be refused."""

import pickle
import zipfile

import numpy as np
import pytest

from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench, read_unibench_set
from affectgpt_r1.errors import DataError
from affectgpt_r1.io import object_archive
from affectgpt_r1.io.object_archive import read_object_dict

RAN = []


def write_transcript(folder, layout, names):
    file, column = layout.transcript
    other = "english" if column == "chinese" else "chinese"
    rows = "".join(f'{name},-,"{name} says, hello"\n' for name in names)
    (folder / file).write_text(f"name,{other},{column}\n{rows}", encoding="utf-8")


def write_corpora(folder, layout, **corpora):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / layout.label_file, **corpora)
    write_transcript(folder, layout, [name for corpus in corpora.values() for name in corpus])
    return folder


def write_all(root):
    for name in ("mer2023", "mer2024"):
        write_corpora(
            root / LAYOUTS[name].folder,
            LAYOUTS[name],
            train_corpus={"sample_1": {"emo": "sad", "val": -1.0}},
            test1_corpus={
                "sample_2": {"emo": "happy", "val": np.float64(2.5)},
                "sample_3": {"emo": "neutral", "val": 0},
            },
        )
    write_corpora(
        root / "iemocap-process",
        LAYOUTS["iemocap"],
        whole_corpus={
            "Ses04F_impro01_F000": {"emo": 0, "val": -10},
            "Ses05F_impro01_F000": {"emo": np.int64(3), "val": -10},
            "Ses05M_impro01_F001": {"emo": 1, "val": -10},
        },
    )
    write_corpora(
        root / "meld-process",
        LAYOUTS["meld"],
        train_corpus={"train_dia0_utt0": {"emo": 0, "val": -10}},
        val_corpus={},
        test_corpus={f"test_dia0_utt{place}": {"emo": place, "val": -10} for place in range(7)},
    )
    for name in ("cmumosi", "cmumosei", "sims", "simsv2"):
        corpus = {"a": {"emo": 0, "val": np.float32(0.5)}, "b": {"emo": 0, "val": -2}, "c": {"emo": 0, "val": 0.0}}
        write_corpora(root / LAYOUTS[name].folder, LAYOUTS[name], train_corpus={}, val_corpus={}, test_corpus=corpus)
    folder = root / "ovmerdplus-process"
    folder.mkdir()
    (folder / "ovlabel.csv").write_text('name,openset\nx,"[happy, calm]"\ny,"worried,sad"\n', encoding="utf-8")
    write_transcript(folder, LAYOUTS["ovmerdplus"], ["x", "y"])


def test_all_nine_published_folders(tmp_path):
    write_all(tmp_path)

    sets = read_unibench(tmp_path)

    assert list(sets) == list(LAYOUTS)
    assert {name: len(clips) for name, clips in sets.items()} == {
        "mer2023": 2, "mer2024": 2, "meld": 7, "iemocap": 2, "cmumosi": 3, "cmumosei": 3, "sims": 3, "simsv2": 3,
        "ovmerdplus": 2,
    }  # fmt: skip
    assert sets["mer2024"].names == ("sample_2", "sample_3")
    assert sets["mer2023"].labels == (("happy",), ("neutral",))
    assert sets["iemocap"].names == ("Ses05F_impro01_F000", "Ses05M_impro01_F001")
    assert sets["iemocap"].labels == (("anger",), ("sad",))
    assert sets["meld"].labels == tuple(
        (word,) for word in ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
    )
    assert sets["simsv2"].values == (0.5, -2.0, 0.0)
    assert sets["ovmerdplus"].labels == (("happy", "calm"), ("worried", "sad"))
    assert sets["mer2024"].transcription == {
        "sample_2": "sample_2 says, hello",
        "sample_3": "sample_3 says, hello",
    }
    assert (
        sum(layout.num_clips for layout in LAYOUTS.values()) == 532 + 411 + 1169 + 1241 + 2610 + 686 + 4659 + 457 + 1034
    )


def test_iemocaps_transcription_repeats_clips_that_are_not_labelled(tmp_path):
    write_all(tmp_path)
    folder = tmp_path / "iemocap-process"
    file = folder / "transcription-engchi-polish.csv"
    file.write_text(file.read_text() + "Ses05F_script03_M001,-,one\n" * 2)
    assert len(read_unibench_set(folder, "iemocap").transcription) == 2
    file.write_text(file.read_text() + "Ses05M_impro01_F001,-,two\n")
    with pytest.raises(DataError, match="the name 'Ses05M_impro01_F001' is in rows 4 and 7; keep one"):
        read_unibench_set(folder, "iemocap")


def test_scoring_needs_no_transcripts(tmp_path):
    write_all(tmp_path)
    (tmp_path / "sims-process" / "transcription-engchi-polish.csv").unlink()

    assert read_unibench_set(tmp_path / "sims-process", "sims", transcription=False).transcription is None
    with pytest.raises(DataError, match=r"transcription-engchi-polish\.csv: no such file"):
        read_unibench_set(tmp_path / "sims-process", "sims")


@pytest.mark.parametrize(
    ("name", "corpora", "message"),
    [
        (
            "mer2023",
            {"train_corpus": {"a": {"emo": "sad"}}},
            r"label-6way\.npz: lacks the array test1_corpus; it has tr",
        ),
        ("mer2024", {"test1_corpus": {"a": {"val": 1.0}}}, r"label-6way\.npz: a lacks 'emo'; it has val"),
        (
            "mer2023",
            {"test1_corpus": {"a": {"emo": "bored"}}},
            r"a has the class 'bored'; the set knows neutral, angry",
        ),
        ("meld", {"test_corpus": {"a": {"emo": 7}}}, r"label\.npz: a has the class 7"),
        ("sims", {"test_corpus": {"a": {"val": "high"}}}, r"label\.npz: a has the sentiment 'high', not a number"),
        ("sims", {"test_corpus": {"a": {"val": float("nan")}}}, r"a has the sentiment nan"),
        ("sims", {"test_corpus": {"a": 0.5}}, r"test_corpus: a has 0\.5 in place of"),
        ("sims", {"test_corpus": {"../a": {"val": 0.5}}}, r"'\.\./a' is not a clip name"),
        ("sims", {"test_corpus": {}}, r"label\.npz: test_corpus has no clips"),
        (
            "iemocap",
            {"whole_corpus": {"Ses01F": {"emo": 1}}},
            r"label_4way\.npz: whole_corpus has no clips of session 5",
        ),
    ],
)
def test_bad_labels_name_the_file(tmp_path, name, corpora, message):
    write_corpora(tmp_path, LAYOUTS[name], **corpora)

    with pytest.raises(DataError, match=message):
        read_unibench_set(tmp_path, name)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ovlabel.csv", "name,label\nx,sad\n", r"ovlabel\.csv: lacks the column openset"),
        ("ovlabel.csv", "name,openset\nx,sad\nx,happy\n", r"ovlabel\.csv: the name 'x' is in rows 2 and 3"),
        ("subtitle_eng.csv", "name,english\nx,\ny,\n", r"subtitle_eng\.csv: lacks the column sentence"),
        (
            "subtitle_eng.csv",
            "name,sentence\nx,Hi\n",
            r"subtitle_eng\.csv: has no row for 1 of \d labelled clips: y",
        ),
        ("subtitle_eng.csv", "name,sentence\nx,\ny,\nx,\n", r"subtitle_eng\.csv: the name 'x' is in rows 2 and 4"),
    ],
)
def test_bad_tables_name_the_file(tmp_path, file, text, message):
    write_all(tmp_path)
    (tmp_path / "ovmerdplus-process" / file).write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=message):
        read_unibench(tmp_path)


def test_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no MER-UniBench set 'mosi'"):
        read_unibench_set(tmp_path, "mosi")


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def record(*arguments):
    RAN.append(arguments)
    return {}


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        (Evil(record, "called"), "record"),
        (Evil(eval, "RAN.append(1)"), "eval"),
        (Evil(np.frombuffer, b"12345678"), "frombuffer"),
        (Evil(np.load, "/etc/passwd", None, True), "load"),
        (Evil(getattr, "", "join"), "getattr"),
    ],
)
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, payload, names):
    path = tmp_path / "label.npz"
    np.savez(path, test_corpus={"a": {"val": payload}})

    with pytest.raises(
        DataError, match=rf"label\.npz: test_corpus is a pickle that asks for .*{names}; it was refused"
    ):
        read_unibench_set(tmp_path, "sims", transcription=False)
    assert RAN == []


def test_the_refused_pickle_would_have_run(tmp_path):
    np.savez(tmp_path / "label.npz", test_corpus=Evil(record, "called"))

    np.load(tmp_path / "label.npz", allow_pickle=True)["test_corpus"]

    assert RAN == [("called",)]
    RAN.clear()


def write_member(path, content):
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("corpus.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        pickle.dumps({"a": 1}),
        pickle.dumps(np.array(["x", None], dtype=object)),
        # Objects of object type from raw bytes would be pointers of the file's choosing.
        pickle.dumps(np.float64(1.0)).replace(b"f8", b"O8"),
        pickle.dumps(np.array({"a": np.float64(1.0)}, dtype=object)).replace(b"f8", b"O8"),
        # Setting an attribute on what a name stands for: `name`, then its state `(None, {"mark": 1})`.
        *(f"cnumpy.core.multiarray\n{name}\n(N(Vmark\nI1\ndtb.".encode() for name in ("scalar", "_reconstruct")),
        *(f"cnumpy\n{name}\n(N(Vmark\nI1\ndtb.".encode() for name in ("dtype", "ndarray")),
    ],
)
def test_a_damaged_pickle_is_one_error(tmp_path, content):
    write_member(tmp_path / "label.npz", content)

    with pytest.raises(DataError, match=r"label\.npz: corpus cannot be read as a pickled label array"):
        read_object_dict(tmp_path / "label.npz", "corpus")


def test_other_files_are_one_error(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "plain.npz", corpus=np.arange(3))
    np.savez(tmp_path / "list.npz", corpus=np.array(None, dtype=object))

    (tmp_path / "empty.npz").touch()
    (tmp_path / "short.npz").write_bytes((tmp_path / "plain.npz").read_bytes()[:-30])
    for name in ("text", "empty", "short"):
        with pytest.raises(DataError, match=rf"{name}\.npz: not a zip archive, as \.npz files are, or a damaged one"):
            read_object_dict(tmp_path / f"{name}.npz", "corpus")
    with pytest.raises(DataError, match=r"plain\.npz: corpus cannot be read .*shape \(3,\)"):
        read_object_dict(tmp_path / "plain.npz", "corpus")
    with pytest.raises(DataError, match=r"list\.npz: corpus holds NoneType, not a dictionary"):
        read_object_dict(tmp_path / "list.npz", "corpus")
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        read_object_dict(tmp_path / "none.npz", "corpus")


def test_an_archive_too_large_for_labels_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(object_archive, "_MAX_BYTES", 100)
    np.savez_compressed(tmp_path / "label.npz", corpus={"a": {"val": 1.0}})

    with pytest.raises(DataError, match=r"label\.npz: corpus cannot be read .*has 2\d\d bytes, too many: at most 100"):
        read_object_dict(tmp_path / "label.npz", "corpus")


@pytest.mark.parametrize(
    ("protocol", "module"),
    [(3, b"numpy.core.multiarray"), (3, b"numpy._core.multiarray"), (4, b"numpy._core.multiarray")],
)
def test_old_and_new_numpy_wrote_the_same(tmp_path, protocol, module):
    scalars = [np.float64(1.5), np.float32(-2), np.int64(3), np.int8(-4), np.bool_(True), np.str_("é"), np.str_("")]
    content = {f"clip{place}": {"val": scalar} for place, scalar in enumerate(scalars)}
    text = pickle.dumps(np.array(content, dtype=object), protocol)
    text = text.replace(b"numpy._core.multiarray", module)  # protocol 4 also writes its length, so keeps it here
    write_member(tmp_path / "label.npz", text)

    read = read_object_dict(tmp_path / "label.npz", "corpus")

    assert read == {name: {"val": entry["val"].item()} for name, entry in content.items()}
    assert [type(entry["val"]) for entry in read.values()] == [float, float, int, int, bool, str, str]


HEAD = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)cnumpy\ndtype\n(X\x01\0\0\0OtR\x89]"
"""Up to the list of an array's elements, on the stack."""


def nested_tuples():
    """A tuple that holds another twice, 60 times over: its hash takes 2^60 steps."""
    return b")q\0" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (HEAD + b"(" + nested_tuples() + b"t}h\x3cNs", "tuple in place of str"),
        (b"\x80\x04(" * 500_000, "more than 400,000 steps"),
        (b"\x80\x04]r" + (100_000_000).to_bytes(4, "little") + b".", "no wrapped dictionary"),
        (b"\x80\x05\x96" + (3 << 30).to_bytes(8, "little") + b".", "bytearray8"),
        (b"\x80\x05\x8e" + (1 << 40).to_bytes(8, "little") + b".", "bytes8"),
        (b"\x80\x02\x8a\x09" + bytes(8) + b"\x01.", "an integer of more than 64 bits"),
        (b"\x80\x02\x8b" + (1 << 20).to_bytes(4, "little") + b"\x7f" * (1 << 20) + b".", "LONG4"),
        (b"I" + b"9" * 5000 + b"\n.", "4300 digits"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pabc\n.", "PERSID"),
        (b"\x80\x04\x8c\x03\xed\xa0\x80.", "surrogate"),
        (b"\x80\x04h\x05.", "KeyError"),
        (b"\x80\x04t.", "IndexError"),
        (HEAD + b"}as", "in place of dict"),
        (b"\x80\x04N", "no wrapped dictionary|pickle exhausted"),
    ],
    ids=range(15),
)
def test_a_hostile_pickle_is_one_error_at_once(tmp_path, content, fault):
    write_member(tmp_path / "label.npz", content)

    with pytest.raises(DataError, match=rf"corpus cannot be read as a pickled label array: .*({fault})"):
        read_object_dict(tmp_path / "label.npz", "corpus")


def test_a_scalar_is_what_its_type_says(tmp_path):
    plain = pickle.dumps(np.array({"a": {"val": np.float64(1.5)}}, dtype=object), 3)
    for old, new in ((b"f8", b"f2"), (b"f8", b"U2"), (b"f8", b"V8"), (b"X\x01\0\0\0<", b"X\x01\0\0\0?")):
        write_member(tmp_path / "label.npz", plain.replace(old, new))
        with pytest.raises(DataError, match=r"a scalar of type|the byte order|utf-32"):
            read_object_dict(tmp_path / "label.npz", "corpus")


def test_an_entry_of_endless_lists_is_named_in_short(tmp_path):
    """A list that holds another twice, 60 times over, has no repr in a lifetime."""
    inner = []
    for _ in range(60):
        inner = [inner, inner]
    write_corpora(tmp_path, LAYOUTS["sims"], test_corpus={"a": inner})
    with pytest.raises(DataError, match=r"a has \[\[\[.*in place of"):
        read_unibench_set(tmp_path, "sims", transcription=False)
