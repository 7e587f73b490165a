/* test_crc.c - CRC32C against the vectors of RFC 3720, appendix B.4, and its chaining. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/crc.h"
#include "tests/lib/testlib.h"

static void vectors(void **state) {
  uint8_t buf[32];
  /* The read command PDU of the appendix. */
  static const uint8_t pdu[48] = {0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                                  0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
                                  0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
                                  0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};

  (void)state;
  memset(buf, 0, sizeof buf);
  assert_int_equal(crc32c(0, buf, 32), 0x8a9136aa);
  memset(buf, 0xff, sizeof buf);
  assert_int_equal(crc32c(0, buf, 32), 0x62a8ab43);
  for (unsigned i = 0; i < 32; i++)
    buf[i] = (uint8_t)i;
  assert_int_equal(crc32c(0, buf, 32), 0x46dd794e);
  for (unsigned i = 0; i < 32; i++)
    buf[i] = (uint8_t)(31 - i);
  assert_int_equal(crc32c(0, buf, 32), 0x113fdb5c);
  assert_int_equal(crc32c(0, pdu, sizeof pdu), 0xd9963a56);
  assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
  assert_int_equal(crc32c(0, NULL, 0), 0);
}

/* The definition, bit by bit. */
static uint32_t slow_crc(const uint8_t *p, size_t len) {
  uint32_t crc = ~UINT32_C(0);

  for (size_t i = 0; i < len; i++) {
    crc ^= p[i];
    for (int bit = 0; bit < 8; bit++)
      crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
  }
  return ~crc;
}

static void chains_and_agrees_with_the_definition(void **state) {
  static uint8_t buf[5000];
  struct rng rng;

  (void)state;
  rng_init(&rng, test_seed("FOREBAY_TEST_SEED"));
  for (int round = 0; round < 200; round++) {
    size_t off = rng_below(&rng, 64), len = rng_below(&rng, sizeof buf - 64), cut = rng_below(&rng, len + 1);
    rng_fill(&rng, buf, sizeof buf);
    uint32_t want = slow_crc(buf + off, len);
    assert_int_equal(crc32c(0, buf + off, len), want);
    assert_int_equal(crc32c(crc32c(0, buf + off, cut), buf + off + cut, len - cut), want);
  }
}

static void bytes_are_little_endian(void **state) {
  uint8_t b[8];

  (void)state;
  put_le64(b, UINT64_C(0x0102030405060708));
  assert_int_equal(b[0], 8);
  assert_int_equal(b[7], 1);
  assert_int_equal(get_le64(b), UINT64_C(0x0102030405060708));
  assert_int_equal(get_le32(b), 0x05060708);
  assert_int_equal(get_le16(b), 0x0708);
  put_le32(b, 0xa0b0c0d0);
  put_le16(b + 4, 0xe0f0);
  assert_memory_equal(b, "\xd0\xc0\xb0\xa0\xf0\xe0", 6);
  assert_int_equal(min_u64(3, UINT64_MAX), 3);
  assert_int_equal(max_u64(3, UINT64_MAX), UINT64_MAX);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(vectors),
      cmocka_unit_test(chains_and_agrees_with_the_definition),
      cmocka_unit_test(bytes_are_little_endian),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
