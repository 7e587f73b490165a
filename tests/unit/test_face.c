/* test_face.c - a whole peer in this process, spoken to over gRPC: every method, every way in which a request can be
 * wrong, clients that stall or leave, and the drain. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
#include "common/crc.h"
#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto/wire.h"
#include "server/daemon.h"
#include "tests/lib/face_client.h"
#include "tests/lib/testlib.h"

#define CACHE "/forebay.v1.Cache/"
#define SPACES "/forebay.v1.Namespaces/"
#define CLUSTER "/forebay.v1.Cluster/"
#define HEALTH "/grpc.health.v1.Health/"
#define VALUE_MAX (3u << 20)

struct fixture {
  char *dir;
  struct daemon *d;
  struct face_client c;
};

static int up_with(void **state, const char *default_deadline_ms) {
  struct fixture *f = calloc(1, sizeof *f);
  struct server_conf conf;
  struct err e = {0};

  f->dir = test_tmpdir();
  char *yaml = test_printf("peer: {name: solo, listen: '127.0.0.1:0', state_dir: '%s/state'}\n"
                           "ram: {max_bytes: 128MiB}\n"
                           "origin: {roots: ['%s']}\n"
                           "rpc: {max_connections: 64, default_deadline_ms: %s}\n"
                           "put: {max_value_bytes: 3MiB, max_inflight_bytes: 4MiB}\n",
                           f->dir, f->dir, default_deadline_ms);
  char *path = test_printf("%s/forebayd.yaml", f->dir);
  test_write_file(path, yaml, strlen(yaml));
  if (server_conf_load(&conf, path, NULL, 0, &e) < 0 || daemon_start(&f->d, &conf, &e) < 0)
    fail_msg("%s", e.text);
  server_conf_fini(&conf);
  free(path);
  free(yaml);
  face_client_up(&f->c, daemon_port(f->d));
  *state = f;
  return 0;
}
static int up(void **state) { return up_with(state, "300"); }
static int up_slow(void **state) { return up_with(state, "3000"); }

static int down(void **state) {
  struct fixture *f = *state;

  face_client_down(&f->c);
  daemon_free(&f->d);
  test_rmtree(f->dir);
  free(f->dir);
  free(f);
  return 0;
}

static char *str(const char *s) { return (char *)(uintptr_t)s; }

static void create(struct fixture *f, const char *name) {
  Forebay__V1__CreateNamespaceRequest q = FOREBAY__V1__CREATE_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Namespace ns = FOREBAY__V1__NAMESPACE__INIT;

  ns.name = str(name);
  ns.kind = FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DERIVED;
  q.ns = &ns;
  struct reply r = face_call(&f->c, SPACES "Create", &q.base, &forebay__v1__create_namespace_reply__descriptor, 0);
  if (r.code)
    fail_msg("create %s: %d %s", name, r.code, r.text);
  const Forebay__V1__CreateNamespaceReply *m = (const void *)r.m;
  assert_string_equal(m->ns->name, name);
  assert_true(m->ns->id != 0);
  reply_fini(&r);
}

static uint8_t byte_at(const char *key, size_t i) {
  return (uint8_t)(i * 131 + i / 257 + (uint8_t)key[0] * 7 + strlen(key));
}

static struct blob *value_of(const char *key, size_t len) {
  uint8_t *data = malloc(len + 1);
  struct blob *b = blob_new(1);

  for (size_t i = 0; i < len; i++)
    data[i] = byte_at(key, i);
  blob_append(b, data, len, free, data);
  return b;
}

static void assert_value(const struct blob *b, const char *key, size_t off, size_t len) {
  uint8_t *data = malloc(len + 1);

  assert_int_equal(b ? b->len : 0, len);
  if (b)
    assert_int_equal(blob_read(b, 0, data, len), len);
  for (size_t i = 0; i < len; i++)
    if (data[i] != byte_at(key, off + i))
      fail_msg("%s: byte %zu differs", key, off + i);
  free(data);
}

static struct blob *piece_of(struct blob *b, size_t off, size_t len) {
  struct blob *p = blob_new(1);
  assert_int_equal(blob_append_range(p, b, off, len), 0);
  return p;
}

/* Puts with pieces of `piece` bytes; announces `size`. Returns the code. */
static int put(struct fixture *f, const char *ns, const char *key, struct blob *value, uint64_t size, size_t piece,
               bool overwrite, char text[1100]) {
  Forebay__V1__PutRequest q = FOREBAY__V1__PUT_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, CACHE "Put", 0);
  const char *why;
  bool ok = true;

  q.ns = str(ns);
  q.key = str(key);
  q.size = size;
  q.crc32c = blob_crc32c(value);
  q.overwrite = overwrite;
  for (size_t off = 0; ok && (off == 0 || off < value->len); off += piece) {
    struct blob *p = piece_of(value, off, value->len - off < piece ? value->len - off : piece);
    ok = stream_send(s, &q.base, p);
    blob_unref(&p);
    forebay__v1__put_request__init(&q); /* the head is in the first message only */
  }
  stream_close_send(s);
  struct blob *reply = stream_recv(s);
  int code = stream_end(s, &why);
  if (text)
    snprintf(text, 1100, "%s", why);
  assert_true((code == 0) == (reply != NULL));
  if (reply) {
    ProtobufCMessage *m;
    assert_int_equal(wire_unpack(&forebay__v1__put_reply__descriptor, reply, &m, NULL), 0);
    const Forebay__V1__PutReply *r = (const void *)m;
    assert_int_equal(r->info->size, size);
    assert_true(r->info->etag != 0);
    assert_string_equal(r->info->key, key);
    assert_int_equal(r->acked, FOREBAY__V1__ACK_LEVEL__ACK_LEVEL_RAM);
    assert_string_equal(r->peer, "solo");
    protobuf_c_message_free_unpacked(m, NULL);
  }
  blob_unref(&reply);
  stream_free(&s);
  return code;
}

