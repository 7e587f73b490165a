/* test_conf.c - one table, and everything that hangs on it: defaults, files, --set, dump, help, differences; and for
 * every kind of bad input the line, the key, and what would have been accepted. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/conf.h"
#include "tests/lib/testlib.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

struct peer {
  char *name;
  uint64_t weight;
  unsigned kind;
  struct conf_strings tags;
};
struct conf {
  char *name, *listen;
  bool drain;
  uint64_t threads, quota;
  unsigned level;
  struct conf_strings roots;
  struct conf_records peers;
};

static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const kinds[] = {"null", "gpu node", "storage", NULL};

static const struct conf_row peer_fields[] = {
    {.key = "name",
     .type = CONF_STRING,
     .offset = offsetof(struct peer, name),
     .min = 1,
     .max = 20,
     .help = "Its name."},
    {.key = "weight",
     .type = CONF_UINT,
     .offset = offsetof(struct peer, weight),
     .dflt = "100",
     .min = 1,
     .max = 65535,
     .help = "Capacity, relative."},
    {.key = "kind", .type = CONF_ENUM, .offset = offsetof(struct peer, kind), .dflt = "storage", .choices = kinds},
    {.key = "tags", .type = CONF_STRINGS, .offset = offsetof(struct peer, tags), .dflt = "[a, b]", .max = 3},
    {0},
};
static const struct conf_row rows[] = {
    {.key = "name",
     .type = CONF_STRING,
     .offset = offsetof(struct conf, name),
     .dflt = "peer1",
     .min = 1,
     .max = 63,
     .help = "Name of this peer."},
    {.key = "server.listen",
     .type = CONF_STRING,
     .offset = offsetof(struct conf, listen),
     .max = 30,
     .help = "Address, host:port."},
    {.key = "server.threads",
     .type = CONF_UINT,
     .offset = offsetof(struct conf, threads),
     .dflt = "4",
     .min = 1,
     .max = 256,
     .reload = true,
     .help = "Threads that serve requests; a sentence that is long enough to be wrapped when it is "
             "printed as a comment above the key in a dump."},
    {.key = "log.level",
     .type = CONF_ENUM,
     .offset = offsetof(struct conf, level),
     .dflt = "info",
     .choices = levels,
     .reload = true,
     .help = "Least important level that is written."},
    {.key = "ram.quota_bytes",
     .type = CONF_BYTES,
     .offset = offsetof(struct conf, quota),
     .dflt = "64MiB",
     .min = 1 << 16,
     .max = UINT64_C(1) << 41,
     .help = "Bytes of RAM."},
    /* Not next to the section's other rows, on purpose. */
    {.key = "server.drain",
     .type = CONF_BOOL,
     .offset = offsetof(struct conf, drain),
     .dflt = "true",
     .help = "Drain?"},
    {.key = "roots",
     .type = CONF_STRINGS,
     .offset = offsetof(struct conf, roots),
     .min = 1,
     .max = 3,
     .help = "Allowed roots."},
    {.key = "cluster.peers",
     .type = CONF_RECORDS,
     .offset = offsetof(struct conf, peers),
     .min = 0,
     .max = 4,
     .fields = peer_fields,
     .record_size = sizeof(struct peer),
     .help = "The members."},
    {0},
};

static int parse(struct conf *c, const char *text, struct err *e) {
  return conf_parse(rows, c, "f.yaml", text, strlen(text), e);
}

static char *dump(const struct conf *c, bool comments) {
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  conf_dump(rows, c, comments, out);
  fclose(out);
  return text;
}

static void count_changes(const char *key, bool reloadable, void *arg) {
  (void)key;
  (void)reloadable;
  ++*(unsigned *)arg;
}

static unsigned differences(const struct conf *a, const struct conf *b) {
  unsigned n = 0;
  conf_diff(rows, a, b, count_changes, &n);
  return n;
}

static void defaults(void **state) {
  struct conf c = {0};

  (void)state;
  assert_int_equal(conf_defaults(rows, &c), 0);
  assert_string_equal(c.name, "peer1");
  assert_string_equal(c.listen, "");
  assert_true(c.drain);
  assert_int_equal(c.threads, 4);
  assert_int_equal(c.quota, 64 << 20);
  assert_int_equal(c.level, 2);
  assert_int_equal(c.roots.n, 0);
  assert_int_equal(c.peers.n, 0);
  conf_fini(rows, &c);
  const struct conf zero = {0};
  assert_memory_equal(&c, &zero, sizeof c);
  conf_fini(rows, &c);
}

