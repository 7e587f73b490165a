#!/usr/bin/env python3
"""Answers hash.json and ring.json a second time, with code that shares nothing with Forebay's own.

Written from docs/placement.md, taking the rule literally: all points of all peers, sorted once, offered pass after pass.
Slow and plain on purpose. Wants Python 3.9 and XXH3-128, from the xxhash package or else from libxxhash.so.0.

    tests/golden/check_ring.py        prints one line per case, exit status 1 if any answer differs
"""
import ctypes
import json
import os
import struct
import sys

MASK64 = (1 << 64) - 1
RANKS = 3


def find_xxh3():
    """Returns a function bytes -> (hi, lo)."""
    try:
        import xxhash
    except ImportError:
        class Hash128(ctypes.Structure):
            _fields_ = [("lo", ctypes.c_uint64), ("hi", ctypes.c_uint64)]

        lib = ctypes.CDLL("libxxhash.so.0")
        lib.XXH3_128bits.restype = Hash128
        lib.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

        def hash128(data):
            h = lib.XXH3_128bits(data, len(data))
            return h.hi, h.lo
        return hash128

    def hash128(data):
        h = xxhash.xxh3_128_intdigest(data)
        return h >> 64, h & MASK64
    return hash128


xxh3 = find_xxh3()


def hexadecimal(h):
    return "%016x%016x" % h


def mix64(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK64
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK64
    return x ^ x >> 31


def log2_q48(m):
    """Step 3 of the page: integer part from the length, 48 bits by squaring."""
    whole = m.bit_length() - 1
    x = m << (63 - whole)
    log = whole
    for _ in range(48):
        x = x * x >> 63
        log *= 2
        if x >> 64:
            x >>= 1
            log += 1
    return log


def points_of(index, member, bits, reach):
    """All (distance, tie, peer, slot) of one peer."""
    slots = 1 << bits
    hi, lo = xxh3(member["name"].encode())
    rounds = []
    for i in range(4):
        z = mix64((hi + (i + 1) * 0x9E3779B97F4A7C15) & MASK64)
        rounds.append((z >> 32 | 1, z & 0xFFFFFFFF))
    half = (bits + 1) // 2
    for k in range(slots):
        slot = k
        for odd, add in rounds:
            slot = (slot * odd + add) % slots
            slot ^= slot >> half
        yield (reach[k] << 10) // member["weight"], mix64((lo + slot) & MASK64), index, slot


def place(members, slots):
    """members sorted by name -> owners[rank][slot]."""
    bits = slots.bit_length() - 1
    total = sum(m["weight"] for m in members)
    names = [m["domain"] or ("alone", m["name"]) for m in members]
    reach = [((bits + 1) << 48) - log2_q48(2 * (slots - k) - 1) for k in range(slots)]
    points = sorted(p for i, m in enumerate(members) for p in points_of(i, m, bits, reach))
    owners = []
    for rank in range(min(RANKS, len(members))):
        group = names if len(set(names)) > rank else range(len(members))
        cap = [max(-(-slots * m["weight"] // total), slots * m["weight"] * 11 // (total * 10)) for m in members]
        load = [0] * len(members)
        row = [None] * slots
        while None in row:
            for _, _, peer, slot in points:
                if row[slot] is not None or load[peer] >= cap[peer]:
                    continue
                if any(group[earlier[slot]] == group[peer] for earlier in owners):
                    continue
                row[slot] = peer
                load[peer] += 1
            cap = [2 * c for c in cap]
        owners.append(row)
    return owners


def ring_hash(members, slots):
    def text(s):
        return bytes([len(s.encode())]) + s.encode()

    data = struct.pack("<III", 1, slots, len(members))
    for m in members:
        data += text(m["name"]) + text(m["address"]) + struct.pack("<I", m["weight"]) + text(m["domain"])
    return xxh3(data)


def check_chunk(case):
    version, key = case["version"].encode(), case["key"].encode()
    data = struct.pack("<QQH", int(case["namespace"], 16), case["chunk"], len(version)) + version + key
    return ["hash"] if hexadecimal(xxh3(data)) != case["hash"] else []


def check_ring(case):
    wrong = []
    members = sorted(case["members"], key=lambda m: m["name"].encode())
    if hexadecimal(ring_hash(members, case["slots"])) != case["hash"]:
        wrong.append("hash")
    owners = place(members, case["slots"])
    for slot, expected in case["owners"].items():
        if [row[int(slot)] for row in owners] != expected:
            wrong.append("owners of slot " + slot)
    table = b"".join(struct.pack("<%dH" % len(row), *row) for row in owners)
    if hexadecimal(xxh3(table)) != case["table"]:
        wrong.append("table")
    return wrong


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    failures = 0
    for name, part, check, title in (("hash.json", "chunks", check_chunk, "hash"),
                                     ("ring.json", "rings", check_ring, "what")):
        with open(os.path.join(here, name), encoding="utf-8") as f:
            golden = json.load(f)
        if golden["format"] != 1 or not golden[part]:
            sys.exit(name + ": not a file of format 1 with cases in it")
        for case in golden[part]:
            wrong = check(case)
            failures += bool(wrong)
            print("%s %s: %s" % ("DIFFERS" if wrong else "ok", name, case[title]), *wrong[:5], sep=" ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
