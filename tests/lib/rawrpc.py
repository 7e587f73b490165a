"""rawrpc.py - calls as a foreign gRPC client makes them: python3-grpcio, and messages put together by hand, so that a test
can send what libforebay never would.

    with Raw(cluster.peers[0].address) as raw:
        reply = raw.call("Cache/Get", {1: "demo", 2: "a\\0b", 4: 10})          # {field number: value}
        assert reply.status == "INVALID_ARGUMENT" and reply.code == 5006

Values: int (varint), str or bytes or a dict (length-delimited), Fixed64, Fixed32; a list repeats the field.
"""

import os
import queue
import struct

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # the tests start processes all the time
import grpc  # noqa: E402

import cluster as lib  # noqa: E402


class Fixed64(int):
    pass


class Fixed32(int):
    pass


def _varint(n):
    out = b""
    while n > 0x7f:
        out += bytes([n & 0x7f | 0x80])
        n >>= 7
    return out + bytes([n])


def encode(fields):
    out = b""
    for number, values in fields.items():
        for v in values if isinstance(values, list) else [values]:
            if isinstance(v, Fixed64):
                out += _varint(number << 3 | 1) + struct.pack("<Q", v)
            elif isinstance(v, Fixed32):
                out += _varint(number << 3 | 5) + struct.pack("<I", v)
            elif isinstance(v, int):
                out += _varint(number << 3) + _varint(v)
            else:
                v = encode(v) if isinstance(v, dict) else v.encode() if isinstance(v, str) else v
                out += _varint(number << 3 | 2) + _varint(len(v)) + v
    return out


def decode(data):
    """{field number: [values]}; numbers as they are, everything else as bytes."""
    def varint(at):
        n = shift = 0
        while True:
            n |= (data[at] & 0x7f) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 0x80:
                return n, at

    out, at = {}, 0
    while at < len(data):
        tag, at = varint(at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at:at + size], "little"), at + size
        else:
            size, at = varint(at)
            value, at = data[at:at + size], at + size
        out.setdefault(tag >> 3, []).append(value)
    return out


class Begun:
    """A stream that was begun and stays open: its call holds what the peer gave it until cancel()."""

    def __init__(self, f, first):
        self._more = queue.Queue()
        self._more.put(first)
        self._call = f.future(iter(self._more.get, None))

    def cancel(self):
        self._call.cancel()
        self._more.put(None)


class Reply:
    """status: gRPC's name ("OK", "NOT_FOUND"); code: forebay-code or 0; text; fields or, for streams, messages."""

    def __init__(self, status, code, text, messages):
        self.status, self.code, self.text = status, code, text
        self.messages = [decode(m) for m in messages]

    @property
    def fields(self):
        assert len(self.messages) == 1, self
        return self.messages[0]

    def __repr__(self):
        return "%s %d %r %.200r" % (self.status, self.code, self.text, self.messages)


class Raw:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=[
            ("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1)])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def begin(self, method, first):
        """Sends the first message of a client stream, and no more."""
        return Begun(self.channel.stream_unary("/forebay.v1." + method), encode(first))

    def call(self, method, *requests, replies="one", timeout_s=20):
        """method: "Cache/Get" of forebay.v1, or a full "/service/Method". Requests: dicts or raw bytes; several make a stream.
        replies: "one", or "stream"."""
        path = method if method[0] == "/" else "/forebay.v1." + method
        packed = [r if isinstance(r, bytes) else encode(r) for r in requests]
        kind = ("unary" if len(packed) == 1 and method != "Cache/Put" else "stream") + "_" + (
            "unary" if replies == "one" else "stream")
        f = getattr(self.channel, kind)(path)
        request = packed[0] if kind.startswith("unary") else iter(packed)
        messages = []
        try:
            if replies == "one":
                message, call = f.with_call(request, timeout=timeout_s * lib.SLOWNESS)
                messages = [message]
            else:
                call = f(request, timeout=timeout_s * lib.SLOWNESS)
                for message in call:
                    messages.append(message)
            error = call
        except grpc.RpcError as e:
            error = e
        metadata = dict(error.trailing_metadata() or ())
        return Reply(error.code().name, int(metadata.get("forebay-code", 0)), error.details(), messages)