static void file_over_defaults(void **state) {
  struct conf c = {0};
  struct err e = {0};

  (void)state;
  conf_defaults(rows, &c);
  if (parse(&c,
            "# a comment\n"
            "name: gpu-7\n"
            "server: {drain: false, threads: 256}\n"
            "log:\n"
            "  level: debug\n"
            "ram:\n"
            "  quota_bytes: 2GiB\n"
            "roots:\n"
            "  - /data\n"
            "  - \"\\u00e9 \\\"x\\\"\"\n"
            "cluster:\n"
            "  peers:\n"
            "    - name: a\n"
            "      kind: 'null'\n"
            "      tags: []\n"
            "    - {weight: 7, name: 'b: c', kind: gpu node}\n",
            &e) != 0)
    fail_msg("%s", e.text);
  assert_string_equal(c.name, "gpu-7");
  assert_string_equal(c.listen, "");
  assert_false(c.drain);
  assert_int_equal(c.threads, 256);
  assert_int_equal(c.level, 3);
  assert_int_equal(c.quota, UINT64_C(2) << 30);
  assert_int_equal(c.roots.n, 2);
  assert_string_equal(c.roots.v[0], "/data");
  assert_string_equal(c.roots.v[1], "\xc3\xa9 \"x\"");
  assert_int_equal(c.peers.n, 2);
  const struct peer *p = c.peers.v;
  assert_string_equal(p[0].name, "a");
  assert_int_equal(p[0].weight, 100);
  assert_int_equal(p[0].kind, 0);
  assert_int_equal(p[0].tags.n, 0);
  assert_string_equal(p[1].name, "b: c");
  assert_int_equal(p[1].weight, 7);
  assert_int_equal(p[1].kind, 1);
  assert_int_equal(p[1].tags.n, 2);
  assert_string_equal(p[1].tags.v[1], "b");

  /* A second file goes over the first; lists are replaced whole. */
  assert_int_equal(parse(&c, "roots: [/other]\ncluster: {peers: []}", &e), 0);
  assert_int_equal(c.roots.n, 1);
  assert_string_equal(c.roots.v[0], "/other");
  assert_int_equal(c.peers.n, 0);
  assert_string_equal(c.name, "gpu-7");
  conf_fini(rows, &c);
}

static void nothing_is_fine(void **state) {
  static const char *const texts[] = {"",     "\n\n", "# only a comment\n", "---\n", "---\n...\n", "{}",
                                      "null", "~\n",  "\xef\xbb\xbf"};
  struct conf c = {0}, before = {0};
  struct err e = {0};

  (void)state;
  conf_defaults(rows, &c);
  conf_defaults(rows, &before);
  for (size_t i = 0; i < COUNT(texts); i++)
    if (parse(&c, texts[i], &e) != 0)
      fail_msg("\"%s\": %s", texts[i], e.text);
  assert_int_equal(conf_parse(rows, &c, "f.yaml", NULL, 0, &e), 0);
  assert_int_equal(differences(&c, &before), 0);
  conf_fini(rows, &c);
  conf_fini(rows, &before);
}

static void lists_of_accepted_keys_are_cut_visibly(void **state) {
  static char names[60][32];
  static struct conf_row many[61];
  struct conf c = {0};
  struct err e;

  (void)state;
  for (int i = 0; i < 60; i++) {
    snprintf(names[i], sizeof names[i], "section.setting_%d", i);
    many[i] = (struct conf_row){.key = names[i], .type = CONF_UINT, .offset = offsetof(struct conf, quota), .max = 1};
  }
  assert_int_equal(conf_set(many, &c, "something=1", &e), -FB_EBADCONF);
  assert_memory_equal(e.text + strlen(e.text) - 5, ", ...", 5);
  assert_int_equal(conf_parse(many, &c, "f.yaml", "section: {x: 1}", 15, &e), -FB_EBADCONF);
  assert_non_null(strstr(e.text, "accepted: setting_0, setting_1, "));
  assert_memory_equal(e.text + strlen(e.text) - 5, ", ...", 5);
  /* A dump that begins with a section begins with no empty line. */
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  conf_dump(many, &c, true, out);
  fclose(out);
  assert_memory_equal(text, "section:\n", 9);
  free(text);
}

