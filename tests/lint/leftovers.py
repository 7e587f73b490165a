#!/usr/bin/python3
"""leftovers.py - what must not stay in the tree: marks of unfinished work without an issue's number, merge conflict
marks, paths of one machine, C files that do not open with their idea, scripts that cannot be run, build products.
Prints FILE:LINE and a sentence for each and exits 1 if there is any. `--self-test` plants one of each.

usage: leftovers.py [ROOT] | leftovers.py --self-test
"""

import os
import re
import stat
import sys
import tempfile

SKIPPED_FOLDERS = re.compile(r"^(build(-.*)?|\.git|\.cache|__pycache__|\.pytest_cache|corpus|golden)$")
# Spelled in pieces so that this file does not find itself.
MARK = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b(?!\s*\(#\d+\)|.*\bissue \d+)")
CONFLICT = re.compile(r"^(<" + r"{7} |>" + r"{7} |={7}$)")
MACHINE = re.compile(r"(?<![\w.$}-])/(home|root|work|Users|workspace)/[\w.]")
TEMPORARY = re.compile(r"(?<![\w.$}-])/tmp/(?!\.\.\.)[\w.]+/")
OPENING = re.compile(r"^/\* (\S+) - \S")
PRODUCTS = (".o", ".a", ".so", ".pyc", ".gcda", ".gcno", ".orig", ".rej", ".swp")


def look(root, path):
    full = os.path.join(root, path)
    name = os.path.basename(path)
    if name.endswith(PRODUCTS):
        yield 1, "a build product or an editor's leftover"
        return
    with open(full, "rb") as f:
        raw = f.read()
    if b"\0" in raw:
        return
    lines = raw.decode("utf-8", "replace").split("\n")
    if lines[0].startswith("#!") and not os.stat(full).st_mode & stat.S_IXUSR:
        yield 1, "starts with #! but is not executable: chmod +x"
    if name.endswith((".c", ".h")):
        opening = OPENING.match(lines[0])
        if not opening or opening.group(1) != name:
            yield 1, "does not open with '/* %s - its idea'" % name
    if raw and not raw.endswith(b"\n"):
        yield len(lines), "no newline at the end of the file"
    for number, line in enumerate(lines, 1):
        if MARK.search(line):
            yield number, "unfinished work without an issue: write '(#N)' behind the mark, or finish it"
        if CONFLICT.match(line):
            yield number, "a merge conflict's mark"
        if MACHINE.search(line) or (TEMPORARY.search(line) and not path.endswith(".md")):
            yield number, "a path of one machine"


def check(root):
    problems, files = [], 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not SKIPPED_FOLDERS.match(f))
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), root)
            if name == ".git" or os.path.islink(os.path.join(folder, name)):
                continue
            files += 1
            problems += ["%s:%d: %s" % (path, number, why) for number, why in look(root, path)]
    return problems, files


def self_test():
    good = "/* a.c - a file that is in order. See issue 12; TO" + "DO (#12): more. */\n"
    bad = [
        ("a.c", "/* a.c - idea. */\n/* TO" + "DO: later */\n", 2),
        ("a.c", "/* a.c - idea. */\n/* FIX" + "ME */\n", 2),
        ("a.c", "/* a.c - idea. */\n<" + "<<<<<< HEAD\n", 2),
        ("a.c", "/* a.c - idea. */\nchar *p = \"/ho" + "me/me/x\";\n", 2),
        ("a.sh", "cd /tm" + "p/mine/x\n", 1),
        ("a.c", "/* b.c - idea. */\n", 1),
        ("a.c", "#include <stdio.h>\n", 1),
        ("a.sh", "#!/bin/sh\n", 1),
        ("a.txt", "no newline", 1),
        ("a.o", "", 1),
    ]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="leftovers.") as root:
        for name, text, line in [("a.c", good, 0)] + bad:
            path = os.path.join(root, name)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            problems, _ = check(root)
            expected = 1 if line else 0
            if len(problems) != expected or (line and not problems[0].startswith("%s:%d: " % (name, line))):
                failed += 1
                print("self-test: %r: expected %d problem(s) at line %d, got %s" % (text, expected, line, problems))
            os.unlink(path)
    print("self-test: %d planted leftovers, %d failed" % (len(bad), failed))
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
        print("leftovers.py: no files below %s" % root, file=sys.stderr)
        return 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
