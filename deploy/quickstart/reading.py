"""reading.py - reading a whole dataset through a client: with SHA-256 against the origin, or as fast as it goes from one
source at a time."""

import hashlib
import itertools
import os
import threading

import libforebay

CHUNK_BYTES = 16 << 20  # the unit of placement: one owner each
LARGE_BYTES = 4 << 20
THREADS = max(4, 2 * (os.cpu_count() or 1))


class Outcome:
    """Of one pass over the dataset."""

    def __init__(self):
        self.files = self.bytes_verified = self.failed = self.wrong = 0
        self.seconds, self.stats, self.texts = 0.0, {}, []

    def as_dict(self):
        return {"files": self.files, "read_bytes_verified": self.bytes_verified, "failed_reads": self.failed,
                "wrong_files": self.wrong, "seconds": round(self.seconds, 3), "failovers": self.stats["failovers"],
                "retries": self.stats["retries"], "first_failures": self.texts}


def verify(client, ns, sizes, digests, at_bytes=None, then=None):
    """Reads every file and compares. When `at_bytes` have been read, calls then() once, in the middle of it all."""
    out, lock = Outcome(), threading.Lock()
    total, pending = 0, [then] if then else []

    def one(key, buf):
        nonlocal total
        digest, offset, view = hashlib.sha256(), 0, memoryview(buf)
        try:
            while True:
                # One byte more than there should be: a file that is too long must show.
                want = min(len(buf), sizes[key] - offset + 1)
                n = client.pread_into(ns, key, buf, want, offset)
                digest.update(view[:n])
                offset += n
                if n < want or offset > sizes[key]:
                    break
        except libforebay.ForebayError as e:
            with lock:
                out.failed += 1
                out.texts = (out.texts + [str(e)])[:5]
            return
        now = None
        with lock:
            total += offset
            if pending and total >= at_bytes:
                now = pending.pop()
            if offset == sizes[key] and digest.digest() == digests[key]:
                out.files += 1
                out.bytes_verified += offset
            else:
                out.wrong += 1
                out.texts = (out.texts + ["%s: the bytes differ from the origin's" % key])[:5]
        if now:
            now()

    # Large files first: the threads then end together.
    out.seconds = libforebay.run_threads(THREADS, one, sorted(sizes, key=lambda k: (-sizes[k], k)))
    out.stats = client.stats()
    return out


def chunks_by_owner(client, ns, sizes, limit_bytes):
    """{peer: [(key, offset, length)]}: chunks, at most limit_bytes for each peer; of large files if there are many."""
    out, held = {}, {}
    large = sum(size for size in sizes.values() if size >= LARGE_BYTES)
    least = LARGE_BYTES if large >= 32 * CHUNK_BYTES else 1  # with fewer chunks some peer may own none
    for key in sorted(sizes):
        for offset in range(0, sizes[key], CHUNK_BYTES):
            length = min(CHUNK_BYTES, sizes[key] - offset)
            if length < least:
                continue
            owner = client.owner(ns, key, offset)
            if held.get(owner, 0) + length <= limit_bytes:
                held[owner] = held.get(owner, 0) + length
                out.setdefault(owner, []).append((key, offset, length))
    return out


def read_chunks(client, ns, chunks):
    """Reads the chunks and forgets them; returns (bytes, seconds)."""

    def one(chunk, buf):
        key, offset, length = chunk
        for at in range(0, length, len(buf)):
            client.pread_into(ns, key, buf, min(len(buf), length - at), offset + at)

    return sum(c[2] for c in chunks), libforebay.run_threads(THREADS, one, chunks)


def interleave(lists, limit_bytes):
    """Chunks of several lists in turn, at most limit_bytes."""
    out, held = [], 0
    for chunk in itertools.chain.from_iterable(itertools.zip_longest(*lists)):
        if chunk and held + chunk[2] <= limit_bytes:
            out.append(chunk)
            held += chunk[2]
    return out
