/* test_wire.c - the payload is found and shared, however the message is cut up and ordered; hostile bytes are refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h"
#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "proto/wire.h"
#include "tests/lib/testlib.h"

#define GET_REPLY &forebay__v1__get_reply__descriptor
#define GET_REQUEST &forebay__v1__get_request__descriptor

static Forebay__V1__GetReply reply_head(void) {
  Forebay__V1__GetReply m = FOREBAY__V1__GET_REPLY__INIT;
  m.etag = 0x1122334455667788;
  m.size = 1 << 30;
  m.source = FOREBAY__V1__SOURCE__SOURCE_RAM;
  m.peer = (char *)(uintptr_t) "peer-1";
  m.crc32c = 0xdeadbeef;
  m.mtime_ns = -5;
  return m;
}

static void assert_head(const ProtobufCMessage *base) {
  const Forebay__V1__GetReply *m = (const Forebay__V1__GetReply *)base;
  assert_true(m->etag == 0x1122334455667788 && m->size == 1 << 30 && m->crc32c == 0xdeadbeef && m->mtime_ns == -5);
  assert_string_equal(m->peer, "peer-1");
}

static void assert_bytes(const struct blob *b, const void *data, size_t len) {
  uint8_t *flat = malloc(len + 1);
  assert_non_null(b);
  assert_int_equal(b->len, len);
  assert_int_equal(blob_read(b, 0, flat, len), len);
  assert_memory_equal(flat, data, len);
  free(flat);
}

/* The same bytes in pieces of `step`, each in memory of its own, so that ASan sees a read beyond one. */
static struct blob *in_pieces(const uint8_t *data, size_t len, size_t step) {
  struct blob *b = blob_new(0);
  for (size_t off = 0; off < len; off += step) {
    size_t n = len - off < step ? len - off : step;
    uint8_t *piece = malloc(n);
    memcpy(piece, data + off, n);
    assert_int_equal(blob_append(b, piece, n, free, piece), 0);
  }
  return b;
}

static uint8_t *flatten(const struct blob *b) {
  uint8_t *flat = malloc(b->len + 1);
  blob_read(b, 0, flat, b->len);
  return flat;
}

static int unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len, ProtobufCMessage **m,
                  struct blob **payload) {
  struct blob *b = blob_copy(data, len);
  int r = wire_unpack(type, b, m, payload);
  blob_unref(&b);
  return r;
}

static void payload_is_shared_not_copied(void **state) {
  static const char a[] = "first piece,", z[] = " second piece";
  Forebay__V1__GetReply head = reply_head();
  ProtobufCMessage *m;
  struct blob *payload = blob_new(2), *got;

  (void)state;
  blob_append(payload, a, sizeof a - 1, NULL, NULL);
  blob_append(payload, z, sizeof z - 1, NULL, NULL);
  struct blob *b = wire_pack(&head.base, payload);
  assert_non_null(b);
  assert_int_equal(b->n, 3);
  assert_ptr_equal(b->segs[1].data, a);
  assert_ptr_equal(b->segs[2].data, z);
  blob_unref(&payload);
  assert_int_equal(wire_unpack(GET_REPLY, b, &m, &got), 0);
  blob_unref(&b);
  assert_head(m);
  assert_bytes(got, "first piece, second piece", 25);
  assert_ptr_equal(got->segs[0].data, a);
  assert_ptr_equal(got->segs[1].data, z);
  blob_unref(&got);
  protobuf_c_message_free_unpacked(m, NULL);
}

static void it_is_what_protobuf_packs(void **state) {
  Forebay__V1__GetReply head = reply_head();
  struct blob *payload = blob_copy("payload", 7);

  (void)state;
  struct blob *b = wire_pack(&head.base, payload);
  uint8_t *ours = flatten(b), theirs[256];
  head.data = (ProtobufCBinaryData){.len = 7, .data = (uint8_t *)(uintptr_t) "payload"};
  size_t len = forebay__v1__get_reply__pack(&head, theirs);
  assert_int_equal(b->len, len);
  assert_memory_equal(ours, theirs, len);
  free(ours);
  blob_unref(&b);
  blob_unref(&payload);
}