static void byte_sizes(void **state) {
  static const struct {
    const char *text;
    uint64_t want;
  } good[] = {{"65536", 65536},
              {"64KiB", 65536},
              {"1MiB", 1 << 20},
              {"3GiB", UINT64_C(3) << 30},
              {"2TiB", UINT64_C(2) << 40},
              {"2199023255552", UINT64_C(2) << 40}};
  static const char *const bad[] = {"64K",
                                    "64kib",
                                    "64 KiB",
                                    "1.5GiB",
                                    "-1",
                                    "+65536",
                                    "0x10000",
                                    "KiB",
                                    "65535",
                                    "3TiB",
                                    "16777216TiB",
                                    "18446744073709551616",
                                    "99999999999999999999999KiB",
                                    "64KiBx",
                                    "064KiB"};
  struct conf c = {0};
  struct err e;

  (void)state;
  conf_defaults(rows, &c);
  for (size_t i = 0; i < COUNT(good); i++) {
    char *text = test_printf("ram:\n  quota_bytes: %s\n", good[i].text);
    assert_int_equal(parse(&c, text, &e), 0);
    assert_int_equal(c.quota, good[i].want);
    free(text);
  }
  for (size_t i = 0; i < COUNT(bad); i++) {
    char *text = test_printf("ram:\n  quota_bytes: %s\n", bad[i]);
    assert_int_equal(parse(&c, text, &e), -FB_EBADCONF);
    assert_non_null(strstr(e.text, "f.yaml:2: ram.quota_bytes: \""));
    assert_non_null(strstr(e.text, "accepted: 64KiB..2TiB"));
    free(text);
  }
  conf_fini(rows, &c);
}

