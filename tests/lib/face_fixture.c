/* face_fixture.c - the peer, and the few calls that nearly every test of the face makes. */
#include "tests/lib/face_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "proto/wire.h"
#include "tests/lib/testlib.h"

static int up_with(void **state, const char *default_deadline_ms) {
  struct face_fixture *f = calloc(1, sizeof *f);
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
int face_up(void **state) { return up_with(state, "300"); }
int face_up_slow(void **state) { return up_with(state, "3000"); }

int face_down(void **state) {
  struct face_fixture *f = *state;

  face_client_down(&f->c);
  daemon_free(&f->d);
  test_rmtree(f->dir);
  free(f->dir);
  free(f);
  return 0;
}

char *face_str(const char *s) { return (char *)(uintptr_t)s; }

void face_create(struct face_fixture *f, const char *name) {
  Forebay__V1__CreateNamespaceRequest q = FOREBAY__V1__CREATE_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Namespace ns = FOREBAY__V1__NAMESPACE__INIT;

  ns.name = face_str(name);
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

struct blob *face_value(const char *key, size_t len) {
  uint8_t *data = malloc(len + 1);
  struct blob *b = blob_new(1);

  for (size_t i = 0; i < len; i++)
    data[i] = byte_at(key, i);
  blob_append(b, data, len, free, data);
  return b;
}

void face_assert_value(const struct blob *b, const char *key, size_t off, size_t len) {
  uint8_t *data = malloc(len + 1);

  assert_int_equal(b ? b->len : 0, len);
  if (b)
    assert_int_equal(blob_read(b, 0, data, len), len);
  for (size_t i = 0; i < len; i++)
    if (data[i] != byte_at(key, off + i))
      fail_msg("%s: byte %zu differs", key, off + i);
  free(data);
}

struct blob *face_piece(struct blob *b, size_t off, size_t len) {
  struct blob *p = blob_new(1);
  assert_int_equal(blob_append_range(p, b, off, len), 0);
  return p;
}

/* Puts with pieces of `piece` bytes; announces `size`. Returns the code. */
int face_put(struct face_fixture *f, const char *ns, const char *key, struct blob *value, uint64_t size, size_t piece,
             bool overwrite, char text[1100]) {
  Forebay__V1__PutRequest q = FOREBAY__V1__PUT_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, CACHE "Put", 0);
  const char *why;
  bool ok = true;

  q.ns = face_str(ns);
  q.key = face_str(key);
  q.size = size;
  q.crc32c = blob_crc32c(value);
  q.overwrite = overwrite;
  for (size_t off = 0; ok && (off == 0 || off < value->len); off += piece) {
    struct blob *p = face_piece(value, off, value->len - off < piece ? value->len - off : piece);
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

void face_put_good(struct face_fixture *f, const char *ns, const char *key, size_t len, size_t piece) {
  struct blob *v = face_value(key, len);
  char text[1100];
  int code = face_put(f, ns, key, v, len, piece, false, text);

  if (code)
    fail_msg("put %s: %d %s", key, code, text);
  blob_unref(&v);
}

struct reply face_get(struct face_fixture *f, const char *ns, const char *key, uint64_t off, uint32_t len) {
  Forebay__V1__GetRequest q = FOREBAY__V1__GET_REQUEST__INIT;

  q.ns = face_str(ns);
  q.key = face_str(key);
  q.offset = off;
  q.length = len;
  return face_call(&f->c, CACHE "Get", &q.base, &forebay__v1__get_reply__descriptor, 0);
}

void face_create_dataset(struct face_fixture *f) {
  Forebay__V1__CreateNamespaceRequest q = FOREBAY__V1__CREATE_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Namespace ns = FOREBAY__V1__NAMESPACE__INIT;

  ns.name = face_str("files");
  ns.kind = FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DATASET;
  ns.origin = test_printf("%s/origin", f->dir);
  q.ns = &ns;
  struct reply r = face_call(&f->c, SPACES "Create", &q.base, &forebay__v1__create_namespace_reply__descriptor, 0);
  if (r.code)
    fail_msg("%s", r.text);
  reply_fini(&r);
  free(ns.origin);
}

struct stream *face_half_a_put(struct face_fixture *f, const char *key, uint32_t size, int deadline_ms) {
  Forebay__V1__PutRequest q = FOREBAY__V1__PUT_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, CACHE "Put", deadline_ms);
  struct blob *v = face_value(key, 1000);

  q.ns = face_str("d");
  q.key = face_str(key);
  q.size = size;
  assert_true(stream_send(s, &q.base, v));
  blob_unref(&v);
  return s;
}

bool face_put_answers(void *arg) {
  const struct face_try_put *t = arg;
  struct blob *v = face_value(t->key, VALUE_MAX);
  int code = face_put(t->f, "d", t->key, v, VALUE_MAX, 1u << 20, true, NULL);

  blob_unref(&v);
  return code == t->want;
}
