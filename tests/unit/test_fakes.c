/* test_fakes.c - the test helpers on which other tests rely: gates, faults, the fake origin, the two wrappers. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/fake_origin.h"
#include "tests/lib/fault_origin.h"
#include "tests/lib/fault_tier.h"

struct reader {
  struct origin *o;
  uint64_t etag;
  char buf[64];
  ssize_t result;
  struct err e;
};

static void *reader(void *arg) {
  struct reader *r = arg;
  r->result = origin_read(r->o, "f", r->etag, 0, r->buf, sizeof r->buf, NULL, &r->e);
  return NULL;
}

static void test_fault(void **state) {
  (void)state;
  struct fault f;

  fault_init(&f);
  assert_int_equal(fault_step(&f), 0);
  fault_set(&f, 2, 2, -EIO);
  assert_int_equal(fault_step(&f), 0);
  assert_int_equal(fault_step(&f), -EIO);
  assert_int_equal(fault_step(&f), -EIO);
  assert_int_equal(fault_step(&f), 0);
  fault_set(&f, 1, UINT64_MAX, -ENOMEM);
  for (int i = 0; i < 3; i++)
    assert_int_equal(fault_step(&f), -ENOMEM);
  assert_int_equal(f.calls, 8);
  fault_fini(&f);
}

static void test_gate(void **state) {
  (void)state;
  struct fake_origin *f = fake_origin_new();
  struct reader r[3] = {0};
  pthread_t t[3];

  fake_origin_set(f, "f", "0123456789", 10);
  gate_close(&f->read.gate);
  assert_false(gate_wait(&f->read.gate, 1, 1));
  for (int i = 0; i < 3; i++) {
    r[i].o = &f->base;
    assert_int_equal(pthread_create(&t[i], NULL, reader, &r[i]), 0);
  }
  assert_true(gate_wait(&f->read.gate, 3, 10000));
  gate_admit(&f->read.gate); /* exactly one */
  assert_int_equal(f->read.gate.passed, 1);
  assert_int_equal(f->read.gate.waiting, 2);
  gate_open(&f->read.gate);
  for (int i = 0; i < 3; i++) {
    pthread_join(t[i], NULL);
    assert_int_equal(r[i].result, 10);
    assert_memory_equal(r[i].buf, "0123456789", 10);
  }
  struct origin *o = &f->base;
  origin_free(&o);
}

static void test_fake_changes(void **state) {
  (void)state;
  struct fake_origin *f = fake_origin_new();
  struct origin *o = &f->base;
  struct origin_stat st;
  struct err e = {0};
  char buf[64];
  pthread_t t;

  assert_int_equal(origin_stat(o, "f", &st, &e), -ENOENT);
  fake_origin_set(f, "f", "version 1", 9);
  assert_int_equal(origin_stat(o, "f", &st, &e), 0);
  assert_int_equal(st.size, 9);
  assert_int_equal(origin_read(o, "f", st.etag, 2, buf, 64, NULL, &e), 7);
  assert_memory_equal(buf, "rsion 1", 7);
  assert_int_equal(origin_read(o, "f", st.etag, 10, buf, 64, NULL, &e), -FB_EPASTEND);
  uint64_t etag = st.etag;
  fake_origin_set(f, "f", "version 2", 9);
  assert_true(fake_origin_etag(f, "f") != etag);
  assert_int_equal(origin_read(o, "f", etag, 0, buf, 64, NULL, &e), -FB_ECHANGED);
  fake_origin_cut(f, "f", 4);
  assert_int_equal(origin_read(o, "f", 0, 0, buf, 64, &st, &e), -FB_ESHORT);
  assert_int_equal(origin_read(o, "f", 0, 0, buf, 4, &st, &e), 4);
  fake_origin_cut(f, "f", SIZE_MAX);

  /* In the middle of a read. */
  struct reader r = {.o = o, .etag = fake_origin_etag(f, "f")};
  gate_close(&f->read_half.gate);
  assert_int_equal(pthread_create(&t, NULL, reader, &r), 0);
  assert_true(gate_wait(&f->read_half.gate, 1, 10000));
  fake_origin_set(f, "f", "version 3", 9);
  gate_open(&f->read_half.gate);
  pthread_join(t, NULL);
  assert_int_equal(r.result, -FB_ECHANGED);
  fault_set(&f->read_half, 1, 1, -EIO);
  assert_int_equal(origin_read(o, "f", 0, 0, buf, 64, NULL, &e), -EIO);
  fake_origin_remove(f, "f");
  assert_int_equal(origin_read(o, "f", 0, 0, buf, 64, NULL, &e), -ENOENT);
  fake_origin_remove(f, "f");
  struct origin_stats count;
  origin_stats(o, &count);
  assert_int_equal(count.reads, 8);
  assert_int_equal(count.read_bytes, 11);
  origin_free(&o);
}

