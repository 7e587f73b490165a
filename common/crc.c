/* crc.c - the only user of ISA-L. */
#include "common/crc.h"

#include <isa-l/crc.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t len) {
  const uint8_t *p = data;

  /* ISA-L takes an int length and leaves the two inversions to its caller. */
  crc = ~crc;
  while (len > 0) {
    int n = len > (1 << 30) ? 1 << 30 : (int)len;
    crc = crc32_iscsi((unsigned char *)p, n, crc);
    p += n;
    len -= (size_t)n;
  }
  return ~crc;
}
