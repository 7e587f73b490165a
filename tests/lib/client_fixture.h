/* client_fixture.h - a client on a fake cluster, buffers that show what was written where, and expectations with texts.
 */
#ifndef FB_TESTS_LIB_CLIENT_FIXTURE_H
#define FB_TESTS_LIB_CLIENT_FIXTURE_H

#include <forebay/forebay.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/fake_peer.h"
#include "tests/lib/testlib.h"

static inline fb_client *open_with(struct fake_cluster *f, struct fb_options o) {
  struct fb_error err = {0};
  fb_client *c = NULL;

  if (!o.peers)
    o.peers = fake_peers(f);
  if (!o.timeout_ms)
    o.timeout_ms = 10000;
  if (fb_open(&c, &o, &err) < 0)
    fail_msg("fb_open: %s", err.text);
  fake_calls_clear(f);
  return c;
}

static inline fb_client *open_default(struct fake_cluster *f) { return open_with(f, (struct fb_options){0}); }

static inline struct fb_client_stats stats_of(fb_client *c) {
  struct fb_client_stats s;

  fb_client_stats(c, &s);
  return s;
}

/* The call must return `want`, and if that is negative with the same code in `err` and a text. */
#define expect(want, call)                                                                                             \
  do {                                                                                                                 \
    err = (struct fb_error){0};                                                                                        \
    long long got_ = (call), want_ = (want);                                                                           \
    if (got_ != want_)                                                                                                 \
      fail_msg("%s returned %lld (%s: %s), expected %lld (%s)", #call, got_, fb_error_name((int)got_), err.text,       \
               want_, fb_error_name((int)want_));                                                                      \
    if (want_ < 0 && (err.code != want_ || !err.text[0]))                                                              \
      fail_msg("%s: code %d and text '%s' with it", #call, err.code, err.text);                                        \
  } while (0)

#define expect_text(part)                                                                                              \
  do {                                                                                                                 \
    if (!strstr(err.text, part))                                                                                       \
      fail_msg("'%s' is not in '%s'", part, err.text);                                                                 \
  } while (0)

/* Reads [offset, offset + len) into memory of exactly that size and compares it with the object. */
static inline void check_read(struct fake_cluster *f, fb_client *c, const char *key, uint64_t offset, size_t len) {
  struct fb_error err = {0};
  size_t size;
  const uint8_t *bytes = fake_bytes(f, key, &size);
  size_t due = offset >= size ? 0 : size - offset < len ? size - offset : len;
  uint8_t *buf = malloc(len + 64);

  memset(buf, 0xa5, len + 64);
  expect((ssize_t)due, fb_pread(c, FAKE_NS, key, buf, len, offset, &err));
  assert_memory_equal(buf, bytes + offset, due);
  for (size_t i = due; i < len + 64; i++)
    if (buf[i] != 0xa5)
      fail_msg("byte %zu behind the %zu that were read was written", i, due);
  free(buf);
}

#endif
