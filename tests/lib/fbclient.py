"""fbclient.py - libforebay for tests: a thin ctypes binding, one method per call of <forebay/forebay.h>.

    with Client(cluster.addresses, peer_timeout_ms=500) as c:      # any number of threads may use one
        data = c.get("demo", "a/b.bin")                             # bytes
        piece = c.pread("demo", "a/b.bin", 4096, 1 << 20)
        with pytest.raises(Error) as e:
            c.get("demo", "missing")
        assert e.value.name == "ENOENT" and "missing" in e.value.text

ctypes lets go of the interpreter's lock during a call, so threads of a test meet inside the library.

The library is the one of the build folder under test, except for sanitizer builds: a sanitized library cannot be loaded
into a plain interpreter, so it is the release build's then (its daemons and its CLI are the sanitized ones).
"""

import ctypes
import os
from ctypes import POINTER, byref, c_bool, c_char, c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint, c_uint32, \
    c_uint64, c_void_p

import cluster as lib

LIBRARY = os.environ.get("FOREBAY_LIBRARY") or os.path.join(
    os.path.join(lib.REPO, "build") if lib.SANITIZED else lib.BUILD, "libforebay.so")
BATCH_MAX = 4 << 20


class _Error(ctypes.Structure):
    _fields_ = [("code", c_int), ("text", c_char * 512)]


class _Options(ctypes.Structure):
    _fields_ = [("peers", c_char_p), ("config", c_char_p), ("timeout_ms", c_uint32), ("peer_timeout_ms", c_uint32),
                ("retries", c_uint32), ("parallel", c_uint32), ("any_peer", c_bool)]


class Info(ctypes.Structure):
    _fields_ = [("size", c_uint64), ("mtime_ns", c_int64), ("etag", c_uint64), ("directory", c_bool)]


class _Range(ctypes.Structure):
    _fields_ = [("key", c_char_p), ("offset", c_uint64), ("buf", c_void_p), ("len", c_size_t), ("etag", c_uint64),
                ("result", c_ssize_t), ("info", Info)]


class _PutOptions(ctypes.Structure):
    _fields_ = [("overwrite", c_bool)]


class Ns(ctypes.Structure):
    _fields_ = [("name", c_char * 65), ("id", c_uint64), ("kind", c_int), ("origin", c_char * 4096),
                ("block_bytes", c_uint32), ("ack", c_int), ("attr_ttl_ms", c_uint32), ("version", c_char * 256),
                ("replicas", c_uint32), ("created_ns", c_int64), ("resident_bytes", c_uint64),
                ("resident_blocks", c_uint64)]


class Progress(ctypes.Structure):
    _fields_ = [("files_total", c_uint64), ("bytes_total", c_uint64), ("files_resident", c_uint64),
                ("bytes_resident", c_uint64), ("bytes_from_origin", c_uint64), ("files_failed", c_uint64),
                ("elapsed_ns", c_uint64), ("listed", c_bool), ("done", c_bool)]


class _PrestageOptions(ctypes.Structure):
    _fields_ = [("parallel", c_uint32), ("background", c_bool)]


class _Counter(ctypes.Structure):
    _fields_ = [("name", c_char * 48), ("value", c_uint64)]


class _Peer(ctypes.Structure):
    _fields_ = [("name", c_char * 64), ("address", c_char * 256), ("domain", c_char * 64), ("weight", c_uint32),
                ("reachable", c_bool), ("text", c_char * 256), ("version", c_char * 32), ("uptime_ns", c_uint64),
                ("epoch", c_uint64), ("ring_hash", c_uint64), ("ram_used_bytes", c_uint64),
                ("ram_max_bytes", c_uint64), ("connections", c_uint32), ("connections_max", c_uint32),
                ("draining", c_bool), ("clock_skew_ns", c_int64), ("round_trip_ns", c_int64),
                ("slots_owned", c_uint32), ("n_counters", c_size_t), ("counters", POINTER(_Counter))]


class _Cluster(ctypes.Structure):
    _fields_ = [("epoch", c_uint64), ("ring_hash", c_uint64), ("slots", c_uint32), ("n_peers", c_size_t),
                ("peers", POINTER(_Peer))]


class _Location(ctypes.Structure):
    _fields_ = [("slot", c_uint32), ("n_owners", c_uint), ("owners", (c_char * 64) * 8),
                ("addresses", (c_char * 256) * 8)]


class Stats(ctypes.Structure):
    _fields_ = [(name, c_uint64) for name in ("bytes_ram", "bytes_origin", "bytes_nvme", "bytes_forwarded", "requests",
                                              "retries", "failovers", "errors", "crc_errors")]


_LIST_FN = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, POINTER(Info))
_PRESTAGE_FN = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(Progress), c_char_p, c_char_p)
DATASET, DERIVED = 1, 2
ACK_RAM, ACK_NVME, ACK_ORIGIN = 1, 2, 3

