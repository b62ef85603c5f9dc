"""The members of the loyalty programme: GUIDs in an array of millions, looked up by the thousand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from treazure_pipeline.sandbox.points import Indices

_GUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_HEX_DIGITS = 32
UNKNOWN = -1
"""Index of a well-formed GUID that is no member."""
BROKEN = -2
"""Index of a text that is no GUID."""


def is_guid(text: str) -> bool:
    """Whether the text is a GUID with hyphens, in either case."""
    return _GUID.fullmatch(text) is not None


class Members:
    """GUIDs by index, and indices by GUID. A member is known by its index everywhere else."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        """Draw `count` random GUIDs (version 4)."""
        self._bytes: npt.NDArray[np.uint8] = _random_guids(count, rng)
        self._index()

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, guids: Sequence[str]) -> Indices:
        """Append members that are not there yet and return the indices of all the given ones."""
        found = self.find(guids).tolist()
        unknown = dict.fromkeys(guid.lower() for guid, index in zip(guids, found, strict=True) if index == UNKNOWN)
        if unknown:
            raw = bytes.fromhex("".join(unknown).replace("-", ""))
            self._bytes = np.concatenate([self._bytes, np.frombuffer(raw, np.uint8).reshape(-1, 16)])
            self._index()
        return self.find(guids)

    def add_random(self, count: int, rng: np.random.Generator) -> Indices:
        """Append `count` members with random GUIDs and return their indices."""
        first = len(self)
        self._bytes = np.concatenate([self._bytes, _random_guids(count, rng)])
        self._index()
        return np.arange(first, len(self), dtype=np.int64)

    def find(self, guids: Sequence[str]) -> Indices:
        """Index of each GUID, `UNKNOWN` for no member, `BROKEN` for no GUID."""
        try:
            joined = bytes.fromhex("".join(guids).replace("-", ""))
        except ValueError:
            joined = b""
        if len(joined) != 16 * len(guids) or not all(map(_GUID.fullmatch, guids)):
            return np.array([self.find([guid])[0] if is_guid(guid) else BROKEN for guid in guids], np.int64)
        halves = np.frombuffer(joined, ">u8").astype(np.uint64).reshape(-1, 2)
        if len(self) == 0:
            return np.full(len(guids), UNKNOWN, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, halves[:, 0]), len(self) - 1)
        found = self._order[place]
        same = (self._sorted[place] == halves[:, 0]) & (self._low(found) == halves[:, 1])
        return np.where(same, found, UNKNOWN)

    def texts(self, indices: Indices) -> list[str]:
        """The GUIDs of these members, in lower case."""
        digits = self._bytes[indices].tobytes().hex()
        return [
            f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}"
            for d in (digits[at : at + _HEX_DIGITS] for at in range(0, len(digits), _HEX_DIGITS))
        ]

    def text(self, index: int) -> str:
        """The GUID of one member, in lower case."""
        return self.texts(np.array([index]))[0]

    def _low(self, indices: Indices) -> npt.NDArray[np.uint64]:
        return np.ascontiguousarray(self._bytes[indices, 8:]).view(">u8").reshape(-1).astype(np.uint64)

    def _index(self) -> None:
        high = np.ascontiguousarray(self._bytes[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
        self._order: Indices = np.argsort(high).astype(np.int64)
        self._sorted = high[self._order]


def _random_guids(count: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    raw = rng.integers(0, 256, size=(count, 16), dtype=np.uint8)
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x40
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    return raw