static const struct {
  const char *text, *start, *accepted;
} bad[] = {
    /* unknown keys */
    {"nme: x", "f.yaml:1: nme: unknown key, did you mean name?", "name, server, log, ram, roots, cluster"},
    {"name: x\n\nservr:\n  threads: 1", "f.yaml:3: servr: unknown key, did you mean server?", "name, server"},
    {"server:\n  listen: x\n  thread: 1", "f.yaml:3: server.thread: unknown key, did you mean threads?",
     "listen, threads, drain"},
    {"level: info", "f.yaml:1: level: unknown key, did you mean log.level?", "name"},
    {"server:\n  level: info", "f.yaml:2: server.level: unknown key, did you mean log.level?", "listen"},
    {"something_else: 1", "f.yaml:1: something_else: unknown key; accepted: name", "name"},
    {"server.threads: 1", "f.yaml:1: \"server.threads\": unknown key", "server"},
    {"\"a\\eb\\n\": 1", "f.yaml:1: \"a\\x1bb\\x0a\": unknown key", "name"},
    {"'': 1", "f.yaml:1: \"\": unknown key", "name"},
    {"<<: {name: x}", "f.yaml:1: \"<<\": unknown key", "name"},
    {"cluster:\n  peers:\n  - name: a\n  - name: b\n    wieght: 2",
     "f.yaml:5: cluster.peers[1].wieght: unknown key, did you mean weight?", "name, weight, kind, tags"},
    /* shapes */
    {"server: 5", "f.yaml:1: server: is a section, but has a value", "indented"},
    {"name: x\nserver:\n", "f.yaml:2: server: is an empty section", "indented"},
    {"server: [1]", "f.yaml:1: server: is a section", "indented"},
    {"name: [a, b]", "f.yaml:1: name: is a list", "text of 1..63 bytes"},
    {"name: {a: b}", "f.yaml:1: name: is a mapping", "text of 1..63 bytes"},
    {"roots: /data", "f.yaml:1: roots: is a single value", "a list of 1..3 texts"},
    {"roots: {a: b}", "f.yaml:1: roots: is a mapping", "a list of 1..3 texts"},
    {"roots:\n- a\n- [b]", "f.yaml:3: roots[1]: is a list", "a text"},
    {"roots:\n- a\n-", "f.yaml:3: roots[1]: has no value", "a text"},
    {"cluster:\n  peers:\n    name: a", "f.yaml:2: cluster.peers: is a mapping", "a list of 0..4 mappings"},
    {"cluster:\n  peers:\n    - a", "f.yaml:3: cluster.peers[0]: is a single value",
     "mappings with name, weight (optional), kind (optional), tags (optional)"},
    {"cluster:\n  peers: [{name: [x]}]", "f.yaml:2: cluster.peers[0].name: is a list", "text of 1..20 bytes"},
    {"- a\n- b", "f.yaml:1: the file holds a list", "KEY: VALUE"},
    {"just text", "f.yaml:1: the file holds a single value", "KEY: VALUE"},
    /* no value */
    {"name:", "f.yaml:1: name: has no value", "text of 1..63 bytes"},
    {"name: ~", "f.yaml:1: name: has no value", "text of 1..63 bytes"},
    {"roots:", "f.yaml:1: roots: has no value", "a list of 1..3 texts"},
    /* counts, lengths, ranges, types */
    {"roots: []", "f.yaml:1: roots: has too few entries", "1..3"},
    {"roots: [a, b, c, d]", "f.yaml:1: roots: has too many entries", "1..3"},
    {"cluster: {peers: [{name: a}, {name: b}, {name: c}, {name: d}, {name: e}]}",
     "f.yaml:1: cluster.peers: has too many", "0..4"},
    {"name: \"\"", "f.yaml:1: name: \"\" is too short", "text of 1..63 bytes"},
    {"server:\n  listen: aaaaaaaaaabbbbbbbbbbccccccccccd",
     "f.yaml:2: server.listen: \"aaaaaaaaaabbbbbbbbbbccccccccccd\" is too long", "text of 0..30 bytes"},
    {"server:\n  threads: 0", "f.yaml:2: server.threads: \"0\" is out of range", "a whole number, 1..256"},
    {"server:\n  threads: 257", "f.yaml:2: server.threads: \"257\" is out of range", "a whole number, 1..256"},
    {"server:\n  threads: 18446744073709551617", "f.yaml:2: server.threads: \"18446744073709551617\" is not", "1..256"},
    {"server:\n  threads: four", "f.yaml:2: server.threads: \"four\" is not a whole number", "1..256"},
    {"server:\n  threads: -1", "f.yaml:2: server.threads: \"-1\" is not a whole number", "1..256"},
    {"server:\n  threads: 4.0", "f.yaml:2: server.threads: \"4.0\" is not a whole number", "1..256"},
    {"server:\n  threads: 010", "f.yaml:2: server.threads: \"010\" is not a whole number", "1..256"},
    {"server:\n  threads: 4KiB", "f.yaml:2: server.threads: \"4KiB\" is not a whole number", "1..256"},
    {"server:\n  drain: yes", "f.yaml:2: server.drain: \"yes\" is neither true nor false", "true or false"},
    {"log:\n  level: chatty", "f.yaml:2: log.level: \"chatty\" is none of the choices",
     "one of error, warn, info, debug"},
    {"log:\n  level: INFO", "f.yaml:2: log.level: \"INFO\" is none of the choices", "one of error, warn, info, debug"},
    {"cluster:\n  peers:\n  - name: a\n  - name: b\n    weight: 65536",
     "f.yaml:5: cluster.peers[1].weight: \"65536\" is out of range", "1..65535"},
    {"cluster:\n  peers:\n  - name: a\n  - weight: 2", "f.yaml:4: cluster.peers[1]: lacks the key name",
     "text of 1..20 bytes"},
    {"cluster:\n  peers:\n  - {name: a, tags: [1, 2, 3, 4]}", "f.yaml:3: cluster.peers[0].tags: has too many entries",
     "0..3"},
    /* twice */
    {"name: a\nroots: [x]\nname: b", "f.yaml:3: name: is given twice (first in line 1)", "each key once"},
    {"server:\n  threads: 1\nserver:\n  drain: true", "f.yaml:3: server: is given twice (first in line 1)",
     "each key once"},
    {"server:\n  threads: 1\n  threads: 1", "f.yaml:3: server.threads: is given twice (first in line 2)",
     "each key once"},
    {"cluster:\n  peers:\n  - name: a\n    name: b", "f.yaml:4: cluster.peers[0].name: is given twice",
     "each key once"},
    /* YAML that no configuration needs */
    {"a: &x [1]\nb: *x", "f.yaml:2: b: is a YAML alias", "written out"},
    {"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]", "f.yaml:2: b: is a YAML alias", "written out"},
    {"name: !!binary aGVsbG8=", "f.yaml:1: name: has a YAML tag", "without tags"},
    {"roots: !x [a]", "f.yaml:1: roots: has a YAML tag", "without tags"},
    {"name: a\n---\nname: b", "f.yaml:2: a second document", "one document"},
    {"? [a]\n: b", "f.yaml:1: a key is a list or a mapping", "word"},
    {"name: \"a\\0b\"", "f.yaml:1: name: has a NUL character", "NUL"},
    {"a: [[[[[[[[1]]]]]]]]", "f.yaml:1: a[0][0][0][0][0][0]: is nested too deep", "8 levels"},
    /* malformed */
    {"name: a\n\tb: c", "f.yaml:2:", "YAML in UTF-8"},
    {"server:\n  threads: 1\n threads: 2", "f.yaml:3:", "YAML in UTF-8"},
    {"name: 'unfinished", "f.yaml:1: name: malformed YAML: found unexpected end of stream", "YAML in UTF-8"},
    {"roots: [a, b", "f.yaml:1: roots: malformed YAML", "YAML in UTF-8"},
    {"name: a: b", "f.yaml:1: malformed YAML: mapping values are not allowed", "YAML in UTF-8"},
    {"name: a\nroots: [\xff]", "f.yaml:2:", "YAML in UTF-8"},
    {"name: \x01", "f.yaml:1:", "YAML in UTF-8"},
    {"\xff\xfen\0a\0", "f.yaml:1:", "YAML in UTF-8"},
    {"name: @x", "f.yaml:1: name: malformed YAML", "YAML in UTF-8"},
};

