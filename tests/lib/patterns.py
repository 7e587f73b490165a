"""patterns.py - contents that say which version they are of, at every place.

Version v of size n is a row of cells of 4 KiB; each begins with (v, cell number) and goes on with bytes drawn from v. So a
mix of two versions, a shifted block, or padding is told from every version there ever was, and a reader needs no list of
what was written.
"""

import functools
import hashlib
import struct

CELL = 4096
_HEAD = struct.Struct("<QQ")


@functools.lru_cache(maxsize=64)
def _body(version):
    return hashlib.shake_128(b"forebay %d" % version).digest(CELL - _HEAD.size)


def make(version, size):
    body = _body(version)
    cells = b"".join(_HEAD.pack(version, i) + body for i in range((size + CELL - 1) // CELL))
    return cells[:size]


def version_of(data, offset=0):
    """The one version that all of `data` (read at `offset`, a multiple of CELL) is of; None for no bytes, a mix, or rubbish."""
    versions = cells_of(data, offset)
    return versions[0] if versions and len(set(versions)) == 1 else None


def cells_of(data, offset=0):
    """The version of every cell; -1 for one that is of none."""
    out = []
    for at in range(0, len(data), CELL):
        cell = data[at:at + CELL]
        if len(cell) < _HEAD.size:  # a cut cell's head: take it for its neighbour's if it may be
            expected = (_HEAD.pack(out[-1], (offset + at) // CELL) if out else b"")
            out.append(out[-1] if expected[:len(cell)] == cell and out else -1)
            continue
        version, number = _HEAD.unpack_from(cell)
        good = number == (offset + at) // CELL and cell[_HEAD.size:] == _body(version)[:len(cell) - _HEAD.size]
        out.append(version if good else -1)
    return out