_lib = None


def library():
    global _lib
    if _lib is None:
        if not os.path.exists(LIBRARY):
            raise lib.ClusterError("%s is not there: build it (cmake --preset release && cmake --build --preset release)"
                                   % LIBRARY)
        _lib = ctypes.CDLL(LIBRARY)
        err = POINTER(_Error)
        for name, result, args in (
                ("fb_error_name", c_char_p, [c_int]),
                ("fb_open", c_int, [POINTER(c_void_p), POINTER(_Options), err]),
                ("fb_close", None, [POINTER(c_void_p)]),
                ("fb_stat", c_int, [c_void_p, c_char_p, c_char_p, POINTER(Info), err]),
                ("fb_pread_version", c_ssize_t, [c_void_p, c_char_p, c_char_p, c_uint64, c_void_p, c_size_t, c_uint64,
                                                 POINTER(Info), err]),
                ("fb_get", c_int, [c_void_p, c_char_p, c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t), err]),
                ("fb_multi_get", c_int, [c_void_p, c_char_p, POINTER(_Range), c_size_t, err]),
                ("fb_put", c_int, [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t, POINTER(_PutOptions),
                                   POINTER(Info), err]),
                ("fb_list", c_int, [c_void_p, c_char_p, c_char_p, c_bool, c_uint64, _LIST_FN, c_void_p, err]),
                ("fb_invalidate", c_int, [c_void_p, c_char_p, c_char_p, POINTER(c_uint64), POINTER(c_uint64), err]),
                ("fb_ns_create", c_int, [c_void_p, POINTER(Ns), err]),
                ("fb_ns_show", c_int, [c_void_p, c_char_p, POINTER(Ns), err]),
                ("fb_ns_list", c_int, [c_void_p, POINTER(POINTER(Ns)), POINTER(c_size_t), err]),
                ("fb_ns_drop", c_int, [c_void_p, c_char_p, POINTER(c_uint64), err]),
                ("fb_prestage", c_int, [c_void_p, c_char_p, c_char_p, POINTER(_PrestageOptions), _PRESTAGE_FN,
                                        c_void_p, POINTER(Progress), err]),
                ("fb_cluster_status", c_int, [c_void_p, POINTER(POINTER(_Cluster)), err]),
                ("fb_cluster_free", None, [POINTER(POINTER(_Cluster))]),
                ("fb_locate", c_int, [c_void_p, c_char_p, c_char_p, c_uint64, POINTER(_Location), err]),
                ("fb_client_stats", None, [c_void_p, POINTER(Stats)])):
            f = getattr(_lib, name)
            f.restype, f.argtypes = result, args
        _lib.free = ctypes.CDLL(None).free
        _lib.free.argtypes = [c_void_p]
    return _lib


class Error(Exception):
    """A call that failed: .code (negative), .name ("ENOENT", "FB_ENONS"), .text."""

    def __init__(self, code, text):
        self.code, self.text = code, text
        self.name = library().fb_error_name(code).decode()
        super().__init__("%s: %s" % (self.name, text))


def _bytes(text):
    return text if text is None or isinstance(text, bytes) else text.encode()