static void absent_and_empty_payloads_differ(void **state) {
  Forebay__V1__GetReply head = reply_head();
  ProtobufCMessage *m;
  struct blob *none = blob_new(0), *got = none;

  (void)state;
  struct blob *b = wire_pack(&head.base, NULL);
  assert_int_equal(wire_unpack(GET_REPLY, b, &m, &got), 0);
  assert_head(m);
  assert_null(got);
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&b);
  b = wire_pack(&head.base, none);
  assert_int_equal(wire_unpack(GET_REPLY, b, &m, &got), 0);
  assert_non_null(got);
  assert_int_equal(got->len, 0);
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&got);
  blob_unref(&b);
  /* An empty message, and a message that is payload alone. */
  assert_int_equal(unpack(GET_REPLY, "", 0, &m, &got), 0);
  assert_null(got);
  protobuf_c_message_free_unpacked(m, NULL);
  assert_int_equal(unpack(GET_REPLY, "\x7a\x03xyz", 5, &m, &got), 0);
  assert_bytes(got, "xyz", 3);
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&got);
  blob_unref(&none);
}

static void pieces_of_any_size_do(void **state) {
  Forebay__V1__GetReply head = reply_head();
  uint8_t data[300];
  ProtobufCMessage *m;
  struct rng rng;
  struct blob *got;

  (void)state;
  rng_init(&rng, test_seed("WIRE_SEED"));
  rng_fill(&rng, data, sizeof data);
  struct blob *payload = blob_copy(data, sizeof data), *b = wire_pack(&head.base, payload);
  uint8_t *flat = flatten(b);
  for (size_t step = 1; step <= b->len; step++) {
    struct blob *cut = in_pieces(flat, b->len, step);
    assert_int_equal(wire_unpack(GET_REPLY, cut, &m, &got), 0);
    blob_unref(&cut);
    assert_head(m);
    assert_bytes(got, data, sizeof data);
    blob_unref(&got);
    protobuf_c_message_free_unpacked(m, NULL);
  }
  /* Without the wish for a payload it is in the message. */
  assert_int_equal(wire_unpack(GET_REPLY, b, &m, NULL), 0);
  assert_int_equal(((Forebay__V1__GetReply *)m)->data.len, sizeof data);
  protobuf_c_message_free_unpacked(m, NULL);
  free(flat);
  blob_unref(&b);
  blob_unref(&payload);
}

static void another_order_is_understood(void **state) {
  ProtobufCMessage *m;
  struct blob *got;

  (void)state;
  /* data, then size; then data twice: the last counts. */
  assert_int_equal(unpack(GET_REPLY, "\x7a\x03xyz\x10\x07", 7, &m, &got), 0);
  assert_int_equal(((Forebay__V1__GetReply *)m)->size, 7);
  assert_bytes(got, "xyz", 3);
  assert_int_equal(((Forebay__V1__GetReply *)m)->data.len, 0);
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&got);
  assert_int_equal(unpack(GET_REPLY, "\x7a\x03xyz\x7a\x02hi", 9, &m, &got), 0);
  assert_bytes(got, "hi", 2);
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&got);
  /* Fields that this version does not know pass by, before and behind. */
  assert_int_equal(unpack(GET_REPLY, "\xa2\x06\x01q\x10\x07\x7a\x03xyz", 11, &m, &got), 0);
  assert_int_equal(((Forebay__V1__GetReply *)m)->size, 7);
  assert_bytes(got, "xyz", 3);
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&got);
  /* A type without a payload field is unpacked whole. */
  assert_int_equal(unpack(GET_REQUEST, "\x0a\x02ns\x7a\x03xyz", 9, &m, &got), 0);
  assert_string_equal(((Forebay__V1__GetRequest *)m)->ns, "ns");
  assert_null(got);
  protobuf_c_message_free_unpacked(m, NULL);
}

