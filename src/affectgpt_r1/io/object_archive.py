"""Read label archives of the published sets: ``.npz`` files whose arrays are pickled dictionaries.

``numpy.load(allow_pickle=True)`` would run whatever the file asks for. Here nothing is unpickled: the pickle's steps
are followed one by one, and only those are known that build numbers, strings, lists, dictionaries and numpy's wrappers.
A name in the file is compared with six strings; it is never imported or called.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from affectgpt_r1.errors import DataError
from affectgpt_r1.io.untrusted_files import npy_header, open_zip, read_member

_MAX_BYTES = 1 << 26  # the published label files hold less than 10 MB
_MOST_STEPS = 400_000  # the published test sets take up to 80,000, a fifth of a second
_ARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_SCALARS = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar")
_KNOWN = (*_ARRAYS, *_SCALARS, "numpy dtype", "numpy ndarray")
_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
_TEXT = re.compile(r"U\d{1,6}")


class ForbiddenNameError(ValueError):
    """The pickle names something else than a plain array or scalar."""


class _Name(str):
    """One of :data:`_KNOWN`."""

    __slots__ = ()


class _Type:
    """Type of an array or scalar."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "="


class _Array:
    """An array of objects."""

    elements: object = None


def read_object_dict(path: Path, key: str) -> dict[Any, Any]:
    """Read one dictionary of a ``.npz`` that ``numpy.savez(path, key={...})`` wrote, without running its pickle.

    Keys are strings; numpy scalars come as Python numbers and strings.

    Raises:
        DataError: The file is missing, is not such an archive, lacks the key, or its pickle asks for anything but plain
            arrays, scalars, dictionaries, lists, numbers and strings.
    """
    try:
        with open_zip(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in names:
                raise DataError(f"{path}: lacks the array {key}; it has {', '.join(names) or 'none'}")
            content = _wrapped(bytes(read_member(archive, f"{key}.npy", _MAX_BYTES)))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the folder of this set") from error
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path}: not a zip archive, as .npz files are, or a damaged one ({error}); fetch it again"
        ) from error
    except ForbiddenNameError as error:
        raise DataError(f"{path}: {key} is a pickle that asks for {error}; it was refused, do not trust it") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: {key} cannot be read as a pickled label array: {error!r}; fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: {key} holds {type(content).__name__}, not a dictionary of clips")
    return content


def _wrapped(content: bytes) -> object:
    header = npy_header(content)
    if header.shape != () or "O" not in header.descr:
        raise ValueError(f"an array of shape {header.shape} and type {header.descr}, in place of one dictionary")
    array = _follow(content[header.start :])
    if not isinstance(array, _Array) or not isinstance(array.elements, list) or len(array.elements) != 1:
        raise ValueError("no wrapped dictionary")
    return array.elements[0]


def _follow(pickled: bytes) -> object:
    """Return what a pickle of protocol 3 or later builds; see :mod:`pickletools` for its steps."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def from_mark() -> list[Any]:
        place = marks.pop()
        items = stack[place:]
        del stack[place:]
        return items

    value: Any
    for step, (code, value, _) in enumerate(pickletools.genops(pickled)):
        if step > _MOST_STEPS:
            raise ValueError(f"more than {_MOST_STEPS:,} steps")
        match code.name:
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES" | "BINFLOAT":
                stack.append(_encodable(value))
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                if abs(value) >> 63:
                    raise ValueError("an integer of more than 64 bits")
                stack.append(value)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code.name])
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3").index(code.name)
                stack.append(tuple(stack.pop() for _ in range(size))[::-1])
            case "TUPLE":
                stack.append(tuple(from_mark()))
            case "APPEND" | "APPENDS":
                items = from_mark() if code.name == "APPENDS" else [stack.pop()]
                _expect(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = from_mark() if code.name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
                pairs = zip(items[::2], items[1::2], strict=True)
                _expect(stack[-1], dict).update((_expect(name, str), inner) for name, inner in pairs)
            case "GLOBAL":
                stack.append(_known(value))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(f"{_expect(module, str)} {_expect(name, str)}"))
            case "REDUCE":
                arguments = _expect(stack.pop(), tuple)
                stack.append(_call(_expect(stack.pop(), _Name), arguments))
            case "BUILD":
                _set_state(stack[-2], _expect(stack.pop(), tuple))
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case _:
                raise ValueError(f"the step {code.name}")
    raise ValueError("no end")


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _encodable(value: Any) -> Any:
    """Return a value; refuse a string with half a character, which no file can be written with."""
    if isinstance(value, str):
        value.encode()
    return value


def _known(name: str) -> _Name:
    if name not in _KNOWN:
        raise ForbiddenNameError(name.replace(" ", ".", 1))
    return _Name(name)


def _call(name: _Name, arguments: tuple[Any, ...]) -> Any:
    if name in _ARRAYS:
        return _Array()
    if name == "numpy dtype":
        return _Type(_expect(arguments[0], str))
    if name in _SCALARS:
        kind, content = arguments
        return _scalar(_expect(kind, _Type), _expect(content, bytes))
    raise ValueError(f"a call of {name}")


def _set_state(built: Any, state: tuple[Any, ...]) -> None:
    if isinstance(built, _Type):
        built.order = _expect(state[1], str)
    else:
        _expect(built, _Array).elements = state[4]


def _scalar(kind: _Type, content: bytes) -> Any:
    if kind.order not in ("<", ">", "=", "|"):
        raise ValueError(f"the byte order {kind.order[:20]!r}")
    if _TEXT.fullmatch(kind.code) and len(content) == 4 * int(kind.code[1:]):
        return content.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0")
    if not _NUMBER.fullmatch(kind.code) or len(content) != int(kind.code[1:]):
        raise ValueError(f"a scalar of type {kind.code[:20]!r} from {len(content)} bytes")
    return np.frombuffer(content, kind.order + kind.code)[0].item()