static void bad_input_is_named_and_changes_nothing(void **state) {
  struct conf c = {0}, before = {0};
  struct err e;

  (void)state;
  conf_defaults(rows, &c);
  assert_int_equal(parse(&c, "name: keep\nroots: [a]\ncluster: {peers: [{name: p}]}", &e), 0);
  conf_defaults(rows, &before);
  assert_int_equal(parse(&before, "name: keep\nroots: [a]\ncluster: {peers: [{name: p}]}", &e), 0);
  for (size_t i = 0; i < COUNT(bad); i++) {
    /* What comes before the mistake must not have been taken either. */
    for (int with_more = 0; with_more < 2; with_more++) {
      char *text = test_printf("%s%s", bad[i].text, with_more ? "\n" : "");
      const void *name = c.name, *peers = c.peers.v;

      memset(&e, 0, sizeof e);
      if (parse(&c, text, &e) != -FB_EBADCONF)
        fail_msg("taken: %s", text);
      assert_int_equal(e.code, -FB_EBADCONF);
      const char *accepted = strstr(e.text, "; accepted: ");
      if (strncmp(e.text, bad[i].start, strlen(bad[i].start)) != 0 || !accepted || !strstr(accepted, bad[i].accepted))
        fail_msg("%s\ngave: %s\nnot:  %s ... %s", text, e.text, bad[i].start, bad[i].accepted);
      for (const char *p = e.text; *p; p++)
        assert_true((unsigned char)*p >= 0x20);
      assert_ptr_equal(c.name, name);
      assert_ptr_equal(c.peers.v, peers);
      assert_int_equal(differences(&c, &before), 0);
      free(text);
    }
  }
  assert_int_equal(parse(&c, "nme: x", NULL), -FB_EBADCONF);
  conf_fini(rows, &c);
  conf_fini(rows, &before);
}

static void nul_bytes_and_sizes(void **state) {
  struct conf c = {0};
  struct err e;
  size_t len = CONF_FILE_MAX + 1;
  char *big = malloc(len);

  (void)state;
  assert_int_equal(conf_parse(rows, &c, "f.yaml", "name: a\nx\0: b", 13, &e), -FB_EBADCONF);
  assert_string_equal(e.text, "f.yaml:2: NUL byte; accepted: YAML in UTF-8");
  memset(big, '#', len);
  assert_int_equal(conf_parse(rows, &c, "f.yaml", big, len, &e), -FB_EBADCONF);
  assert_non_null(strstr(e.text, "too large"));
  assert_int_equal(conf_parse(rows, &c, "f.yaml", big, len - 1, &e), 0);

  /* A file full of keys, of brackets, of list entries: refused, and quickly. */
  for (size_t i = 0; i + 5 <= len; i += 5)
    memcpy(big + i, "name\n", 5);
  assert_int_equal(conf_parse(rows, &c, "f.yaml", big, len - 1, &e), -FB_EBADCONF);
  memset(big, '[', len);
  assert_int_equal(conf_parse(rows, &c, "f.yaml", big, len - 1, &e), -FB_EBADCONF);
  memcpy(big, "roots:\n", 7);
  for (size_t i = 7; i + 4 <= len; i += 4)
    memcpy(big + i, "- a\n", 4);
  assert_int_equal(conf_parse(rows, &c, "f.yaml", big, 7 + 4 * 200000, &e), -FB_EBADCONF);
  assert_non_null(strstr(e.text, "f.yaml:1: roots: has too many entries"));
  size_t n = 0;
  for (int i = 0; i < 300; i++)
    n += (size_t)sprintf(big + n, "k%d: 1\n", i);
  assert_int_equal(conf_parse(rows, &c, "f.yaml", big, n, &e), -FB_EBADCONF);
  assert_string_equal(e.text, "f.yaml:257: k256: is one key too many; accepted: at most 256 keys in one mapping");
  assert_null(c.name);
  free(big);
}

