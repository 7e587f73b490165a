"""dataset.py - a training dataset made of files that any machine has, and the SHA-256 of everything in a dataset.

The made one has two folders. shards/ holds tar files in WebDataset form: a sample is a run of members with one key,
KEY.EXT (a real file from below SOURCES), KEY.json (where it comes from) and KEY.cls (a class number). small/ holds some
thousand files as they were found.
"""

import concurrent.futures
import hashlib
import io
import json
import os
import stat
import tarfile

SOURCES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include", "/usr/sbin")
SHARD_BYTES = 96 << 20
SHARDS_BYTES = (1 << 30) + (32 << 20)
SMALL_FILES = 3000
SMALL_MAX = 64 << 10
SAMPLE_MAX = 16 << 20
KEY_MAX = 1024


def found_files():
    """Regular files below SOURCES, in a fixed order, each once, none empty."""
    for source in SOURCES:
        for folder, folders, names in os.walk(source):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                try:
                    st = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISREG(st.st_mode) and st.st_size > 0:
                    yield path, st.st_size


def read_found(path):
    """The file's bytes, or None when it cannot be had (unreadable, or gone since)."""
    try:
        with open(path, "rb") as f:
            return f.read(SAMPLE_MAX)
    except OSError:
        return None


def add_member(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 1700000000, 0o644
    tar.addfile(info, io.BytesIO(data))


def make_shards(folder, files):
    """Fills shards until they hold SHARDS_BYTES; goes round the list again where the machine has less."""
    os.makedirs(folder)
    key = shard = total = 0
    while total < SHARDS_BYTES:
        path = os.path.join(folder, "shard-%06d.tar" % shard)
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            while tar.offset < SHARD_BYTES and total + tar.offset < SHARDS_BYTES:
                source, _ = files[key % len(files)]
                data = read_found(source)
                if data is None:
                    files.pop(key % len(files))
                    continue
                ext = os.path.splitext(source)[1].lstrip(".").lower()
                ext = ext if ext.isalnum() and len(ext) <= 8 and ext not in ("json", "cls") else "bin"
                add_member(tar, "%09d.%s" % (key, ext), data)
                add_member(tar, "%09d.json" % key, json.dumps({"source": source, "bytes": len(data)}).encode())
                add_member(tar, "%09d.cls" % key, b"%d" % (key % 1000))
                key += 1
        total += os.path.getsize(path)
        shard += 1


def make_small(folder, files):
    made = 0
    for source, size in files:
        if made == SMALL_FILES:
            return
        data = read_found(source) if size <= SMALL_MAX else None
        if data is None:
            continue
        place = os.path.join(folder, "%03d" % (made // 100))
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "%06d-%s" % (made, os.path.basename(source)[-80:])), "wb") as f:
            f.write(data)
        made += 1


def make(folder):
    """Writes the dataset below `folder`."""
    files = list(found_files())
    if not files:
        raise RuntimeError("no readable files below " + ", ".join(SOURCES))
    # The big first files of a machine are alike (shared libraries): step through the list so that each shard is mixed.
    stride = 7919
    while len(files) % stride == 0:
        stride += 2
    mixed = [files[i * stride % len(files)] for i in range(len(files))]
    make_small(os.path.join(folder, "small"), mixed)
    make_shards(os.path.join(folder, "shards"), mixed)


def listing(folder):
    """{key: size} of the regular files below a directory whose names can be keys: UTF-8, at most KEY_MAX bytes."""
    out = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            key = os.path.relpath(path, folder)
            try:
                fits = len(key.encode()) <= KEY_MAX
            except UnicodeEncodeError:
                continue
            st = os.lstat(path)
            if fits and stat.S_ISREG(st.st_mode):
                out[key] = st.st_size
    return out


def hashes(folder, keys, threads):
    """{key: SHA-256} as the origin has them."""

    def one(key):
        h = hashlib.sha256()
        with open(os.path.join(folder, key), "rb", buffering=0) as f:
            while piece := f.read(4 << 20):
                h.update(piece)
        return key, h.digest()

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return dict(pool.map(one, keys))
