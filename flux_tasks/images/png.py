"""PNG files as their chunks: what a decoder needs of one, without what it stumbles over.

Programs put whole workflows, editing histories and scanner profiles into a PNG. Pillow limits such chunks, checks all
their checksums, and looks for EXIF data after the pixels only once it has decoded them; so a good picture is refused,
or lies on its side. What people see needs few chunks: these are kept, and nothing is decoded here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = ["Png", "first_rows", "read_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LONGEST_PROFILE = 4 * 1024 * 1024
"""Largest colour profile that is unpacked, in bytes; those of cameras and printers have less than 3 MB."""

_PIECE = 65_536  # bytes unpacked at a time

_CLEAR_COLOUR = {0: 2, 2: 6}
"""Bytes of the colour that stands for transparency, by colour type: greys, colours."""


@dataclass(frozen=True, slots=True)
class Png:
    """A PNG for the decoder, and what was taken out of it.

    Attributes:
        data: the file, without the chunks that do not matter for the picture; its EXIF data stand before the pixels.
        profile: its colour profile, or None.
        depth: bits a sample, 1 to 16; 8 if the header is damaged.
        is_sequence: it is an animation of several frames.
    """

    data: bytes = field(repr=False)
    profile: bytes | None = field(default=None, repr=False)
    depth: int = 8
    is_sequence: bool = False


def read_png(data: bytes, *, text: bytes) -> Png:
    """Return ``data``, which begin as a PNG, as the decoder needs them.

    Args:
        text: the keyword of the only text chunk that is kept.
    """
    view = memoryview(data)
    before: list[bytes | memoryview] = []
    pixels: list[memoryview] = []
    kind, profile, is_sequence, is_same, end = b"", None, False, True, len(_SIGNATURE)
    for kind, start, end in _chunks(data):
        if not kind[0] & 0x20:  # critical: as it is, checksum included
            (pixels if pixels or kind == b"IDAT" else before).append(view[start:end])
            continue
        content = data[start + 8 : end - 4]
        is_kept = (
            kind == b"eXIf"
            or (kind == b"tRNS" and len(content) >= _CLEAR_COLOUR.get(data[25], 1))
            or (kind == b"tEXt" and content.startswith(text + b"\0"))
        )
        if is_kept:
            before.append(_chunk(kind, content))
        is_same = is_same and is_kept and not pixels and before[-1] == data[start:end]
        if kind == b"iCCP" and not pixels:
            profile = profile or _profile(content)
        elif kind == b"acTL":
            is_sequence = len(content) >= 4 and 1 < int.from_bytes(content[:4], "big") < 0x80000000
    if end < len(data) and kind != b"IEND":
        pixels.append(view[end:])  # cut short or damaged: the decoder says so
    whole = data if is_same else b"".join((_SIGNATURE, *before, *pixels))
    return Png(whole, profile, data[24] if data[12:16] == b"IHDR" and len(data) > 24 else 8, is_sequence)


def first_rows(data: bytes, rows: int) -> bytes | None:
    """Return a PNG of the first ``rows`` rows of one. The other rows are neither copied nor unpacked.

    None where ``data`` are no PNG of RGB or RGBA with 8 bits, an interlaced one, whose first rows do not come first, or
    one whose first rows are damaged.
    """
    depth, colour, interlaced = data[24:25], data[25:26], data[28:29]
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or depth != b"\x08" or colour not in (b"\2", b"\6"):
        return None
    height = min(rows, int.from_bytes(data[20:24], "big"))
    size = height * (1 + int.from_bytes(data[16:20], "big") * (3 if colour == b"\2" else 4))
    pixels = [(start, end) for kind, start, end in _chunks(data) if kind == b"IDAT"]
    unpacked = _unpacked(data, pixels, size)
    if interlaced != b"\0" or len(unpacked) < size:
        return None
    header = _chunk(b"IHDR", data[16:20] + height.to_bytes(4, "big") + data[24:29])
    packed = _chunk(b"IDAT", zlib.compress(unpacked, 0))
    return b"".join((_SIGNATURE, header, data[33 : pixels[0][0]], packed, _chunk(b"IEND", b"")))


def _unpacked(data: bytes, pixels: Iterable[tuple[int, int]], size: int) -> bytes:
    """Return the first ``size`` bytes of what the pixel chunks hold, or as many as can be unpacked."""
    unpacker, found = zlib.decompressobj(), bytearray()
    for begin, end in pixels:
        for at in range(begin + 8, end - 4, _PIECE):
            try:
                found += unpacker.decompress(data[at : min(at + _PIECE, end - 4)], size - len(found))
            except zlib.error:
                return bytes(found)
            if len(found) >= size:
                return bytes(found)
    return bytes(found)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of each whole chunk, up to the one that ends the picture."""
    position = len(_SIGNATURE)
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if end > len(data) or not kind.isalpha():
            return
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _profile(content: bytes) -> bytes | None:
    """Return the profile that an iCCP chunk has, unpacked; None if it is damaged or too long."""
    _, _, packed = content.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], _LONGEST_PROFILE)
    except zlib.error:
        return None
    return profile if packed[:1] == b"\0" and profile and not unpacker.unconsumed_tail else None