static void files(void **state) {
  char *dir = test_tmpdir(), *path = test_printf("%s/c.yaml", dir), *fifo = test_printf("%s/fifo", dir), *want;
  char *deep = test_printf("%s/%0300d", dir, 0);
  struct conf c = {0};
  struct err e;

  (void)state;
  assert_int_equal(conf_load(rows, &c, path, &e), -ENOENT);
  want = test_printf("%s: cannot be read: No such file or directory", path);
  assert_memory_equal(e.text, want, strlen(want));
  free(want);
  assert_int_equal(conf_load(rows, &c, dir, &e), -EISDIR);
  assert_int_equal(mkfifo(fifo, 0600), 0);
  assert_int_equal(conf_load(rows, &c, fifo, &e), -FB_EBADCONF);
  assert_non_null(strstr(e.text, "accepted: a regular file"));
  assert_int_equal(conf_load(rows, &c, "/dev/null", &e), 0);
  assert_int_equal(conf_load(rows, &c, "/dev/zero", &e), -FB_EBADCONF);
  assert_int_equal(conf_load(rows, &c, deep, &e), -ENAMETOOLONG);

  test_write_file(path, "name: x\nserver:\n  threads: many\n", 32);
  assert_int_equal(conf_load(rows, &c, path, &e), -FB_EBADCONF);
  want = test_printf("%s:3: server.threads: \"many\" is not a whole number; accepted: a whole number, 1..256", path);
  assert_string_equal(e.text, want);
  free(want);
  assert_null(c.name);
  test_write_file(path, "name: x\n", 8);
  assert_int_equal(conf_load(rows, &c, path, &e), 0);
  assert_string_equal(c.name, "x");

  /* A name that would push the message out of the text is cut at its front. */
  char *far = test_printf("/%0500d/c.yaml", 0);
  assert_int_equal(conf_parse(rows, &c, far, "nme: x", 6, &e), -FB_EBADCONF);
  assert_memory_equal(e.text, "...0000", 7);
  assert_non_null(strstr(e.text, "0/c.yaml:1: nme: unknown key, did you mean name?; accepted: name"));
  free(far);
  conf_fini(rows, &c);
  test_rmtree(dir);
  free(dir);
  free(path);
  free(fifo);
  free(deep);
}

static void assignments(void **state) {
  static const struct {
    const char *assignment, *start;
  } wrong[] = {
      {"log.level=loud", "--set: log.level: \"loud\" is none of the choices; accepted: one of error"},
      {"server.threads=0", "--set: server.threads: \"0\" is out of range; accepted: a whole number, 1..256"},
      {"server.threads=", "--set: server.threads: \"\" is not a whole number"},
      {"server.threads", "--set: \"server.threads\" has no '='; accepted: KEY=VALUE"},
      {"=5", "--set: \"=5\" has no key; accepted: KEY=VALUE"},
      {"", "--set: \"\" has no '='"},
      {"server.treads=5",
       "--set: \"server.treads\": unknown key, did you mean server.threads?; accepted: name, server.listen"},
      {"threads=5", "--set: \"threads\": unknown key, did you mean server.threads?"},
      {"server=5", "--set: \"server\": unknown key"},
      {"server.=5", "--set: \"server.\": unknown key"},
      {".name=5", "--set: \".name\": unknown key"},
      {"a\nb=5", "--set: \"a\\x0ab\": unknown key"},
      {"roots=/a", "--set: roots: is a list"},
      {"cluster.peers=x", "--set: cluster.peers: is a list"},
      {"name=\xff", "--set: name: \"\\xff\" is not UTF-8"},
      {"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
       "xxx"
       "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx=1",
       "--set: \"xxxxx"},
  };
  struct conf c = {0}, before = {0};
  struct err e;

  (void)state;
  conf_defaults(rows, &c);
  conf_defaults(rows, &before);
  for (size_t i = 0; i < COUNT(wrong); i++) {
    assert_int_equal(conf_set(rows, &c, wrong[i].assignment, &e), -FB_EBADCONF);
    if (strncmp(e.text, wrong[i].start, strlen(wrong[i].start)) != 0)
      fail_msg("%s gave: %s", wrong[i].assignment, e.text);
  }
  assert_int_equal(differences(&c, &before), 0);
  assert_int_equal(conf_set(rows, &c, "log.level=error", &e), 0);
  assert_int_equal(conf_set(rows, &c, "name=a=b", &e), 0);
  assert_int_equal(conf_set(rows, &c, "server.listen=", &e), 0);
  assert_int_equal(conf_set(rows, &c, "ram.quota_bytes=1GiB", NULL), 0);
  assert_int_equal(conf_set(rows, &c, "server.drain=false", NULL), 0);
  assert_int_equal(c.level, 0);
  assert_string_equal(c.name, "a=b");
  assert_int_equal(c.quota, 1 << 30);
  assert_false(c.drain);
  assert_int_equal(differences(&c, &before), 4);
  conf_fini(rows, &c);
  conf_fini(rows, &before);
}

