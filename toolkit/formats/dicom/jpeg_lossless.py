"""JPEG Lossless (ITU-T T.81, process 14), the compression of most archives of radiographs, decoded with numpy alone.

No decoder that may be depended on is safe to be given files from outside: GDCM ends the process on some that are damaged
and decodes others to noise without a word, and pylibjpeg-libjpeg is GPL. One grey component of 2 to 16 bits, any of the
seven predictors, point transform and restart intervals. About a second for a million pixels.

Contract. `decode` returns every pixel or raises ValueError: codes that are none, data that end early or go on.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field

import numpy as np

__all__ = ["decode"]

SOF3, DHT, SOI, EOI, SOS, DRI = 0xC3, 0xC4, 0xD8, 0xD9, 0xDA, 0xDD
CHUNK = 2**20
"""Bytes or samples that are worked on at once, to bound the memory."""

SPARE = 24
"""Bits that may follow the last code of an interval: padding to a byte, and bytes that some encoders add."""


@dataclass
class _Frame:
    """What the segments before the data say. codes: (2^16,) by the next 16 bits, 32 times a code's length plus its value."""

    rows: int = 0
    columns: int = 0
    precision: int = 0
    restart: int = 0
    tables: dict[int, np.ndarray] = field(default_factory=dict)
    codes: np.ndarray | None = None
    predictor: int = 0
    shift: int = 0


