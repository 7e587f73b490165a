/* test_server_conf.c - defaults that work with no file at all, every row in the struct, the checks between settings,
 * and what a reload takes over. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/conf.h"
#include "tests/lib/testlib.h"

static char *dir;

/* Loads a file of this text; returns the code. `where` in the text becomes nothing: it is the file's path that counts.
 */
static int load(struct server_conf *c, const char *yaml, struct err *e, unsigned n_sets, char *const *sets) {
  char *path = test_printf("%s/forebayd.yaml", dir);
  memset(c, 0, sizeof *c);
  memset(e, 0, sizeof *e);
  test_write_file(path, yaml, strlen(yaml));
  int r = server_conf_load(c, path, sets, n_sets, e);
  free(path);
  return r;
}

static void assert_refused(const char *yaml, int code, const char *a, const char *b) {
  struct server_conf c;
  struct err e;
  int r = load(&c, yaml, &e, 0, NULL);

  if (r != code)
    fail_msg("%s\ngot %d (%s), expected %d", yaml, r, e.text, code);
  if (!strstr(e.text, "forebayd.yaml") || !strstr(e.text, a) || !strstr(e.text, b))
    fail_msg("%s\nthe text does not name the file, '%s' and '%s': %s", yaml, a, b, e.text);
}

static void test_defaults(void **state) {
  struct server_conf c;
  struct err e = {0};
  (void)state;

  /* The name is given because a test machine's own name may be no peer name. */
  char *sets[] = {(char[]){"peer.name=solo"}};
  assert_int_equal(server_conf_load(&c, NULL, sets, 1, &e), 0);
  assert_string_equal(c.peer_listen, "127.0.0.1:7401");
  assert_string_equal(c.peer_state_dir, "/var/lib/forebay");
  assert_int_equal(c.cluster_slots, RING_SLOTS_DEFAULT);
  assert_int_equal(c.cluster_members.n, 0);
  assert_int_equal(c.ram_max_bytes, 1u << 30);
  assert_int_equal(c.rpc_default_deadline_ms, 30000);
  assert_int_equal(c.origin_roots.n, 0);

  char name[NAME_PEER_MAX + 1];
  assert_int_equal(server_conf_name(&c, name, &e), 0);
  assert_string_equal(name, "solo");
  struct ring_member *m;
  unsigned n;
  assert_int_equal(server_conf_members(&c, name, "127.0.0.1:9", &m, &n, &e), 0);
  assert_int_equal(n, 1);
  assert_string_equal(m[0].name, "solo");
  assert_string_equal(m[0].address, "127.0.0.1:9");
  free(m);
  server_conf_fini(&c);
}

/* A row that the parser refuses at its bounds, or a default outside its own range, is a mistake in conf.def. */
static void test_every_row_takes_its_bounds(void **state) {
  (void)state;
  for (const struct conf_row *row = server_conf_rows; row->key; row++) {
    struct server_conf c = {0};
    struct err e = {0};
    assert_int_equal(conf_defaults(server_conf_rows, &c), 0);
    if (row->type == CONF_UINT || row->type == CONF_BYTES) {
      uint64_t *field = (uint64_t *)(void *)((char *)&c + row->offset);
      for (int high = 0; high < 2; high++) {
        uint64_t want = high ? row->max : row->min;
        char *set = test_printf("%s=%llu", row->key, (unsigned long long)want);
        if (conf_set(server_conf_rows, &c, set, &e) < 0)
          fail_msg("%s: %s", set, e.text);
        assert_true(*field == want);
        free(set);
        if (high || row->min > 0) {
          set = test_printf("%s=%llu", row->key, (unsigned long long)(high ? row->max + 1 : row->min - 1));
          assert_int_equal(conf_set(server_conf_rows, &c, set, &e), -FB_EBADCONF);
          assert_non_null(strstr(e.text, row->key));
          assert_non_null(strstr(e.text, "accepted"));
          assert_true(*field == want);
          free(set);
        }
      }
    }
    assert_non_null(row->help);
    assert_true(row->help[strlen(row->help) - 1] == '.');
    conf_fini(server_conf_rows, &c);
  }
}

#define MEMBERS                                                                                                        \
  "cluster:\n  members:\n"                                                                                             \
  "    - {name: a, address: 'node-a:7401'}\n"                                                                          \
  "    - {name: b, address: 'node-b:7402', weight: 50, domain: rack2}\n"

