"""Text to vectors without a model server: one small protocol, and a file's worth of implementations.

``WordTable`` reads the table of word vectors inside the ``wordllama`` package with numpy; ``HashEmbedder`` needs no
data at all and stands in where that package is missing; ``Joined`` is both. None opens a network connection.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from broker.errors import ConfigError
from dispatcher.blas import Floats, Hashes, Labels, Matrix, np
from dispatcher.text import window

# An instruction stands at the start of a prompt, sometimes at its end. More of the body made long prompts harder to
# tell, and short prompts gained nothing by it.
HEAD_CHARS, TAIL_CHARS = 200, 50
_WORD = re.compile(r"\w+", re.UNICODE)
_WORD_CHARS = 40
_PAIR, _PIECE = 0.7, 0.4  # against 1 for a word
_MEANING = 0.75  # the word table's part of the joined vector, whose other part completes it to length 1
_MIX = np.array([0x9E3779B1, 0x85EBCA6B], dtype=np.uint64)
_MASK = np.uint64(0xFFFFFFFF)
_MEND = "pip install --no-deps wordllama tokenizers"


class Embedder(Protocol):
    """Texts in, one L2-normalised float32 row each out, in order. A text with no words in it gives a row of zeros."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Matrix: ...


class WordTable:
    """The mean of a text's token vectors: what wordllama's own ``embed(norm=True)`` gives, within float rounding."""

    name = "wordllama-256"

    def __init__(self, table: Matrix, encode: Callable[[list[str]], list[Any]]) -> None:
        self._table = table
        self._encode = encode

    @classmethod
    def load(cls) -> WordTable:
        """Raises ConfigError where the packages or their files are missing."""
        try:
            from tokenizers import Tokenizer  # 40 MB that the stand-in does without
        except ImportError as error:
            raise ConfigError("the package tokenizers is not installed", mend=_MEND) from error
        # Its thread pool gains nothing on short texts, and prints a warning when a process forks after using it.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        table = _read_table(_packaged(".safetensors"))
        tokenizer = Tokenizer.from_file(str(_packaged("_tokenizer_config.json")))
        if tokenizer.get_vocab_size() > len(table):
            raise ConfigError(
                f"wordllama's table has {len(table)} rows for {tokenizer.get_vocab_size()} tokens", mend=_MEND
            )
        return cls(table, lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False))

    @property
    def dimensions(self) -> int:
        return int(self._table.shape[1])

    def embed(self, texts: Sequence[str]) -> Matrix:
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, encoded in zip(
            rows, self._encode([window(text, HEAD_CHARS, TAIL_CHARS) for text in texts]), strict=True
        ):
            ids = encoded.ids
            if ids:
                self._table[ids].sum(axis=0, out=row)  # the mean's divisor falls out in the normalisation
        return _normalised(rows)


class HashEmbedder:
    """Words, pairs of neighbours and the words' three-letter pieces, each hashed to a signed place: no data files."""

    name = "hash-512"
    dimensions = 512

    def embed(self, texts: Sequence[str]) -> Matrix:
        words = [_WORD.findall(window(text, HEAD_CHARS, TAIL_CHARS).lower()) for text in texts]
        hashed = [_hashed(word) for row in words for word in row]
        rows = np.repeat(np.arange(len(texts)), [len(row) for row in words])
        singles = np.array([word for word, _ in hashed], dtype=np.uint64)
        pieces = np.array([piece for _, word in hashed for piece in word], dtype=np.uint64)
        piece_rows = np.repeat(rows, [len(word) for _, word in hashed])
        within = rows[1:] == rows[:-1]
        pairs = (singles[:-1] * _MIX[0] + singles[1:])[within] * _MIX[1] & _MASK
        total = _scattered(singles, rows, len(texts)) + _PIECE * _scattered(pieces, piece_rows, len(texts))
        total += _PAIR * _scattered(pairs, rows[1:][within], len(texts))
        return _normalised(total.astype(np.float32))