def decode(stream: bytes) -> np.ndarray:
    """(rows, columns) uint16 of a codestream. Raises ValueError for what is damaged or of another kind."""
    try:
        frame, start = _headers(stream)
        intervals = _intervals(stream, start)
    except (IndexError, struct.error):
        raise ValueError("the stream ends early") from None
    if frame.codes is None or not frame.rows or not frame.columns:
        raise ValueError("no frame")
    count = frame.rows * frame.columns
    if count > 8 * len(stream):  # a sample has at least one bit: refused before anything is allocated
        raise ValueError("more samples than bits")
    each = frame.restart or count
    if each % frame.columns or len(intervals) != -(-count // each):
        raise ValueError("restart intervals do not fit the frame")
    parts = []
    for number, content in enumerate(intervals):
        differences = _differences(content, frame.codes, min(each, count - number * each))
        parts.append(_predicted(differences.reshape(-1, frame.columns), frame))
    return (np.concatenate(parts) << frame.shift).astype(np.uint16)


def _headers(stream: bytes) -> tuple[_Frame, int]:
    """The frame, and where its data begin (B.2)."""
    if stream[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    frame, at = _Frame(), 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        size = struct.unpack(">H", stream[at + 2 : at + 4])[0]
        segment = stream[at + 4 : at + 2 + size]
        at += 2 + size
        if size < 2 or len(segment) != size - 2:
            raise ValueError("a segment ends early")
        if marker == SOF3:
            frame.precision, frame.rows, frame.columns, components = struct.unpack(">BHHB", segment[:6])
            if components != 1 or not 2 <= frame.precision <= 16:
                raise ValueError("not one grey component")
        elif 0xC0 <= marker <= 0xCF and marker not in (DHT, 0xC8, 0xCC):
            raise ValueError("not lossless")
        elif marker == DHT:
            frame.tables |= _tables(segment)
        elif marker == DRI:
            frame.restart = struct.unpack(">H", segment[:2])[0]
        elif marker == SOS:
            components, _, table, frame.predictor, _, shift = struct.unpack(">6B", segment[:6])
            frame.shift = shift & 15
            if components != 1 or not 1 <= frame.predictor <= 7 or frame.shift >= frame.precision:
                raise ValueError("not a lossless scan of one component")
            frame.codes = frame.tables.get(table >> 4)
            return frame, at
    raise ValueError("no scan")


def _tables(segment: bytes) -> dict[int, np.ndarray]:
    """Huffman tables by their number (B.2.4.2, C.2), each as _Frame.codes."""
    found, at = {}, 0
    while at + 17 <= len(segment):
        number, lengths = segment[at], segment[at + 1 : at + 17]
        values = segment[at + 17 : at + 17 + sum(lengths)]
        at += 17 + sum(lengths)
        if len(values) != sum(lengths) or any(v > 16 for v in values):
            raise ValueError("a table ends early")
        codes, filled, k = np.zeros(2**16, np.uint16), 0, 0
        for length, many in enumerate(lengths, 1):
            for value in values[k : k + many]:
                width = 1 << (16 - length)
                if filled + width > 2**16:
                    raise ValueError("a table has too many codes")
                codes[filled : filled + width] = length * 32 + value
                filled += width
            k += many
        found[number & 15] = codes
    return found


def _intervals(stream: bytes, start: int) -> list[bytes]:
    """The data between restart markers, without the bytes that are stuffed in after 0xFF."""
    found, at = [], start
    while True:
        end = stream.find(b"\xff", at)
        while end >= 0 and stream[end + 1 : end + 2] == b"\0":
            end = stream.find(b"\xff", end + 2)
        if end < 0 or end + 1 >= len(stream):
            raise ValueError("no end")
        found.append(stream[at:end].replace(b"\xff\0", b"\xff"))
        while stream[end + 1 : end + 2] == b"\xff":  # fill bytes
            end += 1
        if not 0xD0 <= stream[end + 1] <= 0xD7:
            if stream[end + 1] != EOI:
                raise ValueError("a marker inside the data")
            return found
        at = end + 2


def _differences(content: bytes, codes: np.ndarray, count: int) -> np.ndarray:
    """`count` differences of an interval (F.2.2.1, H.2): a Huffman code for the number of bits, then the bits.

    Where a code begins is known only when the one before it is read. So the length of a code and its bits is looked up at
    every bit of the data at once, and all that is left to do one after the other is to add these up.
    """
    data = np.concatenate([np.frombuffer(content, np.uint8), np.zeros(8, np.uint8)])
    size = codes & 31
    lengths = np.where(codes == 0, 0, (codes >> 5) + np.where(size == 16, 0, size)).astype(np.uint8)
    steps = np.empty(8 * len(content), np.uint8)
    for start in range(0, len(content), CHUNK):
        near = data[start : min(start + CHUNK, len(content)) + 2].astype(np.uint32)
        three = near[:-2] << 16 | near[1:-1] << 8 | near[2:]
        for bit in range(8):
            steps[8 * start + bit : 8 * (start + len(three)) : 8] = lengths[(three >> (8 - bit)) & 0xFFFF]
    places, at, walk = array("q", bytes(8 * count)), 0, steps.tobytes()
    try:
        for k in range(count):
            places[k] = at
            at += walk[at]
    except IndexError:
        raise ValueError("the data end early") from None
    if not 0 <= len(walk) - at < SPARE:
        raise ValueError("the data end early, or go on")
    found = np.frombuffer(places, np.int64)
    return np.concatenate([_values(data, found[k : k + CHUNK], codes) for k in range(0, count, CHUNK)])


def _values(data: np.ndarray, places: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The differences whose codes begin at these bits."""
    byte, bit = places >> 3, places & 7
    window = np.zeros(len(places), np.int64)
    for k in range(5):  # 7 bits, a code of 16 and 15 bits of value
        window = window << 8 | data[byte + k]
    code = codes[(window >> (24 - bit)) & 0xFFFF].astype(np.int64)
    if not code.all():
        raise ValueError("a code that is none")
    size = code & 31
    bits = (window >> np.maximum(40 - bit - (code >> 5) - size, 0)) & ((1 << size) - 1)
    signed = np.where(bits >> np.maximum(size - 1, 0) > 0, bits, bits - (1 << size) + 1)
    return np.where(size == 16, 32768, signed)


def _predicted(differences: np.ndarray, frame: _Frame) -> np.ndarray:
    """(rows, columns) samples of an interval from its differences, modulo 2^16 (H.1.2.1)."""
    differences[0, 0] += 1 << (frame.precision - frame.shift - 1)
    first = np.cumsum(differences[:1], 1)  # the first row is predicted from the left, the first column from above
    if frame.predictor == 1:
        differences[:, 0] = np.cumsum(differences[:, 0])
        return np.cumsum(differences, 1) & 0xFFFF
    if frame.predictor == 2:
        return np.cumsum(np.concatenate([first, differences[1:]]), 0) & 0xFFFF
    rule = {
        3: lambda left, above, corner: corner,
        4: lambda left, above, corner: left + above - corner,
        5: lambda left, above, corner: left + ((above - corner) >> 1),
        6: lambda left, above, corner: above + ((left - corner) >> 1),
        7: lambda left, above, corner: (left + above) >> 1,
    }[frame.predictor]
    before = (first[0] & 0xFFFF).tolist()
    out = [before]
    for row in differences[1:].tolist():
        line = [(before[0] + row[0]) & 0xFFFF]
        for x in range(1, len(row)):
            line.append((rule(line[-1], before[x], before[x - 1]) + row[x]) & 0xFFFF)
        out.append(line)
        before = line
    return np.array(out, np.int64)
