#!/usr/bin/python3
"""includes.py - the dependency rule of docs/ARCHITECTURE.md, checked by reading every #include.

A room includes itself and the rooms it is allowed below; each third-party header belongs to one file or one folder; and
the faces (CLI, mount, Python, deploy) see forebay.h alone. Prints FILE:LINE and a sentence for each include that breaks
the rule, and exits 1 if there is any. `--self-test` plants every kind of violation in a scratch tree and exits 1 unless
each is found and a clean tree passes.

usage: includes.py [ROOT] | includes.py --self-test
"""

import fnmatch
import os
import re
import sys
import tempfile

PUBLIC = "client/include/forebay"

# A room and the rooms whose headers it may include besides its own. A file's room is the longest prefix that fits.
ROOMS = {
    "common": [],
    "proto": ["common"],
    "server/tier": ["common"],
    "server/origin": ["common"],
    "server/member": ["common"],
    # A peer is a client of its peers: the one allowed step across the two sides.
    "server/service": ["common", "proto", "server/tier", "server/origin", "server/member", "client/lib"],
    "server/net": ["common", "proto", "server/tier", "server/origin", "server/member", "server/service"],
    "server": ["common", "proto", "server/tier", "server/origin", "server/member", "server/service", "server/net"],
    PUBLIC: [],
    "client/lib": ["common", "proto", PUBLIC],
    "client/cli": [PUBLIC],
    "client/examples": [PUBLIC],
    "client/fuse": [PUBLIC],
    "client/python": [PUBLIC],
    "deploy": [PUBLIC],
}

# Third-party headers and the files that may include them.
API_MESSAGES = ["proto/*", "client/lib/*", "server/service/*", "server/net/*"]
THIRD_PARTY = [
    ("*.pb-c.h", API_MESSAGES),  # first: the health service's messages lie in grpc/ too
    ("grpc/*", ["proto/rpc*"]),
    ("protobuf-c/*", API_MESSAGES),
    ("cyaml/*", ["common/conf*"]),
    ("yaml.h", ["common/conf*"]),
    ("isa-l/*", ["common/crc.c"]),
    ("isa-l.h", ["common/crc.c"]),
    ("xxhash.h", ["common/hash.c"]),
]

# What counts as the system's own: C, POSIX, Linux. Anything else in <> is a third-party header without an owner.
SYSTEM = set(
    """aio.h alloca.h arpa/inet.h assert.h byteswap.h complex.h ctype.h dirent.h dlfcn.h elf.h endian.h err.h errno.h
    error.h execinfo.h fcntl.h features.h fenv.h float.h fnmatch.h ftw.h getopt.h glob.h grp.h ifaddrs.h inttypes.h
    iso646.h langinfo.h libgen.h limits.h link.h locale.h malloc.h math.h memory.h netdb.h poll.h pthread.h pwd.h
    regex.h sched.h search.h semaphore.h setjmp.h signal.h spawn.h stdalign.h stdarg.h stdatomic.h stdbool.h stddef.h
    stdint.h stdio.h stdlib.h stdnoreturn.h string.h strings.h syslog.h termios.h threads.h time.h uchar.h ucontext.h
    ulimit.h unistd.h utime.h wchar.h wctype.h wordexp.h cpuid.h immintrin.h""".split()
)
SYSTEM_FOLDERS = ("sys/", "linux/", "net/", "netinet/", "netpacket/", "asm/", "bits/")
COMPILER = ("sanitizer/",)  # tsan and asan interfaces: part of gcc and clang

INCLUDE = re.compile(r'^\s*#\s*include(?:_next)?\s*(?:<([^>]+)>|"([^"]+)"|(\S+))')
SKIPPED_FOLDERS = re.compile(r"^(build(-.*)?|\.git|\.cache|__pycache__)$")
# Tests may look into any room and at any library; they are outside the house.
FREE = ("tests/",)