static void dump_by_example(void **state) {
  struct conf c = {0};
  char *text;

  (void)state;
  conf_defaults(rows, &c);
  assert_int_equal(parse(&c, "cluster: {peers: [{name: a}, {name: '7', tags: []}]}\nroots: [/a, 'b c']", NULL), 0);
  text = dump(&c, false);
  assert_string_equal(text, "name: peer1\n"
                            "roots:\n"
                            "  - /a\n"
                            "  - \"b c\"\n"
                            "server:\n"
                            "  listen: \"\"\n"
                            "  threads: 4\n"
                            "  drain: true\n"
                            "log:\n"
                            "  level: info\n"
                            "ram:\n"
                            "  quota_bytes: 64MiB\n"
                            "cluster:\n"
                            "  peers:\n"
                            "    - name: a\n"
                            "      weight: 100\n"
                            "      kind: storage\n"
                            "      tags:\n"
                            "        - a\n"
                            "        - b\n"
                            "    - name: \"7\"\n"
                            "      weight: 100\n"
                            "      kind: storage\n"
                            "      tags: []\n");
  free(text);
  text = dump(&c, true);
  assert_non_null(strstr(text,
                         "  # Least important level that is written. (one of error, warn, info, debug; default info; "
                         "SIGHUP\n  # reloads it)\n  level: info\n"));
  for (const char *line = text; *line; line = strchr(line, '\n') + 1)
    assert_true(strchr(line, '\n') - line <= 104);
  free(text);
  conf_fini(rows, &c);
}

/* Text of any valid characters, the awkward ones more often. */
static void random_text(struct rng *rng, char *out, size_t min, size_t max) {
  static const char *const pieces[] = {"a",
                                       "Z",
                                       "7",
                                       " ",
                                       ":",
                                       ": ",
                                       "#",
                                       " #",
                                       "\"",
                                       "\\",
                                       "'",
                                       "\n",
                                       "\t",
                                       "\r",
                                       "-",
                                       "- ",
                                       "[",
                                       "]",
                                       "{",
                                       "}",
                                       ",",
                                       "&",
                                       "*",
                                       "!",
                                       "|",
                                       ">",
                                       "%",
                                       "@",
                                       "~",
                                       "null",
                                       "true",
                                       "\x01",
                                       "\x1b",
                                       "\x7f",
                                       "\xc2\x85",
                                       "\xc2\xa0",
                                       "\xc3\xa9",
                                       "\xe2\x80\xa8",
                                       "\xef\xbb\xbf",
                                       "\xef\xbf\xbd",
                                       "\xef\xbf\xbe",
                                       "\xef\xbf\xbf",
                                       "\xf0\x9f\x98\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "/",
                                       ".",
                                       "<<",
                                       "=",
                                       "`"};
  size_t n = 0, want = rng_range(rng, min, max);

  while (n < want) {
    const char *piece = pieces[rng_below(rng, COUNT(pieces))];
    if (n + strlen(piece) > max)
      piece = "x";
    memcpy(out + n, piece, strlen(piece));
    n += strlen(piece);
  }
  out[n] = '\0';
}

static void random_conf(struct rng *rng, struct conf *c) {
  char text[80];

  conf_defaults(rows, c);
  random_text(rng, text, 1, 60);
  free(c->name);
  c->name = strdup(text);
  random_text(rng, text, 0, 30);
  free(c->listen);
  c->listen = strdup(text);
  c->drain = rng_below(rng, 2);
  c->threads = rng_range(rng, 1, 256);
  c->quota = rng_below(rng, 2) ? rng_range(rng, 1 << 16, UINT64_C(1) << 41) : rng_range(rng, 1, 31) << 36;
  c->level = (unsigned)rng_below(rng, 4);
  c->roots.n = (unsigned)rng_range(rng, 1, 3);
  c->roots.v = calloc(3, sizeof *c->roots.v);
  for (unsigned i = 0; i < c->roots.n; i++) {
    random_text(rng, text, 0, 70);
    c->roots.v[i] = strdup(text);
  }
  c->peers.n = (unsigned)rng_below(rng, 5);
  struct peer *p = c->peers.v = calloc(4, sizeof *p);
  for (unsigned i = 0; i < c->peers.n; i++) {
    random_text(rng, text, 1, 20);
    p[i].name = strdup(text);
    p[i].weight = rng_range(rng, 1, 65535);
    p[i].kind = (unsigned)rng_below(rng, 3);
    p[i].tags.n = (unsigned)rng_below(rng, 4);
    p[i].tags.v = calloc(3, sizeof *p[i].tags.v);
    for (unsigned j = 0; j < p[i].tags.n; j++) {
      random_text(rng, text, 0, 10);
      p[i].tags.v[j] = strdup(text);
    }
  }
}