class Joined:
    """The word table for meaning and the hashes for wording, beside each other.

    Against the table alone: 3 to 4 points more of the task types right, and half as many foreign prompts taken for one
    of them, for twice the time.
    """

    def __init__(self, meaning: Embedder, wording: Embedder) -> None:
        self._parts = ((meaning, np.float32(_MEANING)), (wording, np.float32((1 - _MEANING**2) ** 0.5)))
        self.name = f"{meaning.name}+{wording.name}"
        self.dimensions = meaning.dimensions + wording.dimensions

    def embed(self, texts: Sequence[str]) -> Matrix:
        return _normalised(
            np.concatenate([part.embed(texts) * weight for part, weight in self._parts], axis=1)
        )


EMBEDDERS: Mapping[str, Callable[[], Embedder]] = {
    "joined": lambda: Joined(WordTable.load(), HashEmbedder()),
    "wordllama": WordTable.load,
    "hash": HashEmbedder,
}


def embedder(name: str = "auto") -> Embedder:
    """An embedder by its name in the table; ``auto`` is the best that is installed. Raises ConfigError."""
    if name == "auto":
        name = "joined" if installed() else "hash"
    if name not in EMBEDDERS:
        raise ConfigError(f"unknown embedder {name!r}", mend=f"use auto, {', '.join(EMBEDDERS)}")
    return EMBEDDERS[name]()


def installed() -> bool:
    """Whether the packages of the word table are there; without them ``auto`` means the weaker stand-in."""
    found = {
        found.metadata["Name"] for package in ("wordllama", "tokenizers") for found in _distributions(package)
    }
    return found == {"wordllama", "tokenizers"}


def _distributions(package: str) -> list[importlib.metadata.Distribution]:
    try:
        return [importlib.metadata.distribution(package)]
    except importlib.metadata.PackageNotFoundError:
        return []


def _packaged(ending: str) -> Path:
    """The one file of the installed wordllama package with that ending."""
    for package in _distributions("wordllama"):
        for file in package.files or []:
            path = Path(str(file.locate()))
            if path.name.endswith(ending) and path.is_file():
                return path
    raise ConfigError(f"no *{ending} of the package wordllama is installed", mend=_MEND)


def _read_table(path: Path) -> Matrix:
    """The one tensor of a safetensors file: eight bytes of header length, a JSON header, then the rows."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    [entry] = tensors.values()
    if entry["dtype"] != "F16" or len(entry["shape"]) != 2:
        raise ConfigError(
            f"{path.name} holds {entry['dtype']} of shape {entry['shape']}, not a table of F16", mend=_MEND
        )
    offset = 8 + length + int(entry["data_offsets"][0])
    stored = np.memmap(path, dtype="<f2", mode="r", offset=offset, shape=tuple(entry["shape"]))
    return np.asarray(stored, dtype=np.float32)  # twice the bytes, a third of the time of every later sum


def _normalised(rows: Matrix) -> Matrix:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    np.divide(rows, lengths, out=rows, where=lengths > 0)
    return rows


@lru_cache(maxsize=50_000)
def _hashed(word: str) -> tuple[int, tuple[int, ...]]:
    """A word's hash and its pieces' hashes, 32 bits each. Stable over processes, which Python's own are not."""
    framed = f"<{word[:_WORD_CHARS]}>"
    return crc32(word.encode()), tuple(
        crc32(f"#{framed[at : at + 3]}".encode()) for at in range(len(framed) - 2)
    )


def _scattered(hashes: Hashes, rows: Labels, count: int) -> Floats:
    """For each row the sum of its hashes' signs, each at its hash's place."""
    mixed = (hashes * _MIX[1] & _MASK) >> np.uint64(16)
    places = (
        rows * HashEmbedder.dimensions + (mixed >> np.uint64(1)).astype(np.intp) % HashEmbedder.dimensions
    )
    signs = 1.0 - 2.0 * (mixed & np.uint64(1)).astype(np.float64)
    size = count * HashEmbedder.dimensions
    sums = np.bincount(places, weights=signs, minlength=size).astype(np.float64)
    return sums.reshape(count, HashEmbedder.dimensions)