def room_of(path):
    fits = [room for room in ROOMS if path.startswith(room + "/")]
    return max(fits, key=len) if fits else None


def sources(root):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not SKIPPED_FOLDERS.match(f))
        for name in sorted(names):
            if name.endswith((".c", ".h", ".def", ".cc", ".cpp", ".hpp")):
                yield os.path.relpath(os.path.join(folder, name), root)


def third_party_owner(header):
    for pattern, owners in THIRD_PARTY:
        if fnmatch.fnmatchcase(header, pattern):
            return owners
    return None


def is_system(header):
    return header in SYSTEM or header.startswith(SYSTEM_FOLDERS) or header.startswith(COMPILER)


def judge(root, path, header, quoted):
    """None if `path` may include `header`, else why not."""
    room = room_of(path)
    if room is None:
        return "this file stands in no room of the house: move it, or add its room to tests/lint/includes.py"
    owners = third_party_owner(header)
    if owners is not None:
        if any(fnmatch.fnmatchcase(path, owner) for owner in owners):
            return None
        return "<%s> belongs to %s" % (header, ", ".join(owners))
    if header.startswith("forebay/") and os.path.exists(os.path.join(root, "client/include", header)):
        header = "client/include/" + header
    target = room_of(header)
    if target is None:
        if os.path.exists(os.path.join(root, header)):
            return "%s stands in no room of the house (tests are not for the product to include)" % header
        if quoted:
            return "%s does not exist: name headers from the repository's root" % header
        if is_system(header):
            return None
        return "<%s> is neither a system header nor one with an owner: add it to THIRD_PARTY" % header
    if not os.path.exists(os.path.join(root, header)):
        return "%s does not exist: name headers from the repository's root" % header
    if target != room and target not in ROOMS[room]:
        allowed = ", ".join(ROOMS[room]) or "nothing but itself"
        return "%s may not include %s (it may include %s)" % (room, target, allowed)
    return None


def check(root):
    problems, files = [], 0
    for path in sources(root):
        if path.startswith(FREE):
            continue
        files += 1
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
            for number, line in enumerate(f, 1):
                m = INCLUDE.match(line)
                if not m:
                    continue
                header = m.group(1) or m.group(2)
                if header is None:
                    why = "an include through a macro cannot be checked"
                else:
                    why = judge(root, path, header, m.group(2) is not None)
                if why:
                    problems.append("%s:%d: %s" % (path, number, why))
    return problems, files


