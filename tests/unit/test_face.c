/* test_face.c - the data path over gRPC: every call of the Cache service, every way in which a request can be wrong,
 * and clients that stall or leave. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/lib/keys.h"
#include "common/clock.h"
#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "proto/wire.h"
#include "tests/lib/face_fixture.h"
#include "tests/lib/testlib.h"

/* ---- the ordinary ------------------------------------------------------------------------------------------------ */

static void test_put_get_stat(void **state) {
  struct face_fixture *f = *state;

  face_create(f, "d");
  face_put_good(f, "d", "big", 2500000, 1u << 20);
  face_put_good(f, "d", "odd", 100001, 333);
  face_put_good(f, "d", "empty", 0, 1);

  struct reply r = face_get(f, "d", "big", 0, GET_MAX_BYTES);
  if (r.code)
    fail_msg("%d %s", r.code, r.text);
  const Forebay__V1__GetReply *m = (const void *)r.m;
  face_assert_value(r.payload, "big", 0, 2500000);
  assert_int_equal(m->size, 2500000);
  assert_int_equal(m->source, FOREBAY__V1__SOURCE__SOURCE_RAM);
  assert_string_equal(m->peer, "solo");
  assert_int_equal(m->crc32c, blob_crc32c(r.payload));
  assert_true(m->etag != 0);
  reply_fini(&r);

  r = face_get(f, "d", "big", 1048570, 12);
  face_assert_value(r.payload, "big", 1048570, 12);
  reply_fini(&r);
  r = face_get(f, "d", "odd", 100000, 1000);
  face_assert_value(r.payload, "odd", 100000, 1);
  reply_fini(&r);
  r = face_get(f, "d", "odd", 100001, 10); /* at the end: empty */
  assert_int_equal(r.code, 0);
  face_assert_value(r.payload, "odd", 100001, 0);
  reply_fini(&r);
  r = face_get(f, "d", "empty", 0, 10);
  assert_int_equal(r.code, 0);
  reply_fini(&r);

  Forebay__V1__StatRequest q = FOREBAY__V1__STAT_REQUEST__INIT;
  q.ns = face_str("d");
  q.key = face_str("odd");
  r = face_call(&f->c, CACHE "Stat", &q.base, &forebay__v1__stat_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_int_equal(((const Forebay__V1__StatReply *)(const void *)r.m)->info->size, 100001);
  reply_fini(&r);
}

static void test_bad_requests(void **state) {
  struct face_fixture *f = *state;
  char long_key[1026];
  struct reply r;

  face_create(f, "d");
  face_put_good(f, "d", "k", 10, 10);
  memset(long_key, 'x', sizeof long_key - 1);
  long_key[sizeof long_key - 1] = '\0';
  const struct {
    const char *ns, *key;
    uint64_t off;
    uint32_t len;
    int code;
    const char *in_text;
  } bad[] = {
      {"none", "k", 0, 1, -FB_ENONS, "none"},    {"BAD", "k", 0, 1, -FB_ENSNAME, "BAD"},
      {"", "k", 0, 1, -FB_ENSNAME, ""},          {"d", "missing", 0, 1, -ENOENT, "missing"},
      {"d", "k", 11, 1, -FB_EPASTEND, "k"},      {"d", "k", 0, GET_MAX_BYTES + 1, -FB_ETOOBIG, "4194304"},
      {"d", "", 0, 1, -FB_EKEYEMPTY, "key"},     {"d", long_key, 0, 1, -FB_EKEYLONG, "1024"},
      {"d", "a/../b", 0, 1, -FB_EKEYNAME, ".."}, {"d", "/abs", 0, 1, -FB_EKEYNAME, "abs"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    r = face_get(f, bad[i].ns, bad[i].key, bad[i].off, bad[i].len);
    if (r.code != bad[i].code || !strstr(r.text, bad[i].in_text))
      fail_msg("%zu: %s/%.20s: %d %s, expected %d and '%s'", i, bad[i].ns, bad[i].key, r.code, r.text, bad[i].code,
               bad[i].in_text);
    reply_fini(&r);
  }
  /* A NUL in a name is its own error and never a shorter name. */
  static const uint8_t nul_key[] = {0x0a, 1, 'd', 0x12, 3, 'k', 0, 'x', 0x20, 1};
  r = face_call_bytes(&f->c, CACHE "Get", nul_key, sizeof nul_key, &forebay__v1__get_reply__descriptor);
  assert_int_equal(r.code, -FB_EKEYNAME);
  assert_non_null(strstr(r.text, "NUL"));
  reply_fini(&r);
  static const uint8_t nul_ns[] = {0x0a, 2, 'd', 0, 0x12, 1, 'k'};
  r = face_call_bytes(&f->c, CACHE "Stat", nul_ns, sizeof nul_ns, &forebay__v1__stat_reply__descriptor);
  assert_int_equal(r.code, -FB_ENSNAME);
  reply_fini(&r);
  r = face_call_bytes(&f->c, CACHE "Get", "\xff\xff\xff", 3, &forebay__v1__get_reply__descriptor);
  assert_int_equal(r.code, -FB_EPROTO);
  assert_non_null(strstr(r.text, "GetRequest"));
  reply_fini(&r);
  r = face_call_bytes(&f->c, CACHE "Fetch", "", 0, &forebay__v1__get_reply__descriptor);
  assert_int_equal(r.code, -ENOSYS);
  reply_fini(&r);
  r = face_call_bytes(&f->c, SPACES "Create", "", 0, &forebay__v1__create_namespace_reply__descriptor);
  assert_int_equal(r.code, -EINVAL);
  reply_fini(&r);
  r = face_call_bytes(&f->c, "/forebay.v1.Prestage/Warm", "", 0, &forebay__v1__warm_reply__descriptor);
  assert_int_equal(r.code, -EINVAL);
  assert_non_null(strstr(r.text, "256"));
  reply_fini(&r);
  /* A message over the cap. */
  uint8_t *huge = calloc(1, MESSAGE_MAX_BYTES + 1);
  r = face_call_bytes(&f->c, CACHE "Get", huge, MESSAGE_MAX_BYTES + 1, &forebay__v1__get_reply__descriptor);
  assert_int_equal(r.code, -FB_ETOOBIG);
  free(huge);
  reply_fini(&r);
  /* And the peer serves on. */
  r = face_get(f, "d", "k", 0, 10);
  face_assert_value(r.payload, "k", 0, 10);
  reply_fini(&r);
}

/* A call without a message. */
static void test_empty_calls(void **state) {
  struct face_fixture *f = *state;
  static const char *const methods[] = {CACHE "Get",  CACHE "Put",    CACHE "MultiGet",
                                        CACHE "List", HEALTH "Watch", SPACES "SyncCatalog"};

  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    struct stream *s = stream_open(&f->c, methods[i], 0);
    const char *text;
    stream_close_send(s);
    assert_null(stream_recv(s));
    int code = stream_end(s, &text);
    if (code != -FB_EPROTO || !strstr(text, "message"))
      fail_msg("%s: %d %s", methods[i], code, text);
    stream_free(&s);
  }
}

/* ---- multi-get --------------------------------------------------------------------------------------------------- */

static struct stream *multi_get(struct face_fixture *f, Forebay__V1__GetItem *items, size_t n, int deadline_ms) {
  Forebay__V1__MultiGetRequest q = FOREBAY__V1__MULTI_GET_REQUEST__INIT;
  Forebay__V1__GetItem **pointers = calloc(n + 1, sizeof *pointers);
  struct stream *s = stream_open(&f->c, CACHE "MultiGet", deadline_ms);

  for (size_t i = 0; i < n; i++)
    pointers[i] = &items[i];
  q.ns = face_str("d");
  q.n_items = n;
  q.items = pointers;
  stream_send(s, &q.base, NULL);
  stream_close_send(s);
  free(pointers);
  return s;
}

#define ITEMS 1024u

static void test_multi_get(void **state) {
  struct face_fixture *f = *state;
  Forebay__V1__GetItem *items = calloc(ITEMS + 1, sizeof *items);
  uint8_t seen[ITEMS] = {0};
  const char *text;

  face_create(f, "d");
  face_put_good(f, "d", "a", 200000, 1u << 20);
  face_put_good(f, "d", "b", 5, 5);
  for (unsigned i = 0; i <= ITEMS; i++) {
    forebay__v1__get_item__init(&items[i]);
    items[i].key = face_str(i % 5 == 4 ? "missing" : i % 2 ? "a" : "b");
    items[i].offset = i % 2 ? i : 0;
    items[i].length = i % 2 ? 50 + i : 5;
  }
  struct stream *s = multi_get(f, items, ITEMS, 0);
  for (struct blob *b; (b = stream_recv(s)); blob_unref(&b)) {
    ProtobufCMessage *outer, *inner;
    struct blob *payload;
    assert_int_equal(wire_unpack_nested(&forebay__v1__multi_get_reply__descriptor, &forebay__v1__get_reply__descriptor,
                                        b, &outer, &inner, &payload),
                     0);
    const Forebay__V1__MultiGetReply *m = (const void *)outer;
    assert_true(m->index < ITEMS);
    assert_int_equal(seen[m->index]++, 0);
    if (m->index % 5 == 4) {
      assert_int_equal(m->status->code, ENOENT);
      assert_non_null(strstr(m->status->text, "missing"));
      assert_null(inner);
    } else {
      assert_true(!m->status || m->status->code == 0);
      assert_non_null(inner);
      face_assert_value(payload, items[m->index].key, items[m->index].offset, items[m->index].length);
      assert_int_equal(((const Forebay__V1__GetReply *)(const void *)inner)->crc32c, blob_crc32c(payload));
    }
    protobuf_c_message_free_unpacked(outer, NULL);
    if (inner)
      protobuf_c_message_free_unpacked(inner, NULL);
    blob_unref(&payload);
  }
  if (stream_end(s, &text) != 0)
    fail_msg("%s", text);
  stream_free(&s);
  for (unsigned i = 0; i < ITEMS; i++)
    assert_int_equal(seen[i], 1);

  static const size_t wrong[] = {0, ITEMS + 1};
  for (unsigned i = 0; i < 2; i++) {
    s = multi_get(f, items, wrong[i], 0);
    assert_null(stream_recv(s));
    assert_int_equal(stream_end(s, &text), -EINVAL);
    assert_non_null(strstr(text, "1024"));
    stream_free(&s);
  }
  free(items);
}

/* More is asked for than any window holds; the client reads one answer, then leaves. The fixture's end finds out
 * whether anything of the call is still alive. */
static void test_multi_get_cancelled(void **state) {
  struct face_fixture *f = *state;
  Forebay__V1__GetItem items[64];

  face_create(f, "d");
  face_put_good(f, "d", "a", VALUE_MAX, 1u << 20);
  for (unsigned i = 0; i < 64; i++) {
    forebay__v1__get_item__init(&items[i]);
    items[i].key = face_str("a");
    items[i].length = VALUE_MAX;
  }
  struct stream *s = multi_get(f, items, 64, 0);
  struct blob *b = stream_recv(s);
  assert_non_null(b);
  blob_unref(&b);
  stream_cancel(s);
  assert_int_equal(stream_end(s, NULL), -ECANCELED);
  stream_free(&s);
  /* A deadline that passes while nobody reads. */
  s = multi_get(f, items, 64, 100);
  assert_int_equal(stream_end(s, NULL), -ETIMEDOUT);
  stream_free(&s);
}

/* ---- put --------------------------------------------------------------------------------------------------------- */

static void test_put_refusals(void **state) {
  struct face_fixture *f = *state;
  struct blob *v = face_value("k", 1000), *big = face_value("k", (1u << 20) + 1);
  char text[1100];

  face_create(f, "d");
  assert_int_equal(face_put(f, "d", "k", v, 1001, 100, false, text), -FB_EPROTO);
  assert_non_null(strstr(text, "1000 bytes arrived of the 1001"));
  assert_int_equal(face_put(f, "d", "k", v, 999, 100, false, text), -FB_EPROTO);
  assert_non_null(strstr(text, "999"));
  assert_int_equal(face_put(f, "d", "k", big, big->len, big->len, false, text), -FB_ETOOBIG);
  assert_non_null(strstr(text, "1048576"));
  assert_int_equal(face_put(f, "d", "k", v, VALUE_MAX + 1, 100, false, text), -FB_ETOOBIG);
  assert_int_equal(face_put(f, "none", "k", v, 1000, 100, false, text), -FB_ENONS);
  assert_int_equal(face_put(f, "d", "..", v, 1000, 100, false, text), -FB_EKEYNAME);
  assert_int_equal(face_put(f, "d", "k", v, 1000, 100, false, text), 0);
  assert_int_equal(face_put(f, "d", "k", v, 1000, 100, false, text), -EEXIST);
  assert_int_equal(face_put(f, "d", "k", v, 1000, 100, true, text), 0);
  blob_unref(&v);
  blob_unref(&big);
}

/* The memory of puts in flight is 4 MiB here: while 3 MiB are announced, another 3 MiB do not fit. Each of the ways in
 * which a put can be given up must give them back. */
static void test_put_given_up(void **state) {
  struct face_fixture *f = *state;
  struct face_try_put busy = {f, "other", -FB_EBUSY}, good = {f, "other", 0};

  face_create(f, "d");
  struct stream *s = face_half_a_put(f, "k", VALUE_MAX, 0);
  assert_true(test_wait(face_put_answers, &busy, 5000));
  stream_cancel(s);
  assert_int_equal(stream_end(s, NULL), -ECANCELED);
  stream_free(&s);
  assert_true(test_wait(face_put_answers, &good, 5000));

  s = face_half_a_put(f, "k", VALUE_MAX, 200); /* the client's deadline */
  assert_int_equal(stream_end(s, NULL), -ETIMEDOUT);
  stream_free(&s);
  assert_true(test_wait(face_put_answers, &good, 5000));

  const char *text;
  s = face_half_a_put(f, "k", VALUE_MAX, -1); /* the peer's default deadline, since the client has none */
  assert_null(stream_recv(s));
  assert_int_equal(stream_end(s, &text), -ETIMEDOUT);
  assert_non_null(strstr(text, "1000 bytes of 3145728"));
  stream_free(&s);
  assert_true(test_wait(face_put_answers, &good, 5000));
}

/* ---- listing ----------------------------------------------------------------------------------------------------- */

#define FILES                                                                                                          \
  18500u            /* with keys of a thousand bytes: more than the 16 MiB that gRPC takes for a reader that is idle   \
                     */
#define STALLED 16u /* more than there are threads for listings */

/* "ddd.../eee.../fff.../NNN...", each part 249 bytes. */
static void key_of(char key[1024], unsigned i) {
  for (int part = 0; part < 3; part++) {
    memset(key + part * 250, 'd' + part, 249);
    key[part * 250 + 249] = '/';
  }
  snprintf(key + 750, 1024 - 750, "%0249u", i);
}

/* FILES empty files three directories below DIR/origin, and the dataset `files` over them. */
static void make_files(struct face_fixture *f) {
  char key[1024];

  int dir = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  key_of(key, 0);
  for (int part = -1; part < 3; part++) {
    const char *name = part < 0 ? "origin" : key + part * 250;
    if (part >= 0)
      key[part * 250 + 249] = '\0';
    assert_int_equal(mkdirat(dir, name, 0755), 0);
    int next = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(next >= 0);
    close(dir);
    dir = next;
  }
  for (unsigned i = 0; i < FILES; i++) {
    key_of(key, i);
    int fd = openat(dir, key + 750, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    close(fd);
  }
  close(dir);
  face_create_dataset(f);
}

static struct stream *list(struct face_fixture *f, int deadline_ms) {
  Forebay__V1__ListRequest q = FOREBAY__V1__LIST_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, CACHE "List", deadline_ms);

  q.ns = face_str("files");
  q.recursive = true;
  assert_true(stream_send(s, &q.base, NULL));
  stream_close_send(s);
  return s;
}

static bool lists_all(void *arg) {
  struct face_fixture *f = arg;
  struct stream *s = list(f, 0);
  const char *text;
  unsigned n = 0;

  for (struct blob *b; (b = stream_recv(s)); blob_unref(&b)) {
    ProtobufCMessage *m;
    assert_int_equal(wire_unpack(&forebay__v1__list_reply__descriptor, b, &m, NULL), 0);
    const Forebay__V1__ListReply *r = (const void *)m;
    assert_true(r->n_entries <= 1000);
    for (size_t i = 0; i < r->n_entries; i++, n++) {
      char key[1024];
      key_of(key, n);
      assert_string_equal(r->entries[i]->key, key);
    }
    protobuf_c_message_free_unpacked(m, NULL);
  }
  int code = stream_end(s, &text);
  if (code && code != -FB_EBUSY && code != -ETIMEDOUT)
    fail_msg("%d %s", code, text);
  stream_free(&s);
  return code == 0 && n == FILES;
}

/* Listings that nobody reads hold threads of the service, but not for ever: some are cancelled, the others have no
 * deadline but the peer's own. */
static void test_list(void **state) {
  struct face_fixture *f = *state;
  struct stream *s[STALLED];
  const char *text;

  make_files(f);
  assert_true(lists_all(f));
  for (unsigned i = 0; i < STALLED; i++)
    s[i] = list(f, i % 2 ? 0 : -1);
  for (unsigned i = 1; i < STALLED; i += 2)
    stream_cancel(s[i]);
  assert_true(test_wait(lists_all, f, 60000));
  for (unsigned i = 0; i < STALLED; i++) {
    for (struct blob *b; (b = stream_recv(s[i]));)
      blob_unref(&b);
    int code = stream_end(s[i], &text);
    if (code != (i % 2 ? -ECANCELED : -ETIMEDOUT))
      fail_msg("%u: %d %s", i, code, text);
    stream_free(&s[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_put_get_stat, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_bad_requests, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_empty_calls, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_multi_get, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_multi_get_cancelled, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_put_refusals, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_put_given_up, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_list, face_up_slow, face_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
