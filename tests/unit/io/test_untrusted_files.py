"""What strangers' files may do to the shared readers: nothing but a short ValueError."""

import zipfile

import pytest

from affectgpt_r1.errors import MOST_CHARACTERS, DataError
from affectgpt_r1.io import untrusted_files as foreign_files
from affectgpt_r1.io.untrusted_files import json_lines, npy_header, open_zip, parse_json, read_json, read_member


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("1" * 5000, "4300 digits"),
        ('{"name": "\\ud800"}', "half a character"),
        ('["\\udc00\\ud800"]', "half a character"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_json(text)
    assert len(str(raised.value)) < 200


def test_json_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_files, "MOST_JSON_BYTES", 20)
    path = tmp_path / "a.json"
    path.write_text('["a", "b"]')
    assert read_json(path, 20) == ["a", "b"]
    path.write_text('"' + "a" * 100 + '"')
    with pytest.raises(ValueError, match="more than 20 bytes"):
        read_json(path, 20)
    with pytest.raises(ValueError, match=r"line 1: not JSON .*more than 20 characters"):
        list(json_lines(path))


def test_lines_end_where_lines_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": "x\u2028y"}\n\n[1]\r\n"z"', encoding="utf-8")
    assert list(json_lines(path)) == [(1, {"a": "x\u2028y"}), (3, [1]), (4, "z")]
    path.write_text("1\n[")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        list(json_lines(path))
    path.write_bytes(b"1\n\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        list(json_lines(path))


def archive(tmp_path, content=b"x" * 1000, method=zipfile.ZIP_DEFLATED):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("member", content)
    return path


def member(path, most=1000):
    with open_zip(path) as opened:
        return read_member(opened, "member", most)


def test_members_are_bounded_and_whole(tmp_path):
    path = archive(tmp_path)
    assert member(path) == b"x" * 1000
    with pytest.raises(ValueError, match="member has 1,000 bytes, too many: at most 999"):
        member(path, 999)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(ValueError, match="compressed by method"):
            member(archive(tmp_path, method=method))


def test_a_member_is_as_long_as_its_archive_says(tmp_path):
    """The size in the directory is a stranger's word, but it is also where reading ends."""
    content = archive(tmp_path, bytes(1 << 20)).read_bytes()
    place = content.rindex(b"PK\x01\x02") + 24  # file_size in the central directory
    (tmp_path / "a.zip").write_bytes(content[:place] + (10).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(ValueError, match="CRC"):
        member(tmp_path / "a.zip", 100)


def test_archives_that_zipfile_cannot_open(tmp_path):
    content = archive(tmp_path).read_bytes()
    place = content.rindex(b"PK\x01\x02")
    faults = [
        content[:place] + b"PK\x01\x02" + bytes(2) + b"\xff\xff" + content[place + 8 :],  # a version of the future
        content[:-22] + b"PK\x06\x07" + b"\xff" * 16 + content[-22:],  # one disk of many
        content[:40],
        b"",
    ]
    for fault in faults:
        (tmp_path / "a.zip").write_bytes(fault)
        with pytest.raises(zipfile.BadZipFile):
            member(tmp_path / "a.zip")
    encrypted = bytearray(content)
    for start in (6, place + 8):  # the flag in both headers
        encrypted[start] |= 1
    (tmp_path / "a.zip").write_bytes(encrypted)
    with pytest.raises(ValueError, match="password"):
        member(tmp_path / "a.zip")


def npy(header, version=1):
    text = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<U5', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<U5', 'fortran_order': False, 'shape': (1" + "0" * 20 + ",)}",
        "{'descr': '<U5', 'fortran_order': False, 'shape': " + "(" * 200 + ")" * 200 + "}",
        "{'descr': [('a', '<U5')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '" + "f4," * 3000 + "', 'fortran_order': False, 'shape': (1,)}",
        "-" * 9000 + "1",
        "[" * 9000,
        "",
    ],
)
def test_array_headers_that_are_refused(header):
    with pytest.raises(ValueError, match=r"header is damaged|not an array"):
        npy_header(npy(header))


def test_array_headers_of_every_version():
    text = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    for version in (1, 2, 3):
        header = npy_header(npy(text, version) + b"rest")
        assert (header.descr, header.shape) == ("|O", ())
        assert (npy(text, version) + b"rest")[header.start :] == b"rest"
    with pytest.raises(ValueError, match="not an array of numpy"):
        npy_header(npy(text, 4))
    with pytest.raises(ValueError, match="damaged"):
        npy_header(b"\x93NUMPY\x01\0\xff\xff" + text.encode())


def test_a_message_fits_on_a_screen():
    message = str(DataError(f"a.csv, row 1: has {', '.join(f'c{number}' for number in range(100_000))}; keep one"))
    assert len(message) == MOST_CHARACTERS
    assert message.startswith("a.csv, row 1: has c0, c1")
    assert message.endswith("c99999; keep one")
    assert str(DataError("short")) == "short"
