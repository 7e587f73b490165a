"""rawrpc.py - calls as a foreign gRPC client makes them: python3-grpcio, and messages put together by hand, so that a test
can send what libforebay never would.

    with Raw(cluster.peers[0].address) as raw:
        reply = raw.call("Cache/Get", {1: "demo", 2: "a\\0b", 4: 10})          # {field number: value}
        assert reply.status == "INVALID_ARGUMENT" and reply.code == 5006

Values: int (varint), str or bytes or a dict (length-delimited), Fixed64, Fixed32; a list repeats the field.
"""

import json
import os
import queue
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
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


class Reply:
    """status: gRPC's name ("OK", "NOT_FOUND"); code: forebay-code or 0; text; fields or, for streams, messages."""

    def __init__(self, status, code, text, messages):
        self.status, self.code, self.text = status, code, text
        self.messages = [decode(bytes.fromhex(m)) for m in messages]

    @property
    def fields(self):
        assert len(self.messages) == 1, self
        return self.messages[0]

    def __repr__(self):
        return "%s %d %r %.200r" % (self.status, self.code, self.text, self.messages)


class Raw:
    """A client in a process of its own: gRPC's threads and a test that starts processes all the time do not get along."""

    def __init__(self, address):
        self._proc = subprocess.Popen([sys.executable, os.path.abspath(__file__), address], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, preexec_fn=lib._die_with_parent)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._proc.communicate()

    def _ask(self, **task):
        self._proc.stdin.write(json.dumps(task).encode() + b"\n")
        self._proc.stdin.flush()
        return json.loads(self._proc.stdout.readline())

    def call(self, method, *requests, replies="one", timeout_s=20):
        """method: "Cache/Get" of forebay.v1, or a full "/service/Method". Requests: dicts or raw bytes; several make a stream.
        replies: "one", or "stream"."""
        packed = [r if isinstance(r, bytes) else encode(r) for r in requests]
        kind = ("unary" if len(packed) == 1 and method != "Cache/Put" else "stream") + "_" + (
            "unary" if replies == "one" else "stream")
        return Reply(**self._ask(do="call", path=method if method[0] == "/" else "/forebay.v1." + method, kind=kind,
                                 requests=[p.hex() for p in packed], timeout_s=timeout_s * lib.SLOWNESS))

    def begin(self, method, first):
        """Sends the first message of a client stream and leaves it so, until cancel_all()."""
        self._ask(do="begin", path="/forebay.v1." + method, first=encode(first).hex())

    def cancel_all(self):
        self._ask(do="cancel")


# ---- the process ------------------------------------------------------------------------------------------------------


def _call(channel, grpc, task):
    f = getattr(channel, task["kind"])(task["path"])
    packed = [bytes.fromhex(r) for r in task["requests"]]
    request = packed[0] if task["kind"].startswith("unary") else iter(packed)
    messages = []
    try:
        if task["kind"].endswith("unary"):
            message, end = f.with_call(request, timeout=task["timeout_s"])
            messages.append(message)
        else:
            end = f(request, timeout=task["timeout_s"])
            for message in end:
                messages.append(message)
    except grpc.RpcError as e:
        end = e
    metadata = dict(end.trailing_metadata() or ())
    return {"status": end.code().name, "code": int(metadata.get("forebay-code", 0)), "text": end.details(),
            "messages": [m.hex() for m in messages]}


def _serve(address):
    import grpc
    channel = grpc.insecure_channel(address, options=[
        ("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)])
    open_calls = []
    for line in sys.stdin:
        task, answer = json.loads(line), {}
        if task["do"] == "call":
            answer = _call(channel, grpc, task)
        elif task["do"] == "begin":
            more = queue.Queue()
            more.put(bytes.fromhex(task["first"]))
            open_calls.append((channel.stream_unary(task["path"]).future(iter(more.get, None)), more))
        else:
            for call, more in open_calls:
                call.cancel()
                more.put(None)
            open_calls.clear()
        print(json.dumps(answer), flush=True)
    channel.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