static void nested_payloads(void **state) {
  Forebay__V1__GetReply inner = reply_head();
  Forebay__V1__MultiGetReply outer = FOREBAY__V1__MULTI_GET_REPLY__INIT;
  ProtobufCMessage *mo, *mi;
  struct blob *payload = blob_copy("the bytes", 9), *got;

  (void)state;
  outer.index = 77;
  struct blob *b = wire_pack_nested(&outer.base, &inner.base, payload);
  uint8_t *flat = flatten(b);
  for (size_t step = 1; step <= b->len; step += 3) {
    struct blob *cut = in_pieces(flat, b->len, step);
    assert_int_equal(wire_unpack_nested(&forebay__v1__multi_get_reply__descriptor, GET_REPLY, cut, &mo, &mi, &got), 0);
    blob_unref(&cut);
    assert_int_equal(((Forebay__V1__MultiGetReply *)mo)->index, 77);
    assert_head(mi);
    assert_bytes(got, "the bytes", 9);
    blob_unref(&got);
    protobuf_c_message_free_unpacked(mo, NULL);
    protobuf_c_message_free_unpacked(mi, NULL);
  }
  /* As protobuf-c would have packed it. */
  uint8_t theirs[256];
  inner.data = (ProtobufCBinaryData){.len = 9, .data = (uint8_t *)(uintptr_t) "the bytes"};
  outer.reply = &inner;
  assert_int_equal(forebay__v1__multi_get_reply__pack(&outer, theirs), b->len);
  assert_memory_equal(flat, theirs, b->len);
  /* The reply first and the index behind it. */
  uint8_t swapped[256];
  size_t head = 2; /* field 1: 0x08 77 */
  memcpy(swapped, flat + head, b->len - head);
  memcpy(swapped + b->len - head, flat, head);
  struct blob *s = blob_copy(swapped, b->len);
  assert_int_equal(wire_unpack_nested(&forebay__v1__multi_get_reply__descriptor, GET_REPLY, s, &mo, &mi, &got), 0);
  assert_int_equal(((Forebay__V1__MultiGetReply *)mo)->index, 77);
  assert_head(mi);
  assert_bytes(got, "the bytes", 9);
  blob_unref(&got);
  protobuf_c_message_free_unpacked(mo, NULL);
  protobuf_c_message_free_unpacked(mi, NULL);
  blob_unref(&s);
  free(flat);
  blob_unref(&b);
  /* An item that failed has no reply. */
  outer.reply = NULL;
  b = wire_pack_nested(&outer.base, NULL, NULL);
  assert_int_equal(wire_unpack_nested(&forebay__v1__multi_get_reply__descriptor, GET_REPLY, b, &mo, &mi, &got), 0);
  assert_null(mi);
  assert_null(got);
  protobuf_c_message_free_unpacked(mo, NULL);
  assert_int_equal(wire_unpack_nested(GET_REQUEST, GET_REPLY, b, &mo, &mi, &got), -EINVAL);
  blob_unref(&b);
  blob_unref(&payload);
}

