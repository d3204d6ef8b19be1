"""TensorFlow Datasets, read without TensorFlow (`pip install "ftjax[tfds]"`).

    make(builder="gsm8k", split="train[:90%]")            # prepared under data_dir
    make(path="prepared/my_set/1.0.0", split="train")     # a folder of array_record files

Random access through `tfds.data_source`, which needs the data set prepared in the array_record
format (`file_format="array_record"`); bytes become text.
"""

from collections.abc import Sequence

from ftjax.data.row import RowError
from ftjax.data.rows import Rows


def make(*, split: str, builder: str | None = None, path: str | None = None, data_dir=None) -> Rows:
    """Open a prepared data set for random access.

    builder: a data set's name, with `data_dir` the folder it was prepared in; or
    path: the folder of one prepared version. split: any split expression, such as "train[:10%]".
    Raises ImportError without the extra; ValueError when it is not prepared as array_record.
    """
    if (builder is None) == (path is None):
        raise ValueError(
            f"data: got builder={builder!r}, path={path!r}; expected exactly one of the two"
        )
    tfds = _tfds()
    try:
        if path is not None:
            source = tfds.builder_from_directory(path).as_data_source(split=split)
        else:
            source = tfds.data_source(builder, split=split, data_dir=data_dir, download=False)
    except (NotImplementedError, FileNotFoundError, AssertionError, ValueError) as error:
        raise ValueError(
            f"data: got {path or builder!r}, split {split!r}: {error}; expected a data set "
            "prepared as array_record; prepare it with "
            'download_and_prepare(file_format="array_record")'
        ) from error
    name = f"{path or builder}/{split}"
    return Rows(_Decoded(source, name), where=lambda i: f"{name}:row {i + 1}")


class _Decoded(Sequence):
    """A data source whose rows are decoded as they are read."""

    def __init__(self, source, name: str):
        self._source, self._name = source, name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict:
        if not 0 <= i < len(self):
            raise IndexError(i)  # array_record raises ValueError, which does not end a `for`
        row = self._source[i]
        return {key: self._decode(value, key, i=i) for key, value in row.items()}

    def _decode(self, value, field: str, *, i: int):
        """Return plain Python: bytes as text, arrays as lists, features inside features too."""
        if isinstance(value, dict):
            return {key: self._decode(each, f"{field}.{key}", i=i) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._decode(each, field, i=i) for each in value]
        if isinstance(value, bytes):
            return self._text(value, field, i=i)
        if isinstance(value, str | int | float) or value is None:
            return value
        # What is left are numpy arrays and scalars; `tolist` of a bytes array gives bytes.
        return self._decode(value.tolist(), field, i=i)

    def _text(self, value: bytes, field: str, *, i: int) -> str:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowError(
                f"{self._name}:row {i + 1}",
                field,
                found=f"byte 0x{value[error.start]:02x} at {error.start}",
                expected="UTF-8",
                fix="convert it where the data set is built",
                reason="invalid UTF-8",
            ) from error


def _tfds():
    # This module is `ftjax.data.sources.tfds`; the library is always imported by its full name.
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            'data.name="tfds" needs tensorflow-datasets; install it with: pip install "ftjax[tfds]"'
        ) from error
    return tensorflow_datasets
