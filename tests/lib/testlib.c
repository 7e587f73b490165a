/* testlib.c - shared helpers of the unit tests and benches; see testlib.h. */
#include "tests/lib/testlib.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/hash.h"

static void die(const char *what, const char *on) {
  fprintf(stderr, "testlib: %s %s: %s\n", what, on, strerror(errno));
  abort();
}

uint64_t test_seed(const char *env) {
  const char *given = getenv(env);
  uint64_t seed;

  if (given && *given) {
    seed = strtoull(given, NULL, 0);
  } else {
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
      die("getrandom", env);
    seed &= UINT32_MAX; /* short enough to retype */
  }
  fprintf(stderr, "%s=%llu\n", env, (unsigned long long)seed);
  return seed;
}

void rng_init(struct rng *r, uint64_t seed) { r->state = seed; }

uint64_t rng_u64(struct rng *r) { return hash_mix64(r->state += UINT64_C(0x9e3779b97f4a7c15)); }

/* The high half of a product instead of a remainder: no division, and a bias under n / 2^64. */
uint64_t rng_below(struct rng *r, uint64_t n) { return (uint64_t)(((unsigned __int128)rng_u64(r) * n) >> 64); }

uint64_t rng_range(struct rng *r, uint64_t lo, uint64_t hi) { return lo + rng_below(r, hi - lo + 1); }

double rng_unit(struct rng *r) { return (double)(rng_u64(r) >> 11) * 0x1p-53; }

void rng_fill(struct rng *r, void *buf, size_t len) {
  uint8_t *p = buf;

  while (len > 0) {
    uint64_t x = rng_u64(r);
    size_t n = len < sizeof x ? len : sizeof x;
    memcpy(p, &x, n);
    p += n;
    len -= n;
  }
}

void rng_shuffle(struct rng *r, void *base, size_t n, size_t size) {
  char *p = base;

  for (size_t i = n; i > 1; i--) {
    char *a = p + (i - 1) * size, *b = p + rng_below(r, i) * size;
    for (size_t k = 0; k < size; k++) {
      char t = a[k];
      a[k] = b[k];
      b[k] = t;
    }
  }
}

char *test_tmpdir(void) {
  const char *base = getenv("TMPDIR");
  char *path = test_printf("%s/forebay-test-XXXXXX", base && *base ? base : "/tmp");

  if (!mkdtemp(path))
    die("mkdtemp", path);
  return path;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  return remove(path);
}

void test_rmtree(const char *path) {
  if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
    die("cannot remove", path);
}

char *test_printf(const char *fmt, ...) {
  char *text;
  va_list ap;

  va_start(ap, fmt);
  if (vasprintf(&text, fmt, ap) < 0)
    die("vasprintf", fmt);
  va_end(ap);
  return text;
}

void test_write_file(const char *path, const void *data, size_t len) {
  const char *p = data;
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

  if (fd < 0)
    die("cannot create", path);
  while (len > 0) {
    ssize_t n = write(fd, p, len);
    if (n < 0)
      die("cannot write", path);
    p += n;
    len -= (size_t)n;
  }
  if (close(fd) < 0)
    die("cannot close", path);
}

char *test_read_file(const char *path, size_t *ret_len) {
  FILE *f = fopen(path, "rbe");
  size_t len = 0, cap = 4096;
  char *buf = malloc(cap);

  if (!f || !buf)
    die("cannot open", path);
  for (;;) {
    size_t n = fread(buf + len, 1, cap - len - 1, f);
    len += n;
    if (n == 0)
      break;
    if (len + 1 == cap && !(buf = realloc(buf, cap *= 2)))
      die("cannot hold", path);
  }
  if (ferror(f))
    die("cannot read", path);
  fclose(f);
  buf[len] = '\0';
  if (ret_len)
    *ret_len = len;
  return buf;
}

bool test_wait(bool (*cond)(void *), void *arg, int64_t timeout_ms) {
  int64_t deadline = deadline_in_ms(timeout_ms);

  for (;;) {
    if (cond(arg))
      return true;
    if (clock_mono_ns() >= deadline)
      return false;
    struct timespec ms = clock_timespec(NS_PER_MS);
    nanosleep(&ms, NULL);
  }
}
