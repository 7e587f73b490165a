/* fuzz_wire_check.c - any bytes as a request: the look at its strings stays inside them, gives the same answer however
 * the blob is cut, and refuses nothing that is ASCII without a NUL. The first byte chooses the type, the second the
 * cut. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "server/net/wire_check.h"

static int check(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len, size_t piece) {
  struct blob *b = blob_new(4);
  struct err e = {0};

  for (size_t off = 0; off < len; off += piece) {
    size_t n = len - off < piece ? len - off : piece;
    uint8_t *copy = malloc(n); /* of its own, so that a read past a piece is seen */
    memcpy(copy, data + off, n);
    blob_append(b, copy, n, free, copy);
  }
  int r = wire_check_strings(type, b, &e);
  if (r < 0 && (e.code != r || !e.text[0]))
    abort();
  blob_unref(&b);
  return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const ProtobufCMessageDescriptor *const types[] = {
      &forebay__v1__get_request__descriptor, &forebay__v1__multi_get_request__descriptor,
      &forebay__v1__put_request__descriptor, &forebay__v1__sync_catalog_request__descriptor,
      &forebay__v1__warm_request__descriptor};

  if (size < 2)
    return 0;
  const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof *types)];
  size_t piece = 1 + data[1] % 16, len = size - 2;
  data += 2;
  int whole = check(type, data, len, len + 1);
  if (check(type, data, len, piece) != whole)
    abort();
  bool plain = true;
  for (size_t i = 0; i < len; i++)
    plain = plain && data[i] > 0 && data[i] < 0x80;
  if (whole < 0 && plain)
    abort();
  return 0;
}