static void test_members(void **state) {
  struct server_conf c;
  struct err e;
  struct ring_member *m;
  unsigned n;
  (void)state;

  int r = load(&c, "peer: {name: b, listen: '0.0.0.0:7402'}\n" MEMBERS, &e, 0, NULL);
  if (r < 0)
    fail_msg("%s", e.text);
  assert_int_equal(server_conf_members(&c, "ignored", "ignored:1", &m, &n, &e), 0);
  assert_int_equal(n, 2);
  assert_string_equal(m[0].name, "a");
  assert_int_equal(m[0].weight, 100);
  assert_int_equal(m[1].weight, 50);
  assert_string_equal(m[1].domain, "rack2");
  assert_string_equal(m[1].address, "node-b:7402");
  free(m);
  server_conf_fini(&c);
}

static void test_between_settings(void **state) {
  (void)state;
  assert_refused("peer: {name: c}\n" MEMBERS, -FB_EBADCONF, "peer.name", "'c' is not in cluster.members");
  assert_refused("peer: {name: a, listen: '127.0.0.1:7777'}\n" MEMBERS, -FB_EBADCONF, "cluster.members", "7777");
  assert_refused("peer: {name: a, listen: '127.0.0.1:0'}\n" MEMBERS, -FB_EBADCONF, "cluster.members", "7401");
  assert_refused("peer: {name: 'a b'}\n", -FB_EBADCONF, "peer.name", "accepted");
  assert_refused("peer: {name: a, listen: nonsense}\n", -FB_EBADCONF, "peer.listen", "nonsense");
  assert_refused("peer: {name: a, listen: 'host:70000'}\n", -FB_EBADCONF, "peer.listen", "70000");
  assert_refused("peer: {name: a}\ncluster: {slots: 5000}\n", -FB_EBADCONF, "cluster.slots", "power of two");
  assert_refused("peer: {name: a}\norigin: {roots: [/data, relative]}\n", -FB_EBADCONF, "origin.roots", "relative");
  assert_refused("peer: {name: a}\nput: {max_value_bytes: 64MiB, max_inflight_bytes: 1MiB}\n", -FB_EBADCONF,
                 "put.max_inflight_bytes", "put.max_value_bytes");
  assert_refused("peer: {name: a}\n"
                 "cluster:\n  members:\n    - {name: a, address: 'h:7401'}\n    - {name: a, address: 'i:7401'}\n",
                 -FB_EPEERSDUP, "cluster.members", "a");
  assert_refused("peer: {name: a}\n"
                 "cluster:\n  members:\n    - {name: a, address: 'h:7401'}\n    - {name: b, address: 'h:7401'}\n",
                 -FB_EPEERSDUP, "cluster.members", "h:7401");
  assert_refused("peer: {name: a}\ncluster:\n  members:\n    - {name: a, address: 'nowhere'}\n", -FB_EBADCONF,
                 "cluster.members", "nowhere");
}

static void test_rows_are_refused_with_their_line(void **state) {
  (void)state;
  assert_refused("peer:\n  name: a\nram:\n  max_bytes: 1MiB\n", -FB_EBADCONF, "forebayd.yaml:4: ram.max_bytes",
                 "16MiB");
  assert_refused("peer:\n  name: a\nrams: 1\n", -FB_EBADCONF, "forebayd.yaml:3", "rams");
  assert_refused("log:\n  level: loud\n", -FB_EBADCONF, "forebayd.yaml:2: log.level", "debug");
  assert_refused("origin:\n  threads: many\n", -FB_EBADCONF, "forebayd.yaml:2: origin.threads", "256");
}

static void test_sets_win_over_the_file(void **state) {
  struct server_conf c;
  struct err e;
  char *sets[] = {(char[]){"origin.threads=5"}, (char[]){"log.level=debug"}};
  char *wrong[] = {(char[]){"origin.threads=0"}};
  (void)state;

  assert_int_equal(load(&c, "peer: {name: a}\norigin: {threads: 3, queue: 7}\n", &e, 2, sets), 0);
  assert_int_equal(c.origin_threads, 5);
  assert_int_equal(c.origin_queue, 7);
  assert_int_equal(c.log_level, 3);
  server_conf_fini(&c);
  assert_int_equal(load(&c, "peer: {name: a}\n", &e, 1, wrong), -FB_EBADCONF);
  assert_non_null(strstr(e.text, "--set"));
  assert_non_null(strstr(e.text, "origin.threads"));
}