static void dump_reads_back_the_same(void **state) {
  struct rng rng;

  (void)state;
  rng_init(&rng, test_seed("FOREBAY_TEST_SEED"));
  for (int round = 0; round < 1000; round++) {
    struct conf c = {0}, back = {0};
    struct err e = {0};

    random_conf(&rng, &c);
    char *text = dump(&c, round % 2);
    if (parse(&back, text, &e) != 0)
      fail_msg("%s in:\n%s", e.text, text);
    if (differences(&c, &back) != 0)
      fail_msg("%u differences after:\n%s", differences(&c, &back), text);
    /* A second dump is the same to the byte. */
    char *again = dump(&back, round % 2);
    assert_string_equal(text, again);
    free(text);
    free(again);
    conf_fini(rows, &c);
    conf_fini(rows, &back);
  }
}

static void dump_of_a_zeroed_struct(void **state) {
  struct conf c = {0};
  char *text = dump(&c, true);

  (void)state;
  assert_non_null(strstr(text, "name: \"\"\n"));
  assert_non_null(strstr(text, "roots: []\n"));
  free(text);
}

static void help_has_a_paragraph_per_key(void **state) {
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);

  (void)state;
  conf_help(rows, out);
  fclose(out);
  for (const struct conf_row *r = rows; r->key; r++)
    assert_non_null(strstr(text, r->key));
  assert_non_null(strstr(text, "log.level\n    one of error, warn, info, debug; default info; SIGHUP reloads it\n"
                               "    Least important level that is written.\n"));
  assert_non_null(strstr(text, "cluster.peers[].name\n    text of 1..20 bytes; required\n    Its name.\n"));
  assert_non_null(strstr(text, "cluster.peers[].weight\n    a whole number, 1..65535; default 100\n"));
  assert_non_null(strstr(text, "roots\n    a list of 1..3 texts; default an empty list\n"));
  assert_non_null(
      strstr(text, "ram.quota_bytes\n    64KiB..2TiB, in bytes or with KiB, MiB, GiB or TiB; default 64MiB\n"));
  free(text);
}

struct changes {
  char text[256];
};

static void note_change(const char *key, bool reloadable, void *arg) {
  struct changes *c = arg;
  size_t n = strlen(c->text);
  snprintf(c->text + n, sizeof c->text - n, "%s%s ", key, reloadable ? "+" : "");
}

static void differences_are_told(void **state) {
  struct conf a = {0}, b = {0};
  struct changes c = {""};

  (void)state;
  conf_defaults(rows, &a);
  conf_defaults(rows, &b);
  conf_diff(rows, &a, &b, note_change, &c);
  assert_string_equal(c.text, "");
  parse(&b, "name: x\nlog: {level: warn}\nserver: {drain: false, threads: 9}\nroots: [a]", NULL);
  conf_diff(rows, &a, &b, note_change, &c);
  assert_string_equal(c.text, "name server.threads+ log.level+ server.drain roots ");
  parse(&a, "cluster: {peers: [{name: a, tags: [x]}]}", NULL);
  conf_fini(rows, &b);
  conf_defaults(rows, &b);
  parse(&b, "cluster: {peers: [{name: a, tags: [y]}]}", NULL);
  memset(&c, 0, sizeof c);
  conf_diff(rows, &a, &b, note_change, &c);
  assert_string_equal(c.text, "cluster.peers ");
  conf_fini(rows, &a);
  conf_fini(rows, &b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults),
      cmocka_unit_test(file_over_defaults),
      cmocka_unit_test(nothing_is_fine),
      cmocka_unit_test(lists_of_accepted_keys_are_cut_visibly),
      cmocka_unit_test(byte_sizes),
      cmocka_unit_test(bad_input_is_named_and_changes_nothing),
      cmocka_unit_test(nul_bytes_and_sizes),
      cmocka_unit_test(files),
      cmocka_unit_test(assignments),
      cmocka_unit_test(dump_by_example),
      cmocka_unit_test(dump_reads_back_the_same),
      cmocka_unit_test(dump_of_a_zeroed_struct),
      cmocka_unit_test(help_has_a_paragraph_per_key),
      cmocka_unit_test(differences_are_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