def self_test():
    headers = ["common/err.h", "proto/rpc.h", "server/tier/tier.h", "server/origin/origin.h", "server/member/member.h",
               "server/service/service.h", "server/net/net.h", "server/daemon.h", "client/lib/peer.h",
               "client/cli/cli.h", PUBLIC + "/forebay.h", "tests/lib/testlib.h"]
    good = {
        "common/crc.c": ["common/err.h", "<isa-l/crc.h>", "<stdio.h>", "<sys/uio.h>"],
        "common/conf_yaml.c": ["<cyaml/cyaml.h>", "<yaml.h>"],
        "common/hash.c": ["<xxhash.h>"],
        "proto/rpc_loop.c": ["<grpc/grpc.h>", "proto/rpc.h", "common/err.h"],
        "proto/wire.c": ["<protobuf-c/protobuf-c.h>", "forebay/v1/cache.pb-c.h"],
        "server/service/get.c": ["server/tier/tier.h", "server/origin/origin.h", "server/member/member.h",
                                 "client/lib/peer.h", "forebay/v1/cache.pb-c.h", "proto/rpc.h"],
        "server/net/rpc_server.c": ["server/service/service.h", "proto/rpc.h"],
        "server/main.c": ["server/daemon.h", "server/net/net.h", "server/service/service.h", "common/err.h"],
        "client/lib/get.c": ["forebay/forebay.h", "proto/rpc.h", "common/err.h"],
        "client/cli/main.c": ["client/cli/cli.h", "<forebay/forebay.h>", "<getopt.h>"],
        "tests/unit/test_rpc.c": ["<grpc/grpc.h>", "<cmocka.h>", "server/service/service.h", "client/lib/peer.h"],
    }
    bad = [
        ("common/a.c", "proto/rpc.h"), ("common/a.c", "<xxhash.h>"), ("common/a.c", "<isa-l/crc.h>"),
        ("common/log.c", "<yaml.h>"), ("common/log.c", "<cyaml/cyaml.h>"), ("common/a.c", "<protobuf-c/protobuf-c.h>"),
        ("proto/wire.c", "<grpc/grpc.h>"), ("proto/wire.c", "client/lib/peer.h"), ("proto/wire.c", "forebay/forebay.h"),
        ("server/tier/ram.c", "server/origin/origin.h"), ("server/tier/ram.c", "proto/rpc.h"),
        ("server/tier/ram.c", "forebay/v1/cache.pb-c.h"), ("server/origin/posix.c", "server/member/member.h"),
        ("server/member/static.c", "<protobuf-c/protobuf-c.h>"), ("server/member/static.c", "server/service/service.h"),
        ("server/service/get.c", "server/net/net.h"), ("server/service/get.c", "<grpc/grpc.h>"),
        ("server/service/get.c", "client/cli/cli.h"), ("server/service/get.c", "server/daemon.h"),
        ("server/net/rpc_server.c", "client/lib/peer.h"), ("server/net/rpc_server.c", "server/daemon.h"),
        ("server/main.c", "forebay/v1/cache.pb-c.h"), ("server/main.c", "client/cli/cli.h"),
        ("client/lib/get.c", "server/tier/tier.h"), ("client/lib/get.c", "client/cli/cli.h"),
        ("client/lib/get.c", "<grpc/grpc.h>"), ("client/cli/main.c", "common/err.h"),
        ("client/cli/main.c", "client/lib/peer.h"), ("client/cli/main.c", "proto/rpc.h"),
        ("client/cli/main.c", "forebay/v1/cache.pb-c.h"), ("client/fuse/main.c", "common/err.h"),
        (PUBLIC + "/more.h", "common/err.h"), ("server/main.c", "tests/lib/testlib.h"),
        ("common/a.c", "err.h"), ("common/a.c", "common/missing.h"), ("common/a.c", "<curl/curl.h>"),
        ("common/a.c", "SOME_MACRO"), ("elsewhere/a.c", "<stdio.h>"),
    ]
    failed = 0

    def tree(files):
        root = tempfile.mkdtemp(prefix="includes.")
        for header in headers:
            files.setdefault(header, [])
        for path, includes in files.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as f:
                f.write("/* planted */\n")
                for include in includes:
                    bare = include.startswith("<") or include.isupper()
                    f.write("#include %s\n" % (include if bare else '"%s"' % include))
        return root

    def remove(root):
        for folder, _, names in os.walk(root, topdown=False):
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)

    root = tree(dict(good))
    problems, files = check(root)
    if problems or files == 0:
        failed += 1
        print("self-test: a clean tree was refused:\n  " + "\n  ".join(problems))
    remove(root)
    for path, include in bad:
        root = tree({path: [include]})
        problems, _ = check(root)
        if len(problems) != 1 or not problems[0].startswith(path + ":2: "):
            failed += 1
            print("self-test: %s including %s: expected one problem at line 2, got %s" % (path, include, problems))
        remove(root)
    print("self-test: %d planted violations, %d failed" % (len(bad), failed))
    return 1 if failed else 0


def main(argv):
    if argv[1:] == ["--self-test"]:
        return self_test()
    if len(argv) > 2 or (len(argv) == 2 and argv[1].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    root = argv[1] if len(argv) == 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    problems, files = check(root)
    for problem in problems:
        print(problem)
    if files == 0:
        print("includes.py: no source files below %s" % root, file=sys.stderr)
        return 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