static int on_entry(void *arg, const char *path, const struct origin_stat *st) {
  char *text = arg;
  strcat(strcat(text, path), st->directory ? "/ " : " ");
  return 0;
}

static void test_fake_list_and_put(void **state) {
  (void)state;
  struct fake_origin *f = fake_origin_new();
  struct origin *o = &f->base;
  struct err e = {0};
  struct iovec iov[2] = {{(char *)"he", 2}, {(char *)"llo", 3}};
  struct origin_stat st;
  char text[256] = "";

  assert_int_equal(origin_put(o, "d/b", iov, 2, false, &st, &e), 0);
  assert_int_equal(st.size, 5);
  assert_int_equal(origin_put(o, "d/b", iov, 2, false, &st, &e), -EEXIST);
  assert_int_equal(origin_put(o, "d/b", iov, 1, true, &st, &e), 0);
  assert_int_equal(st.size, 2);
  fake_origin_set(f, "d/a", "", 0);
  fake_origin_set(f, "d/e/f", "", 0);
  fake_origin_set(f, "d/e/g", "", 0);
  fake_origin_set(f, "z", "", 0);
  assert_int_equal(origin_list(o, "", false, on_entry, text, &e), 0);
  assert_string_equal(text, "d/ z ");
  text[0] = '\0';
  assert_int_equal(origin_list(o, "d", false, on_entry, text, &e), 0);
  assert_string_equal(text, "d/a d/b d/e/ ");
  text[0] = '\0';
  assert_int_equal(origin_list(o, "", true, on_entry, text, &e), 0);
  assert_string_equal(text, "d/a d/b d/e/f d/e/g z ");
  assert_int_equal(origin_list(o, "x", true, on_entry, text, &e), -ENOENT);
  assert_int_equal(origin_list(o, "z", true, on_entry, text, &e), -ENOTDIR);
  assert_int_equal(origin_stat(o, "d/e", &st, &e), 0);
  assert_true(st.directory);
  origin_free(&o);
}

static void test_fault_origin(void **state) {
  (void)state;
  struct fake_origin *fake = fake_origin_new();
  struct origin *inner = &fake->base;
  struct fault_origin *f = fault_origin_new(&inner);
  struct origin *o = &f->base;
  struct origin_stat st;
  struct err e = {0};
  char buf[8];

  assert_null(inner);
  fake_origin_set(fake, "f", "x", 1);
  fault_set(&f->read, 1, 1, -EIO);
  fault_set(&f->stat, 2, 1, -EACCES);
  assert_int_equal(origin_read(o, "f", 0, 0, buf, 8, NULL, &e), -EIO);
  assert_string_equal(e.text, "injected");
  assert_int_equal(origin_read(o, "f", 0, 0, buf, 8, NULL, &e), 1);
  assert_int_equal(origin_stat(o, "f", &st, &e), 0);
  assert_int_equal(origin_stat(o, "f", &st, &e), -EACCES);
  assert_int_equal(fake->count.reads, 1);
  origin_free(&o);
}

static void test_fault_tier(void **state) {
  (void)state;
  struct tier *inner;
  assert_int_equal(tier_ram_new(&inner, 16 << 20, NULL), 0);
  struct fault_tier *f = fault_tier_new(&inner);
  struct tier *t = &f->base;
  struct block_id id = {.key = "k", .key_len = 1};
  struct tier_slot s;
  struct tier_view v;

  fault_set(&f->reserve, 1, 1, -ENOSPC);
  assert_int_equal(tier_reserve(t, &id, 10, 0, &s), -ENOSPC);
  assert_int_equal(tier_reserve(t, &id, 10, 0, &s), 0);
  memset(s.data, 1, 10);
  assert_int_equal(tier_commit(t, &s, 1, &v), 0);
  tier_release(t, &v);
  fault_set(&f->get, 1, 1, -ENOENT);
  assert_int_equal(tier_get(t, &id, &v), -ENOENT);
  assert_int_equal(tier_get(t, &id, &v), 0);
  tier_release(t, &v);
  assert_int_equal(f->releases, 2);
  assert_int_equal(f->commit.calls, 1);
  tier_free(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fault),        cmocka_unit_test(test_gate),
      cmocka_unit_test(test_fake_changes), cmocka_unit_test(test_fake_list_and_put),
      cmocka_unit_test(test_fault_origin), cmocka_unit_test(test_fault_tier),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
