/* test_wire_check.c - a NUL byte in a string is found wherever it stands and however the blob is cut; everything else
 * is left to the unpacking. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "server/net/wire_check.h"
#include "tests/lib/testlib.h"

/* The packed message in pieces of `piece` bytes, empty ones between. */
static struct blob *cut(const uint8_t *data, size_t len, size_t piece) {
  struct blob *b = blob_new(1);
  for (size_t off = 0; off < len; off += piece) {
    assert_int_equal(blob_append(b, data, 0, NULL, NULL), 0);
    assert_int_equal(blob_append(b, data + off, len - off < piece ? len - off : piece, NULL, NULL), 0);
  }
  return b;
}

static int check_bytes(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len, struct err *e) {
  int first = 0;
  for (size_t piece = 1; piece <= len + 1; piece++) {
    struct blob *b = cut(data, len, piece);
    int r = wire_check_strings(type, b, e);
    blob_unref(&b);
    if (piece == 1)
      first = r;
    else
      assert_int_equal(r, first);
  }
  return first;
}

/* protobuf-c's strings are not const, though it only reads them when packing. */
static char *str(const char *s) { return (char *)(uintptr_t)s; }

/* Packs, replaces every '#' by a NUL, and checks. */
static int check(ProtobufCMessage *m, struct err *e) {
  size_t len = protobuf_c_message_get_packed_size(m);
  uint8_t *data = malloc(len + 1);
  protobuf_c_message_pack(m, data);
  for (size_t i = 0; i < len; i++)
    if (data[i] == '#')
      data[i] = 0;
  int r = check_bytes(m->descriptor, data, len, e);
  free(data);
  return r;
}

static void test_clean(void **state) {
  Forebay__V1__GetRequest m = FOREBAY__V1__GET_REQUEST__INIT;
  Forebay__V1__Route route = FOREBAY__V1__ROUTE__INIT;
  struct err e;
  (void)state;

  m.ns = str("data");
  m.key = str("a/b");
  m.offset = 0x100; /* zero bytes in numbers are none of ours */
  m.etag = 0x0100000000000000;
  route.ring_hash = 1;
  m.route = &route;
  assert_int_equal(check(&m.base, &e), 0);
  struct blob *empty = blob_new(1);
  assert_int_equal(wire_check_strings(&forebay__v1__get_request__descriptor, empty, &e), 0);
  blob_unref(&empty);
}

static void test_found(void **state) {
  Forebay__V1__GetRequest m = FOREBAY__V1__GET_REQUEST__INIT;
  struct err e;
  (void)state;

  m.ns = str("data");
  m.key = str("a#b");
  assert_int_equal(check(&m.base, &e), -FB_EKEYNAME);
  assert_non_null(strstr(e.text, "key"));
  m.key = str("ab#");
  assert_int_equal(check(&m.base, &e), -FB_EKEYNAME);
  m.key = str("ab");
  m.ns = str("#");
  assert_int_equal(check(&m.base, &e), -FB_ENSNAME);

  Forebay__V1__InvalidateRequest inv = FOREBAY__V1__INVALIDATE_REQUEST__INIT;
  inv.pattern = str("*#");
  assert_int_equal(check(&inv.base, &e), -EINVAL);
  Forebay__V1__ListRequest list = FOREBAY__V1__LIST_REQUEST__INIT;
  list.prefix = str("dir#");
  assert_int_equal(check(&list.base, &e), -FB_EKEYNAME);
}

static void test_found_within(void **state) {
  Forebay__V1__MultiGetRequest m = FOREBAY__V1__MULTI_GET_REQUEST__INIT;
  Forebay__V1__GetItem item[3], *items[3];
  struct err e;
  (void)state;

  for (unsigned i = 0; i < 3; i++) {
    forebay__v1__get_item__init(&item[i]);
    item[i].key = str("some/key");
    items[i] = &item[i];
  }
  m.n_items = 3;
  m.items = items;
  assert_int_equal(check(&m.base, &e), 0);
  item[2].key = str("some#key");
  assert_int_equal(check(&m.base, &e), -FB_EKEYNAME);

  Forebay__V1__SyncCatalogRequest sync = FOREBAY__V1__SYNC_CATALOG_REQUEST__INIT;
  Forebay__V1__Namespace ns = FOREBAY__V1__NAMESPACE__INIT, *records[] = {&ns};
  ns.name = str("n");
  ns.origin = str("/data#");
  sync.n_records = 1;
  sync.records = records;
  assert_int_equal(check(&sync.base, &e), -EINVAL);
  assert_non_null(strstr(e.text, "origin"));
}

static void test_bytes_fields_are_free(void **state) {
  Forebay__V1__PutRequest m = FOREBAY__V1__PUT_REQUEST__INIT;
  uint8_t zeros[64] = {0};
  struct err e;
  (void)state;

  m.ns = str("n");
  m.key = str("k");
  m.data = (ProtobufCBinaryData){sizeof zeros, zeros};
  assert_int_equal(check(&m.base, &e), 0);
}

/* What protobuf-c refuses is no business of this check, and must not lead it out of the message. */
static void test_malformed(void **state) {
  static const struct {
    uint8_t data[16];
    size_t len;
  } bad[] = {
      {{0x0a}, 1},                                                           /* tag without length */
      {{0x0a, 0x05, 'a', 0}, 4},                                             /* longer than the message */
      {{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 11}, /* length of 2^64 */
      {{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}, 11}, /* tag of 11 bytes */
      {{0x0b, 0x00}, 2},                                                     /* a group */
      {{0x19, 0, 0}, 3},                                                     /* half a fixed64 */
      {{0x18}, 1},                                                           /* varint without a byte */
      {{0x32, 0x02, 0x08}, 3},                                               /* message cut off */
  };
  struct err e;
  (void)state;

  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(check_bytes(&forebay__v1__get_request__descriptor, bad[i].data, bad[i].len, &e), 0);
  /* An unknown field is skipped, the string after it is not. */
  const uint8_t unknown[] = {0xa2, 0x06, 0x01, 0x00, 0x12, 0x02, 'k', 0x00};
  assert_int_equal(check_bytes(&forebay__v1__get_request__descriptor, unknown, sizeof unknown, &e), -FB_EKEYNAME);
  /* A message's own end holds: the route says 4 bytes, its unknown string 9. */
  const uint8_t inner[] = {0x32, 0x04, 0x7a, 0x09, 'x', 0x00, 0x00, 0x00, 0x00};
  assert_int_equal(check_bytes(&forebay__v1__get_request__descriptor, inner, sizeof inner, &e), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_clean),        cmocka_unit_test(test_found),
      cmocka_unit_test(test_found_within), cmocka_unit_test(test_bytes_fields_are_free),
      cmocka_unit_test(test_malformed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
