"""Label archives of the published sets: ``.npz`` files whose arrays are pickled dictionaries.

``numpy.load(allow_pickle=True)`` would run whatever the file asks for. Here the pickle is read by an unpickler that
knows four names, the ones that numpy writes for an object array and for its scalars, and gives each a stand-in of our
own that only keeps what it is handed. No other name is looked up, nothing is imported, no numpy code sees the state.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from affectgpt_r1.errors import DataError

_MAX_BYTES = 1 << 28  # the published label files hold less than 10 MB; more is no label file
_SCALAR_KINDS = "biufUS"


class ForbiddenName(pickle.UnpicklingError):
    """The pickle names something else than a plain array or scalar."""


class _Dtype:
    """Stands in for ``numpy.dtype``: the code and the byte order of a plain type."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands in for ``numpy.ndarray``; keeps the list of an object array's elements."""

    def __init__(self, *_: object) -> None:
        self.elements: object = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.elements = state[4]


class _Scalar:
    """Stands in for the function that makes a scalar. A class, for a pickle may set what it likes on a function."""

    def __new__(cls, dtype: _Dtype, content: bytes) -> Any:
        plain = np.dtype(dtype.order + dtype.code)
        if plain.kind not in _SCALAR_KINDS or plain.itemsize != len(content):
            raise pickle.UnpicklingError(f"a scalar of type {dtype.code!r} from {len(content)} bytes")
        return np.frombuffer(content, plain).item() if content else plain.type().item()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a scalar with a state")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise ForbiddenName(f"{module}.{name}") from None


def read_object_dict(path: Path, key: str) -> dict[Any, Any]:
    """One dictionary of a ``.npz`` file that ``numpy.savez(path, key={...})`` wrote, without running its pickle.

    Args:
        path: The archive.
        key: Name of the array that wraps the dictionary.

    Returns:
        The dictionary; numpy scalars in it come as Python numbers and strings.

    Raises:
        DataError: The file is missing, is no such archive, lacks the key, or its pickle asks for anything but plain
            arrays, scalars, dictionaries, lists, numbers and strings (it is refused, nothing of it is run).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = _member(path, archive, key)
            with archive.open(member) as stream:
                content = _read_pickle(stream)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the folder of this set") from error
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path}: no zip archive, as .npz files are, or a damaged one ({error}); fetch it again"
        ) from error
    except ForbiddenName as error:
        raise DataError(f"{path}: {key} is a pickle that asks for {error}; it was refused, do not trust it") from error
    # A damaged pickle can raise nearly any of these; none of them stems from code that the file brings.
    except (
        pickle.UnpicklingError, OSError, EOFError, ValueError, TypeError, LookupError,
        AttributeError, ImportError, OverflowError, MemoryError, RuntimeError, SyntaxError,
    ) as error:  # fmt: skip
        raise DataError(f"{path}: {key} cannot be read as a pickled label array: {error!r}; fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: {key} holds {type(content).__name__}, not a dictionary of clips")
    return content


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    sizes = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if key not in sizes:
        raise DataError(f"{path}: lacks the array {key}; it has {', '.join(sizes) or 'none'}")
    if sizes[key].file_size > _MAX_BYTES:
        raise DataError(f"{path}: {key} has {sizes[key].file_size} bytes, too many for labels")
    return sizes[key]


def _read_pickle(stream: IO[bytes]) -> object:
    buffer = io.BytesIO(stream.read(_MAX_BYTES))
    version = np.lib.format.read_magic(buffer)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(buffer)
    if shape != () or not dtype.hasobject:
        raise ValueError(f"an array of shape {shape} and type {dtype}, where one wrapped dictionary is due")
    array = _PlainUnpickler(buffer).load()
    if not isinstance(array, _Array) or not isinstance(array.elements, list) or len(array.elements) != 1:
        raise ValueError("no wrapped dictionary")
    return array.elements[0]