static void malformed_messages_are_refused(void **state) {
  static const struct {
    const char *bytes;
    size_t len;
  } bad[] = {
      {"\x7a", 1},                                              /* no length */
      {"\x7a\x05xyz", 5},                                       /* too few bytes */
      {"\x7a\xff\xff\xff\xff\x0f", 6},                          /* a length of 4 GiB */
      {"\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},     /* of 2^64 */
      {"\x7a\x83\x80\x80\x80\x80\x00xyz", 10},                  /* of more bytes than lengths have */
      {"\x10", 1},                                              /* no value */
      {"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* a varint of 11 bytes */
      {"\x09\x01\x02\x03", 4},                                  /* fixed64, cut */
      {"\x2d\x01\x02", 3},                                      /* fixed32, cut */
      {"\x0b\x0c", 2},                                          /* a group */
      {"\x0c", 1},                                              /* its end */
      {"\x0e", 1},                                              /* wire types that nobody knows */
      {"\x0f", 1},                                              /* */
      {"\x02\x00", 2},                                          /* field 0 */
      {"\xff\xff\xff\xff\xff\x01\x00", 7},                      /* a field number of more than 32 bits */
      {"\x78\x05", 2},                                          /* field 15 as a number */
      {"\x22\x05xy", 4},                                        /* a string, cut */
      {"\x7a\x01x\x10", 4},                                     /* cut behind the payload */
  };
  ProtobufCMessage *m = NULL;
  struct blob *got = NULL;

  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    int r = unpack(GET_REPLY, bad[i].bytes, bad[i].len, &m, &got);
    if (r != -FB_EPROTO)
      fail_msg("malformed message %zu gives %d", i, r);
    assert_int_equal(unpack(GET_REPLY, bad[i].bytes, bad[i].len, &m, NULL), -FB_EPROTO);
  }
  assert_null(m);
  assert_null(got);
}

static void every_truncation_is_safe(void **state) {
  Forebay__V1__GetReply inner = reply_head();
  Forebay__V1__MultiGetReply outer = FOREBAY__V1__MULTI_GET_REPLY__INIT;
  struct blob *payload = blob_copy("the bytes", 9), *got;
  ProtobufCMessage *mo, *mi;

  (void)state;
  outer.index = 77;
  struct blob *b = wire_pack_nested(&outer.base, &inner.base, payload);
  uint8_t *flat = flatten(b);
  unsigned good = 0;
  for (size_t len = 0; len < b->len; len++) {
    struct blob *cut = in_pieces(flat, len, 5);
    int r = wire_unpack_nested(&forebay__v1__multi_get_reply__descriptor, GET_REPLY, cut, &mo, &mi, &got);
    blob_unref(&cut);
    if (r == 0) {
      good++;
      blob_unref(&got);
      protobuf_c_message_free_unpacked(mo, NULL);
      protobuf_c_message_free_unpacked(mi, NULL);
    } else {
      assert_int_equal(r, -FB_EPROTO);
    }
  }
  assert_int_equal(good, 2); /* nothing at all, and the index alone */
  free(flat);
  blob_unref(&b);
  blob_unref(&payload);
}

static void names_with_a_nul_are_told_apart(void **state) {
  ProtobufCMessage *m;

  (void)state;
  assert_int_equal(unpack(GET_REQUEST,
                          "\x12\x05"
                          "a\0b/c",
                          7, &m, NULL),
                   -FB_EKEYNAME);
  assert_int_equal(unpack(GET_REQUEST,
                          "\x0a\x02"
                          "n\0",
                          4, &m, NULL),
                   -FB_ENSNAME);
  assert_int_equal(unpack(GET_REPLY,
                          "\x22\x02"
                          "p\0",
                          4, &m, NULL),
                   -FB_EPROTO);
  /* Inside a list, too. */
  assert_int_equal(unpack(&forebay__v1__multi_get_request__descriptor,
                          "\x0a\x01n\x12\x05\x0a\x03"
                          "k\0k",
                          10, &m, NULL),
                   -FB_EKEYNAME);
}

static void fields_and_levels_are_bounded(void **state) {
  ProtobufCMessage *m;
  size_t len = 2 * (WIRE_FIELDS_MAX + 1);
  uint8_t *many = malloc(len + 4);

  (void)state;
  for (size_t i = 0; i < len; i += 2) { /* empty items, two bytes each */
    many[i] = 0x12;
    many[i + 1] = 0;
  }
  assert_int_equal(unpack(&forebay__v1__multi_get_request__descriptor, many, len, &m, NULL), -FB_EPROTO);
  assert_int_equal(unpack(&forebay__v1__multi_get_request__descriptor, many, len - 2, &m, NULL), 0);
  assert_int_equal(((Forebay__V1__MultiGetRequest *)m)->n_items, WIRE_FIELDS_MAX);
  protobuf_c_message_free_unpacked(m, NULL);
  /* Unknown fields inside an item count as well. */
  size_t inner = len - 8;
  many[0] = 0x12;
  many[1] = (uint8_t)(inner | 0x80);
  many[2] = (uint8_t)(inner >> 7 | 0x80);
  many[3] = (uint8_t)(inner >> 14);
  for (size_t i = 4; i < 4 + inner; i += 2) {
    many[i] = 0x70; /* field 14 */
    many[i + 1] = 1;
  }
  assert_int_equal(unpack(&forebay__v1__multi_get_request__descriptor, many, 4 + inner, &m, NULL), 0);
  protobuf_c_message_free_unpacked(m, NULL);
  inner = 2 * WIRE_FIELDS_MAX;
  many[1] = (uint8_t)(inner | 0x80);
  many[2] = (uint8_t)(inner >> 7 | 0x80);
  many[3] = (uint8_t)(inner >> 14);
  memset(many + 4, 1, inner);
  for (size_t i = 4; i < 4 + inner; i += 2)
    many[i] = 0x70;
  assert_int_equal(unpack(&forebay__v1__multi_get_request__descriptor, many, 4 + inner, &m, NULL), -FB_EPROTO);
  free(many);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(payload_is_shared_not_copied),     cmocka_unit_test(it_is_what_protobuf_packs),
      cmocka_unit_test(absent_and_empty_payloads_differ), cmocka_unit_test(pieces_of_any_size_do),
      cmocka_unit_test(another_order_is_understood),      cmocka_unit_test(nested_payloads),
      cmocka_unit_test(malformed_messages_are_refused),   cmocka_unit_test(every_truncation_is_safe),
      cmocka_unit_test(names_with_a_nul_are_told_apart),  cmocka_unit_test(fields_and_levels_are_bounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