class Client:
    """A client of the peers (list of addresses, or comma-separated)."""

    def __init__(self, peers=None, timeout_ms=0, peer_timeout_ms=0, retries=0, parallel=0, any_peer=False, config=None):
        self._c = c_void_p()
        if isinstance(peers, (list, tuple)):
            peers = ",".join(peers)
        options = _Options(_bytes(peers), _bytes(config), timeout_ms, peer_timeout_ms, retries, parallel, any_peer)
        self._call("fb_open", byref(self._c), byref(options))

    @staticmethod
    def _call(name, *args):
        err = _Error()
        r = getattr(library(), name)(*args, byref(err))
        if r < 0:
            if err.code != r or not err.text:
                raise AssertionError("%s returned %d, its error says %d %r" % (name, r, err.code, err.text))
            raise Error(r, err.text.decode("utf-8", "replace"))
        return r

    def close(self):
        library().fb_close(byref(self._c))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- objects ----

    def stat(self, ns, key):
        info = Info()
        self._call("fb_stat", self._c, _bytes(ns), _bytes(key), byref(info))
        return info

    def pread(self, ns, key, length, offset=0, etag=0):
        return self.pread_info(ns, key, length, offset, etag)[0]

    def pread_info(self, ns, key, length, offset=0, etag=0):
        """(bytes, Info of the version they are of)"""
        buf, info = ctypes.create_string_buffer(max(length, 1)), Info()
        n = self._call("fb_pread_version", self._c, _bytes(ns), _bytes(key), etag, buf, length, offset, byref(info))
        return ctypes.string_at(buf, n), info

    def get(self, ns, key, max_len=1 << 30):
        buf, n = c_void_p(), c_size_t()
        self._call("fb_get", self._c, _bytes(ns), _bytes(key), max_len, byref(buf), byref(n))
        try:
            return ctypes.string_at(buf, n.value)
        finally:
            library().free(buf)

    def multi_get(self, ns, items):
        """items: (key, offset, length). Returns a list of bytes or Error, in their order."""
        ranges, bufs = (_Range * len(items))(), []
        for r, (key, offset, length) in zip(ranges, items):
            bufs.append(ctypes.create_string_buffer(max(length, 1)))
            r.key, r.offset, r.len, r.buf = _bytes(key), offset, length, ctypes.addressof(bufs[-1])
        failed = self._call("fb_multi_get", self._c, _bytes(ns), ranges, len(items))
        out = [Error(r.result, "") if r.result < 0 else ctypes.string_at(b, r.result) for r, b in zip(ranges, bufs)]
        assert failed == sum(isinstance(o, Error) for o in out)
        return out

    def put(self, ns, key, data, overwrite=False):
        info, options = Info(), _PutOptions(overwrite)
        self._call("fb_put", self._c, _bytes(ns), _bytes(key), data, len(data), byref(options), byref(info))
        return info

    def list(self, ns, prefix="", recursive=True, limit=0):
        """[(key, size, is directory)]"""
        out = []

        def each(_arg, key, info):
            out.append((key.decode(), info.contents.size, info.contents.directory))
            return 0

        self._call("fb_list", self._c, _bytes(ns), _bytes(prefix), recursive, limit, _LIST_FN(each), None)
        return out

    def invalidate(self, ns, pattern=None):
        """(blocks, bytes)"""
        blocks, size = c_uint64(), c_uint64()
        self._call("fb_invalidate", self._c, _bytes(ns), _bytes(pattern), byref(blocks), byref(size))
        return blocks.value, size.value

    # ---- namespaces ----

    def ns_create(self, name, origin="", kind=DATASET, ack=0, attr_ttl_ms=0, block_bytes=0, version=""):
        ns = Ns(name=_bytes(name), origin=_bytes(origin), kind=kind, ack=ack, attr_ttl_ms=attr_ttl_ms,
                block_bytes=block_bytes, version=_bytes(version))
        self._call("fb_ns_create", self._c, byref(ns))
        return ns

    def ns_show(self, name):
        ns = Ns()
        self._call("fb_ns_show", self._c, _bytes(name), byref(ns))
        return ns

    def ns_list(self):
        """Names, in the order of the answer."""
        array, n = POINTER(Ns)(), c_size_t()
        self._call("fb_ns_list", self._c, byref(array), byref(n))
        try:
            return [array[i].name.decode() for i in range(n.value)]
        finally:
            library().free(array)

    def ns_drop(self, name):
        """Bytes that were freed."""
        freed = c_uint64()
        self._call("fb_ns_drop", self._c, _bytes(name), byref(freed))
        return freed.value

    # ---- prestage, cluster ----

    def prestage(self, ns, pattern=None, parallel=0, background=False, each=None):
        """(last Progress, [(key, text)] of failures). each(Progress) may return True to stop the run."""
        last, failures, options = Progress(), [], _PrestageOptions(parallel, background)

        def on_progress(_arg, progress, key, text):
            if key:
                failures.append((key.decode(), text.decode()))
            return 1 if each and each(progress.contents) else 0

        self._call("fb_prestage", self._c, _bytes(ns), _bytes(pattern), byref(options), _PRESTAGE_FN(on_progress), None,
                   byref(last))
        return last, failures

    def status(self):
        """{name: {reachable, text, ram_used_bytes, ..., counters: {}}} of every member."""
        cl = POINTER(_Cluster)()
        self._call("fb_cluster_status", self._c, byref(cl))
        try:
            out = {}
            for p in cl.contents.peers[:cl.contents.n_peers]:
                one = {f: getattr(p, f) for f, _ in _Peer._fields_ if f not in ("counters", "n_counters")}
                one = {k: v.decode() if isinstance(v, bytes) else v for k, v in one.items()}
                one["counters"] = {p.counters[i].name.decode(): p.counters[i].value for i in range(p.n_counters)}
                out[one["name"]] = one
            return out
        finally:
            library().fb_cluster_free(byref(cl))

    def counter(self, name):
        """Summed over the peers that answer."""
        return sum(p["counters"][name] for p in self.status().values() if p["reachable"])

    def locate(self, ns, key, offset=0):
        """Names of the owners, best first."""
        loc = _Location()
        self._call("fb_locate", self._c, _bytes(ns), _bytes(key), offset, byref(loc))
        return [loc.owners[i].value.decode() for i in range(loc.n_owners)]

    def stats(self):
        s = Stats()
        library().fb_client_stats(self._c, byref(s))
        return s