static void put_good(struct fixture *f, const char *ns, const char *key, size_t len, size_t piece) {
  struct blob *v = value_of(key, len);
  char text[1100];
  int code = put(f, ns, key, v, len, piece, false, text);

  if (code)
    fail_msg("put %s: %d %s", key, code, text);
  blob_unref(&v);
}

static struct reply get(struct fixture *f, const char *ns, const char *key, uint64_t off, uint32_t len) {
  Forebay__V1__GetRequest q = FOREBAY__V1__GET_REQUEST__INIT;

  q.ns = str(ns);
  q.key = str(key);
  q.offset = off;
  q.length = len;
  return face_call(&f->c, CACHE "Get", &q.base, &forebay__v1__get_reply__descriptor, 0);
}

/* ---- the ordinary ------------------------------------------------------------------------------------------------ */

static void test_put_get_stat(void **state) {
  struct fixture *f = *state;

  create(f, "d");
  put_good(f, "d", "big", 2500000, 1u << 20);
  put_good(f, "d", "odd", 100001, 333);
  put_good(f, "d", "empty", 0, 1);

  struct reply r = get(f, "d", "big", 0, GET_MAX_BYTES);
  if (r.code)
    fail_msg("%d %s", r.code, r.text);
  const Forebay__V1__GetReply *m = (const void *)r.m;
  assert_value(r.payload, "big", 0, 2500000);
  assert_int_equal(m->size, 2500000);
  assert_int_equal(m->source, FOREBAY__V1__SOURCE__SOURCE_RAM);
  assert_string_equal(m->peer, "solo");
  assert_int_equal(m->crc32c, blob_crc32c(r.payload));
  assert_true(m->etag != 0);
  reply_fini(&r);

  r = get(f, "d", "big", 1048570, 12);
  assert_value(r.payload, "big", 1048570, 12);
  reply_fini(&r);
  r = get(f, "d", "odd", 100000, 1000);
  assert_value(r.payload, "odd", 100000, 1);
  reply_fini(&r);
  r = get(f, "d", "odd", 100001, 10); /* at the end: empty */
  assert_int_equal(r.code, 0);
  assert_value(r.payload, "odd", 100001, 0);
  reply_fini(&r);
  r = get(f, "d", "empty", 0, 10);
  assert_int_equal(r.code, 0);
  reply_fini(&r);

  Forebay__V1__StatRequest q = FOREBAY__V1__STAT_REQUEST__INIT;
  q.ns = str("d");
  q.key = str("odd");
  r = face_call(&f->c, CACHE "Stat", &q.base, &forebay__v1__stat_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_int_equal(((const Forebay__V1__StatReply *)(const void *)r.m)->info->size, 100001);
  reply_fini(&r);
}

static void test_bad_requests(void **state) {
  struct fixture *f = *state;
  char long_key[1026];
  struct reply r;

  create(f, "d");
  put_good(f, "d", "k", 10, 10);
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
    r = get(f, bad[i].ns, bad[i].key, bad[i].off, bad[i].len);
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
  r = get(f, "d", "k", 0, 10);
  assert_value(r.payload, "k", 0, 10);
  reply_fini(&r);
}

/* A call without a message. */
static void test_empty_calls(void **state) {
  struct fixture *f = *state;
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

static struct stream *multi_get(struct fixture *f, Forebay__V1__GetItem *items, size_t n, int deadline_ms) {
  Forebay__V1__MultiGetRequest q = FOREBAY__V1__MULTI_GET_REQUEST__INIT;
  Forebay__V1__GetItem **pointers = calloc(n + 1, sizeof *pointers);
  struct stream *s = stream_open(&f->c, CACHE "MultiGet", deadline_ms);

  for (size_t i = 0; i < n; i++)
    pointers[i] = &items[i];
  q.ns = str("d");
  q.n_items = n;
  q.items = pointers;
  stream_send(s, &q.base, NULL);
  stream_close_send(s);
  free(pointers);
  return s;
}

#define ITEMS 1024u

static void test_multi_get(void **state) {
  struct fixture *f = *state;
  Forebay__V1__GetItem *items = calloc(ITEMS + 1, sizeof *items);
  uint8_t seen[ITEMS] = {0};
  const char *text;

  create(f, "d");
  put_good(f, "d", "a", 200000, 1u << 20);
  put_good(f, "d", "b", 5, 5);
  for (unsigned i = 0; i <= ITEMS; i++) {
    forebay__v1__get_item__init(&items[i]);
    items[i].key = str(i % 5 == 4 ? "missing" : i % 2 ? "a" : "b");
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
      assert_value(payload, items[m->index].key, items[m->index].offset, items[m->index].length);
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
  struct fixture *f = *state;
  Forebay__V1__GetItem items[64];

  create(f, "d");
  put_good(f, "d", "a", VALUE_MAX, 1u << 20);
  for (unsigned i = 0; i < 64; i++) {
    forebay__v1__get_item__init(&items[i]);
    items[i].key = str("a");
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
  struct fixture *f = *state;
  struct blob *v = value_of("k", 1000), *big = value_of("k", (1u << 20) + 1);
  char text[1100];

  create(f, "d");
  assert_int_equal(put(f, "d", "k", v, 1001, 100, false, text), -FB_EPROTO);
  assert_non_null(strstr(text, "1000 bytes arrived of the 1001"));
  assert_int_equal(put(f, "d", "k", v, 999, 100, false, text), -FB_EPROTO);
  assert_non_null(strstr(text, "999"));
  assert_int_equal(put(f, "d", "k", big, big->len, big->len, false, text), -FB_ETOOBIG);
  assert_non_null(strstr(text, "1048576"));
  assert_int_equal(put(f, "d", "k", v, VALUE_MAX + 1, 100, false, text), -FB_ETOOBIG);
  assert_int_equal(put(f, "none", "k", v, 1000, 100, false, text), -FB_ENONS);
  assert_int_equal(put(f, "d", "..", v, 1000, 100, false, text), -FB_EKEYNAME);
  assert_int_equal(put(f, "d", "k", v, 1000, 100, false, text), 0);
  assert_int_equal(put(f, "d", "k", v, 1000, 100, false, text), -EEXIST);
  assert_int_equal(put(f, "d", "k", v, 1000, 100, true, text), 0);
  blob_unref(&v);
  blob_unref(&big);
}

static struct stream *half_a_put(struct fixture *f, const char *key, uint32_t size, int deadline_ms) {
  Forebay__V1__PutRequest q = FOREBAY__V1__PUT_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, CACHE "Put", deadline_ms);
  struct blob *v = value_of(key, 1000);

  q.ns = str("d");
  q.key = str(key);
  q.size = size;
  assert_true(stream_send(s, &q.base, v));
  blob_unref(&v);
  return s;
}

struct try_put {
  struct fixture *f;
  const char *key;
  int want;
};
static bool put_answers(void *arg) {
  const struct try_put *t = arg;
  struct blob *v = value_of(t->key, VALUE_MAX);
  int code = put(t->f, "d", t->key, v, VALUE_MAX, 1u << 20, true, NULL);

  blob_unref(&v);
  return code == t->want;
}

/* The memory of puts in flight is 4 MiB here: while 3 MiB are announced, another 3 MiB do not fit. Each of the ways in
 * which a put can be given up must give them back. */
static void test_put_given_up(void **state) {
  struct fixture *f = *state;
  struct try_put busy = {f, "other", -FB_EBUSY}, good = {f, "other", 0};

  create(f, "d");
  struct stream *s = half_a_put(f, "k", VALUE_MAX, 0);
  assert_true(test_wait(put_answers, &busy, 5000));
  stream_cancel(s);
  assert_int_equal(stream_end(s, NULL), -ECANCELED);
  stream_free(&s);
  assert_true(test_wait(put_answers, &good, 5000));

  s = half_a_put(f, "k", VALUE_MAX, 200); /* the client's deadline */
  assert_int_equal(stream_end(s, NULL), -ETIMEDOUT);
  stream_free(&s);
  assert_true(test_wait(put_answers, &good, 5000));

  const char *text;
  s = half_a_put(f, "k", VALUE_MAX, -1); /* the peer's default deadline, since the client has none */
  assert_null(stream_recv(s));
  assert_int_equal(stream_end(s, &text), -ETIMEDOUT);
  assert_non_null(strstr(text, "1000 bytes of 3145728"));
  stream_free(&s);
  assert_true(test_wait(put_answers, &good, 5000));
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
static void make_files(struct fixture *f) {
  Forebay__V1__CreateNamespaceRequest q = FOREBAY__V1__CREATE_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Namespace ns = FOREBAY__V1__NAMESPACE__INIT;
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
  ns.name = str("files");
  ns.kind = FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DATASET;
  ns.origin = test_printf("%s/origin", f->dir);
  q.ns = &ns;
  struct reply r = face_call(&f->c, SPACES "Create", &q.base, &forebay__v1__create_namespace_reply__descriptor, 0);
  if (r.code)
    fail_msg("%s", r.text);
  reply_fini(&r);
  free(ns.origin);
}

static struct stream *list(struct fixture *f, int deadline_ms) {
  Forebay__V1__ListRequest q = FOREBAY__V1__LIST_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, CACHE "List", deadline_ms);

  q.ns = str("files");
  q.recursive = true;
  assert_true(stream_send(s, &q.base, NULL));
  stream_close_send(s);
  return s;
}

static bool lists_all(void *arg) {
  struct fixture *f = arg;
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
  struct fixture *f = *state;
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

/* ---- namespaces, cluster ----------------------------------------------------------------------------------------- */

static void test_namespaces(void **state) {
  struct fixture *f = *state;
  Forebay__V1__ListNamespacesRequest lq = FOREBAY__V1__LIST_NAMESPACES_REQUEST__INIT;
  Forebay__V1__ShowNamespaceRequest sq = FOREBAY__V1__SHOW_NAMESPACE_REQUEST__INIT;
  Forebay__V1__DropNamespaceRequest dq = FOREBAY__V1__DROP_NAMESPACE_REQUEST__INIT;
  Forebay__V1__SyncCatalogRequest yq = FOREBAY__V1__SYNC_CATALOG_REQUEST__INIT;

  struct reply r = face_call(&f->c, SPACES "List", &lq.base, &forebay__v1__list_namespaces_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_int_equal(((const Forebay__V1__ListNamespacesReply *)(const void *)r.m)->n_namespaces, 0);
  reply_fini(&r);
  create(f, "one");
  create(f, "two");
  put_good(f, "one", "k", 100000, 1u << 20);
  r = face_call(&f->c, SPACES "List", &lq.base, &forebay__v1__list_namespaces_reply__descriptor, 0);
  const Forebay__V1__ListNamespacesReply *l = (const void *)r.m;
  assert_int_equal(l->n_namespaces, 2);
  assert_string_equal(l->namespaces[0]->name, "one");
  assert_int_equal(l->namespaces[0]->block_bytes, 1u << 20);
  assert_int_equal(l->namespaces[0]->ack, FOREBAY__V1__ACK_LEVEL__ACK_LEVEL_RAM);
  reply_fini(&r);

  sq.name = str("one");
  r = face_call(&f->c, SPACES "Show", &sq.base, &forebay__v1__show_namespace_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_true(((const Forebay__V1__ShowNamespaceReply *)(const void *)r.m)->resident_bytes >= 100000);
  reply_fini(&r);
  dq.name = str("one");
  r = face_call(&f->c, SPACES "Drop", &dq.base, &forebay__v1__drop_namespace_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_true(((const Forebay__V1__DropNamespaceReply *)(const void *)r.m)->freed_bytes >= 100000);
  reply_fini(&r);
  r = face_call(&f->c, SPACES "Show", &sq.base, &forebay__v1__show_namespace_reply__descriptor, 0);
  assert_int_equal(r.code, -FB_ENONS);
  reply_fini(&r);

  r = face_call(&f->c, SPACES "SyncCatalog", &yq.base, &forebay__v1__sync_catalog_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__SyncCatalogReply *y = (const void *)r.m;
  assert_int_equal(y->n_records, 2); /* a tombstone too */
  assert_int_equal(y->records[0]->dropped + y->records[1]->dropped, 1);
  reply_fini(&r);

  Forebay__V1__Namespace record = FOREBAY__V1__NAMESPACE__INIT, **records = calloc(10001, sizeof *records);
  for (unsigned i = 0; i < 10001; i++)
    records[i] = &record;
  yq.n_records = 10001;
  yq.records = records;
  r = face_call(&f->c, SPACES "SyncCatalog", &yq.base, &forebay__v1__sync_catalog_reply__descriptor, 0);
  assert_int_equal(r.code, -EINVAL);
  assert_non_null(strstr(r.text, "10000"));
  reply_fini(&r);
  free(records);
}

static uint64_t counter(const Forebay__V1__GetStatsReply *m, const char *name) {
  for (size_t i = 0; i < m->n_counters; i++)
    if (strcmp(m->counters[i]->name, name) == 0)
      return m->counters[i]->value;
  fail_msg("no counter %s", name);
  return 0;
}

static void test_cluster(void **state) {
  struct fixture *f = *state;
  Forebay__V1__GetRingRequest rq = FOREBAY__V1__GET_RING_REQUEST__INIT;
  Forebay__V1__GetStatsRequest sq = FOREBAY__V1__GET_STATS_REQUEST__INIT;
  Forebay__V1__LocateRequest lq = FOREBAY__V1__LOCATE_REQUEST__INIT;
  char address[64];

  struct reply r = face_call(&f->c, CLUSTER "GetRing", &rq.base, &forebay__v1__get_ring_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__GetRingReply *ring = (const void *)r.m;
  snprintf(address, sizeof address, "127.0.0.1:%u", daemon_port(f->d));
  assert_int_equal(ring->n_members, 1);
  assert_string_equal(ring->members[0]->name, "solo");
  assert_string_equal(ring->members[0]->address, address);
  assert_string_equal(ring->peer, "solo");
  assert_int_equal(ring->slots, 65536);
  assert_true(ring->ring_hash != 0 && ring->ring_hash_lo != 0);
  uint64_t hash = ring->ring_hash;
  reply_fini(&r);

  r = face_call(&f->c, CLUSTER "GetStats", &sq.base, &forebay__v1__get_stats_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__GetStatsReply *st = (const void *)r.m;
  assert_string_equal(st->peer, "solo");
  assert_string_equal(st->version, FOREBAY_VERSION);
  assert_true(st->ring_hash == hash);
  assert_int_equal(st->ram_max_bytes, 128u << 20);
  assert_int_equal(st->connections, 1);
  assert_int_equal(st->connections_max, 64);
  assert_int_equal(counter(st, "rpc_accepted"), 1);
  assert_int_equal(counter(st, "rpc_calls"), 1); /* this one */
  assert_int_equal(counter(st, "get_requests"), 0);
  assert_true(llabs(st->wall_clock_ns - clock_wall_ns()) < 60 * NS_PER_S);
  assert_false(st->draining);
  reply_fini(&r);

  create(f, "d");
  lq.ns = str("d");
  lq.key = str("any/key");
  r = face_call(&f->c, CLUSTER "Locate", &lq.base, &forebay__v1__locate_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__LocateReply *where = (const void *)r.m;
  assert_int_equal(where->n_owners, 1);
  assert_string_equal(where->owners[0], "solo");
  reply_fini(&r);
  /* A caller with another ring is told so. */
  Forebay__V1__GetRequest gq = FOREBAY__V1__GET_REQUEST__INIT;
  Forebay__V1__Route route = FOREBAY__V1__ROUTE__INIT;
  gq.ns = str("d");
  gq.key = str("k");
  gq.route = &route;
  route.ring_hash = hash + 1;
  r = face_call(&f->c, CACHE "Get", &gq.base, &forebay__v1__get_reply__descriptor, 0);
  assert_int_equal(r.code, -FB_ERING);
  reply_fini(&r);
}

/* ---- health and drain -------------------------------------------------------------------------------------------- */

static int check_health(struct fixture *f, const char *service, int *ret_status) {
  Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

  q.service = str(service);
  struct reply r = face_call(&f->c, HEALTH "Check", &q.base, &grpc__health__v1__health_check_response__descriptor, 0);
  if (r.code == 0)
    *ret_status = (int)((const Grpc__Health__V1__HealthCheckResponse *)(const void *)r.m)->status;
  int code = r.code;
  reply_fini(&r);
  return code;
}

static struct stream *watch(struct fixture *f, const char *service) {
  Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, HEALTH "Watch", -1);

  q.service = str(service);
  assert_true(stream_send(s, &q.base, NULL));
  stream_close_send(s);
  return s;
}

static int watched(struct stream *s) {
  struct blob *b = stream_recv(s);
  ProtobufCMessage *m;

  if (!b)
    return -1;
  assert_int_equal(wire_unpack(&grpc__health__v1__health_check_response__descriptor, b, &m, NULL), 0);
  int status = (int)((const Grpc__Health__V1__HealthCheckResponse *)(const void *)m)->status;
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&b);
  return status;
}

struct stopper {
  struct fixture *f;
  int drain_ms;
  unsigned cancelled;
  atomic_bool stopped;
};
static void *stop(void *arg) {
  struct stopper *s = arg;
  s->cancelled = daemon_stop(s->f->d, deadline_in_ms(s->drain_ms));
  atomic_store(&s->stopped, true);
  return NULL;
}

static void test_health(void **state) {
  struct fixture *f = *state;
  int status = -1;
  pthread_t t;

  assert_int_equal(check_health(f, "", &status), 0);
  assert_int_equal(status, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
  assert_int_equal(check_health(f, "forebay.v1.Cache", &status), 0);
  assert_int_equal(check_health(f, "forebay.v2.Cache", &status), -ENOENT);

  struct stream *w = watch(f, "forebay.v1.Cache"), *unknown = watch(f, "what"), *gone = watch(f, "");
  assert_int_equal(watched(w), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
  assert_int_equal(watched(gone), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
  assert_int_equal(watched(unknown), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
  stream_cancel(gone);
  assert_int_equal(stream_end(gone, NULL), -ECANCELED);
  stream_free(&gone);
  assert_false(stream_ended(w));

  /* The drain is told to watches, which end by themselves: nothing has to be cancelled, nothing waits. */
  struct stopper s = {.f = f, .drain_ms = 20000};
  int64_t began = clock_mono_ns();
  assert_int_equal(pthread_create(&t, NULL, stop, &s), 0);
  assert_int_equal(watched(w), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING);
  assert_int_equal(watched(w), -1);
  assert_int_equal(watched(unknown), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
  assert_int_equal(watched(unknown), -1);
  assert_int_equal(stream_end(w, NULL), -FB_EPEERDOWN);
  stream_end(unknown, NULL);
  stream_free(&w);
  stream_free(&unknown);
  pthread_join(t, NULL);
  assert_int_equal(s.cancelled, 0);
  assert_true(clock_mono_ns() - began < 10 * NS_PER_S);
}

/* A watch per thread that comes and goes while the peer drains. */
static void *watch_and_leave(void *arg) {
  struct fixture *f = arg;
  for (unsigned i = 0; i < 50; i++) {
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct stream *s = stream_open(&f->c, HEALTH "Watch", 5000);
    if (stream_send(s, &q.base, NULL) && i % 3)
      watched(s);
    stream_cancel(s);
    stream_end(s, NULL);
    stream_free(&s);
  }
  return NULL;
}

static void test_watches_leave_during_drain(void **state) {
  struct fixture *f = *state;
  struct stopper s = {.f = f, .drain_ms = 20000};
  pthread_t t[4], stopping;

  for (unsigned i = 0; i < 4; i++)
    assert_int_equal(pthread_create(&t[i], NULL, watch_and_leave, f), 0);
  assert_int_equal(pthread_create(&stopping, NULL, stop, &s), 0);
  for (unsigned i = 0; i < 4; i++)
    pthread_join(t[i], NULL);
  pthread_join(stopping, NULL);
}

static bool is_down(void *arg) {
  struct fixture *f = arg;
  struct face_client fresh;
  Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

  face_client_up(&fresh, daemon_port(f->d));
  struct reply r =
      face_call(&fresh, HEALTH "Check", &q.base, &grpc__health__v1__health_check_response__descriptor, 500);
  bool refused = r.code == -FB_EPEERDOWN || r.code == -ETIMEDOUT;
  reply_fini(&r);
  face_client_down(&fresh);
  return refused;
}

static void test_drain_finishes_calls(void **state) {
  struct fixture *f = *state;
  struct stopper st = {.f = f, .drain_ms = 20000};
  struct try_put busy = {f, "other", -FB_EBUSY};
  Forebay__V1__PutRequest q = FOREBAY__V1__PUT_REQUEST__INIT;
  struct blob *v = value_of("k", VALUE_MAX);
  struct stream *s = stream_open(&f->c, CACHE "Put", 0);
  const char *text;
  bool sent = true;
  pthread_t t;

  create(f, "d");
  q.ns = str("d");
  q.key = str("k");
  q.size = VALUE_MAX;
  q.crc32c = blob_crc32c(v);
  for (size_t off = 0; sent && off < VALUE_MAX; off += 1u << 20) {
    struct blob *p = piece_of(v, off, 1u << 20);
    sent = stream_send(s, &q.base, p);
    blob_unref(&p);
    forebay__v1__put_request__init(&q);
    if (off)
      continue;
    assert_true(test_wait(put_answers, &busy, 5000)); /* it has arrived */
    assert_int_equal(pthread_create(&t, NULL, stop, &st), 0);
    assert_true(test_wait(is_down, f, 10000)); /* new connections are not taken any more */
    assert_false(atomic_load(&st.stopped));
  }
  stream_close_send(s);
  struct blob *reply = stream_recv(s);
  int code = stream_end(s, &text);
  if (!sent || code || !reply)
    fail_msg("a put that was in flight: %d %s", code, text);
  blob_unref(&reply);
  stream_free(&s);
  pthread_join(t, NULL);
  assert_int_equal(st.cancelled, 0);
  blob_unref(&v);
}

static void test_drain_cancels_the_rest(void **state) {
  struct fixture *f = *state;
  struct stopper st = {.f = f, .drain_ms = 100};
  struct try_put busy = {f, "other", -FB_EBUSY};

  create(f, "d");
  struct stream *s = half_a_put(f, "k", VALUE_MAX, 0);
  assert_true(test_wait(put_answers, &busy, 5000)); /* it has arrived */
  stop(&st);
  assert_int_equal(st.cancelled, 1);
  assert_true(stream_end(s, NULL) < 0);
  stream_free(&s);
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static int start_with(struct fixture *f, const char *listen, const char *state_dir, struct err *e) {
  struct server_conf conf;
  struct daemon *d = NULL;
  char *listen_set = test_printf("peer.listen=%s", listen), *state_set = test_printf("peer.state_dir=%s", state_dir);
  char *sets[] = {(char[]){"peer.name=other"}, (char[]){"ram.max_bytes=16MiB"}, (char[]){"rpc.max_connections=8"},
                  listen_set, state_set};

  (void)f;
  assert_int_equal(server_conf_load(&conf, NULL, sets, 5, e), 0);
  int r = daemon_start(&d, &conf, e);
  daemon_free(&d);
  server_conf_fini(&conf);
  free(listen_set);
  free(state_set);
  return r;
}

static void test_start_refusals(void **state) {
  struct fixture *f = *state;
  char *used = test_printf("127.0.0.1:%u", daemon_port(f->d)), *locked = test_printf("%s/state", f->dir);
  char *fresh = test_printf("%s/fresh", f->dir), *deep = test_printf("%s/no/such", f->dir);
  char *file = test_printf("%s/file", f->dir);
  struct err e;

  test_write_file(file, "x", 1);
  assert_int_equal(start_with(f, used, fresh, &e), -EADDRINUSE);
  assert_non_null(strstr(e.text, used));
  assert_int_equal(start_with(f, "127.0.0.1:0", locked, &e), -EBUSY);
  assert_non_null(strstr(e.text, "in use by another forebayd"));
  assert_int_equal(start_with(f, "127.0.0.1:0", deep, &e), -ENOENT);
  assert_non_null(strstr(e.text, deep));
  assert_int_equal(start_with(f, "127.0.0.1:0", file, &e), -ENOTDIR);
  assert_int_equal(start_with(f, "127.0.0.1:0", fresh, &e), 0); /* the first refusal left nothing locked */
  free(used);
  free(locked);
  free(fresh);
  free(deep);
  free(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_put_get_stat, up, down),
      cmocka_unit_test_setup_teardown(test_bad_requests, up, down),
      cmocka_unit_test_setup_teardown(test_empty_calls, up, down),
      cmocka_unit_test_setup_teardown(test_multi_get, up, down),
      cmocka_unit_test_setup_teardown(test_multi_get_cancelled, up, down),
      cmocka_unit_test_setup_teardown(test_put_refusals, up, down),
      cmocka_unit_test_setup_teardown(test_put_given_up, up, down),
      cmocka_unit_test_setup_teardown(test_list, up_slow, down),
      cmocka_unit_test_setup_teardown(test_namespaces, up, down),
      cmocka_unit_test_setup_teardown(test_cluster, up, down),
      cmocka_unit_test_setup_teardown(test_health, up, down),
      cmocka_unit_test_setup_teardown(test_watches_leave_during_drain, up, down),
      cmocka_unit_test_setup_teardown(test_drain_finishes_calls, up, down),
      cmocka_unit_test_setup_teardown(test_drain_cancels_the_rest, up, down),
      cmocka_unit_test_setup_teardown(test_start_refusals, up, down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
