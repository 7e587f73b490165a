/* testlib.h - what every test needs: repeatable randomness, a directory of its own, files in one call, and waiting for
 * a condition instead of sleeping. Helpers that cannot go on print why and abort: a test has nobody to return to. */
#ifndef FB_TESTS_LIB_TESTLIB_H
#define FB_TESTS_LIB_TESTLIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A small seeded generator (splitmix64). One per thread; the same seed gives the same sequence anywhere. */
struct rng {
  uint64_t state;
};

/* The seed of this run: from the environment variable `env` if it is set (decimal or 0x..), otherwise a new one.
 * Prints "ENV=seed" to stderr either way, so that a failure can be repeated. */
uint64_t test_seed(const char *env);

void rng_init(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n);               /* 0..n-1; n > 0 */
uint64_t rng_range(struct rng *r, uint64_t lo, uint64_t hi); /* lo..hi, both included; not the whole 64 bits */
double rng_unit(struct rng *r);                              /* [0, 1) */
void rng_fill(struct rng *r, void *buf, size_t len);
void rng_shuffle(struct rng *r, void *base, size_t n, size_t size);

/* A fresh directory below $TMPDIR or /tmp; malloc'd path, the caller's to test_rmtree and free. */
char *test_tmpdir(void);
/* Removes a tree, links not followed. Missing is fine. */
void test_rmtree(const char *path);

/* malloc'd "A/B"-style path or any other text. */
char *test_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Creates or replaces a file of exactly these bytes. */
void test_write_file(const char *path, const void *data, size_t len);
/* Reads a whole file into malloc'd memory, NUL after its end. */
char *test_read_file(const char *path, size_t *ret_len);

/* Calls cond(arg) every millisecond until it is true (returns true) or timeout_ms have passed (false). */
bool test_wait(bool (*cond)(void *), void *arg, int64_t timeout_ms);

#endif