struct changes {
  unsigned reloadable, restart;
  char keys[256];
};
static void count_change(const char *key, bool reloadable, void *arg) {
  struct changes *ch = arg;
  *(reloadable ? &ch->reloadable : &ch->restart) += 1;
  snprintf(ch->keys + strlen(ch->keys), sizeof ch->keys - strlen(ch->keys), "%s ", key);
}

static void test_apply(void **state) {
  struct server_conf c, next;
  struct changes ch = {0}, again = {0};
  struct err e;
  (void)state;

  assert_int_equal(load(&c, "peer: {name: a}\n", &e, 0, NULL), 0);
  assert_int_equal(load(&next,
                        "peer: {name: a}\nram: {max_bytes: 32MiB}\nlog: {level: debug, format: json}\n"
                        "origin: {threads: 9, error_ttl_ms: 5, roots: [/x]}\nrpc: {peer_timeout_ms: 77}\n",
                        &e, 0, NULL),
                   0);
  server_conf_apply(&c, &next, count_change, &ch);
  if (ch.reloadable != 5 || ch.restart != 2)
    fail_msg("%u reloadable, %u not: %s", ch.reloadable, ch.restart, ch.keys);
  assert_int_equal(c.ram_max_bytes, 32 << 20);
  assert_int_equal(c.log_level, 3);
  assert_int_equal(c.log_format, 1);
  assert_int_equal(c.origin_error_ttl_ms, 5);
  assert_int_equal(c.rpc_peer_timeout_ms, 77);
  assert_int_equal(c.origin_threads, 8); /* still what is in force */
  assert_int_equal(c.origin_roots.n, 0);
  /* What needs a restart is said again at the next reload; what was taken over is not. */
  server_conf_apply(&c, &next, count_change, &again);
  assert_int_equal(again.reloadable, 0);
  assert_int_equal(again.restart, 2);
  server_conf_fini(&next);
  server_conf_fini(&c);
}

static void test_dump_reads_back(void **state) {
  struct server_conf c, back;
  struct changes ch = {0};
  struct err e;
  char *text = NULL;
  size_t len = 0;
  (void)state;

  assert_int_equal(load(&c,
                        "peer: {name: a}\nram: {max_bytes: 33MiB}\norigin: {roots: [/x, '/y z']}\n"
                        "cluster:\n  members:\n    - {name: a, address: 'h:7401', weight: 3, domain: 'r 1'}\n",
                        &e, 0, NULL),
                   0);
  FILE *out = open_memstream(&text, &len);
  conf_dump(server_conf_rows, &c, true, out);
  fclose(out);
  assert_int_equal(load(&back, text, &e, 0, NULL), 0);
  conf_diff(server_conf_rows, &c, &back, count_change, &ch);
  if (ch.reloadable + ch.restart)
    fail_msg("differs after a dump: %s\n%s", ch.keys, text);
  free(text);
  server_conf_fini(&c);
  server_conf_fini(&back);
}

static void test_descriptors(void **state) {
  struct server_conf c;
  struct err e;
  (void)state;

  assert_int_equal(load(&c, "peer: {name: a}\nrpc: {max_connections: 100}\norigin: {open_files: 10}\n", &e, 0, NULL),
                   0);
  uint64_t some = server_conf_descriptors(&c);
  c.rpc_max_connections += 1000;
  assert_int_equal(server_conf_descriptors(&c), some + 2000);
  assert_true(some >= 210);
  server_conf_fini(&c);
}

static int make_dir(void **state) {
  (void)state;
  dir = test_tmpdir();
  return 0;
}
static int remove_dir(void **state) {
  (void)state;
  test_rmtree(dir);
  free(dir);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_every_row_takes_its_bounds),
      cmocka_unit_test(test_members),
      cmocka_unit_test(test_between_settings),
      cmocka_unit_test(test_rows_are_refused_with_their_line),
      cmocka_unit_test(test_sets_win_over_the_file),
      cmocka_unit_test(test_apply),
      cmocka_unit_test(test_dump_reads_back),
      cmocka_unit_test(test_descriptors),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
