"""libforebay.py - as much of <forebay/forebay.h> as the quickstart needs, by ctypes. A call releases the interpreter
while it waits, so reading with threads reads in parallel."""

import ctypes
import threading
import time

BUFFER_BYTES = 8 << 20


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("text", ctypes.c_char * 512)]


class Options(ctypes.Structure):
    _fields_ = [("peers", ctypes.c_char_p), ("config", ctypes.c_char_p), ("timeout_ms", ctypes.c_uint32),
                ("peer_timeout_ms", ctypes.c_uint32), ("retries", ctypes.c_uint32), ("parallel", ctypes.c_uint32),
                ("any_peer", ctypes.c_bool)]


class Stats(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("bytes_ram", "bytes_origin", "bytes_nvme", "bytes_forwarded",
                                                     "requests", "retries", "failovers", "errors", "crc_errors")]


class Location(ctypes.Structure):
    _fields_ = [("slot", ctypes.c_uint32), ("n_owners", ctypes.c_uint), ("owners", (ctypes.c_char * 64) * 8),
                ("addresses", (ctypes.c_char * 256) * 8)]


class ForebayError(Exception):
    pass


class Library:
    def __init__(self, path):
        so = self.so = ctypes.CDLL(path)
        so.fb_open.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(Options), ctypes.POINTER(Error)]
        so.fb_close.argtypes = [ctypes.POINTER(ctypes.c_void_p)]
        so.fb_close.restype = None
        so.fb_pread.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t,
                                ctypes.c_uint64, ctypes.POINTER(Error)]
        so.fb_pread.restype = ctypes.c_ssize_t
        so.fb_locate.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64,
                                 ctypes.POINTER(Location), ctypes.POINTER(Error)]
        so.fb_client_stats.argtypes = [ctypes.c_void_p, ctypes.POINTER(Stats)]
        so.fb_client_stats.restype = None


class Client:
    """One fb_client; any number of threads may use it."""

    def __init__(self, library, peers, any_peer=False):
        self.so, self.handle = library.so, ctypes.c_void_p()
        options, error = Options(peers=peers.encode(), any_peer=any_peer), Error()
        if self.so.fb_open(ctypes.byref(self.handle), ctypes.byref(options), ctypes.byref(error)) < 0:
            raise ForebayError("fb_open %s: %s" % (peers, error.text.decode("utf-8", "replace")))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.so.fb_close(ctypes.byref(self.handle))

    def pread_into(self, ns, key, buf, length, offset):
        error = Error()
        n = self.so.fb_pread(self.handle, ns.encode(), key.encode(), buf, length, offset,
                             ctypes.byref(error))
        if n < 0:
            raise ForebayError("%s at %d: %s" % (key, offset, error.text.decode("utf-8", "replace")))
        return n

    def owner(self, ns, key, offset):
        location, error = Location(), Error()
        if self.so.fb_locate(self.handle, ns.encode(), key.encode(), offset,
                             ctypes.byref(location), ctypes.byref(error)) < 0:
            raise ForebayError("locate %s: %s" % (key, error.text.decode("utf-8", "replace")))
        return location.owners[0].value.decode()

    def stats(self):
        s = Stats()
        self.so.fb_client_stats(self.handle, ctypes.byref(s))
        return {name: getattr(s, name) for name, _ in Stats._fields_}


def run_threads(threads, work, items):
    """Calls work(item, buffer) for all items from so many threads, each with a buffer of its own; returns the seconds it
    took. An exception in work, or a signal's here, ends the run and is raised when every thread has ended."""
    queue, lock, failure = iter(items), threading.Lock(), []

    def loop():
        buf = ctypes.create_string_buffer(BUFFER_BYTES)
        while not failure:
            with lock:
                item = next(queue, None)
            if item is None:
                return
            try:
                work(item, buf)
            except BaseException as e:  # pylint: disable=broad-except # handed over to the caller
                failure.append(e)

    start = time.monotonic()
    running = [threading.Thread(target=loop, daemon=True) for _ in range(threads)]
    for t in running:
        t.start()
    try:
        for t in running:
            t.join()
    except BaseException as e:
        failure.append(e)
        for t in running:
            t.join()
        raise
    if failure:
        raise failure[0]
    return time.monotonic() - start
