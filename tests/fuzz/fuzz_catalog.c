/* fuzz_catalog.c - any bytes as a catalog file: refused with a text, or taken so that every record that came out is
 * well-formed, and the same file taken twice changes nothing. The checksum would keep a fuzzer out, so an odd first
 * byte has the rest wrapped in a head that fits it. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/crc.h"
#include "server/service/catalog.h"
#include "server/service/parts.h"

#define HEAD_BYTES 16u

static struct service service; /* what taking a record touches: the tier and the attributes */

static void check(void *arg, const struct ns_record *r, unsigned n) {
  *(unsigned *)arg = n;
  for (unsigned i = 0; i < n; i++) {
    struct err e = {0};
    if (ns_record_check(&r[i], &e) < 0)
      abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct catalog *c;
  struct err e = {0};
  unsigned first = 0, second = 0;

  if (size < 1)
    return 0;
  if (!service.tier && (tier_ram_new(&service.tier, 16u << 20, &e) < 0 || attr_table_new(&service.attrs, 64) < 0))
    abort();
  bool wrap = data[0] & 1;
  size_t len = size - 1 + (wrap ? HEAD_BYTES : 0);
  uint8_t *file = malloc(len ? len : 1);
  memcpy(file + (wrap ? HEAD_BYTES : 0), data + 1, size - 1);
  if (wrap) {
    memcpy(file, "FBCATLG1", 8);
    put_le32(file + 8, (uint32_t)(size - 1));
    put_le32(file + 12, crc32c(0, file + HEAD_BYTES, size - 1));
  }
  if (catalog_new(&c, &service, "/nonexistent", &e) < 0)
    abort();
  int r = catalog_decode(c, file, len, &e);
  if (r < 0 && !e.text[0])
    abort();
  if (catalog_all(c, true, check, &first) == 0 && r == 0) {
    if (catalog_decode(c, file, len, &e) < 0 || catalog_all(c, true, check, &second) < 0 || first != second)
      abort();
  }
  catalog_free(&c);
  free(file);
  return 0;
}
