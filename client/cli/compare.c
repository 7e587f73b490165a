/* compare.c - reads both sides piece by piece; on a difference, finds out what kind it is. */
#include "client/cli/compare.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ATTEMPTS 3
#define WAIT_MAX_MS 1000
/* Clocks of file servers and the time a stat takes on its way. */
#define TTL_MARGIN_NS INT64_C(2000000000)

struct side_by_side {
  fb_client *c;
  const struct fb_ns *ns;
  int origin_fd;
  const char *key;
  char *cached, *original;
  compare_progress_fn progress;
  void *arg;
};

static int64_t timespec_ns(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }

static void report(struct compare_report *r, enum compare_outcome outcome, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void report(struct compare_report *r, enum compare_outcome outcome, int code, const char *fmt, ...) {
  va_list ap;

  r->outcome = outcome;
  r->code = code;
  va_start(ap, fmt);
  vsnprintf(r->text, sizeof r->text, fmt, ap);
  va_end(ap);
}

/* Reads until `len` or the end; a negative errno. */
static ssize_t read_full(int fd, char *buf, size_t len, uint64_t offset) {
  size_t done = 0;

  while (done < len) {
    ssize_t n = pread(fd, buf + done, len - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -errno;
    if (n == 0)
      break;
    done += (size_t)n;
  }
  return (ssize_t)done;
}

static size_t first_difference(const char *a, const char *b, size_t n) {
  size_t i = 0;

  /* memcmp is an order of magnitude faster than a loop, but does not say where. */
  for (; i + 4096 <= n && memcmp(a + i, b + i, 4096) == 0; i += 4096)
    ;
  while (i < n && a[i] == b[i])
    i++;
  return i;
}

static bool same_stat(const struct stat *a, const struct stat *b) {
  return a->st_size == b->st_size && a->st_ino == b->st_ino && timespec_ns(a->st_mtim) == timespec_ns(b->st_mtim);
}

/* The two sides differ at r->offset. Was the origin's file the same all the time, and is it the version that was read?
 */
static void judge(const struct side_by_side *s, const struct stat *before, const struct fb_info *info,
                  struct compare_report *r) {
  struct timespec now;
  struct stat after;

  if (fstatat(s->origin_fd, s->key, &after, 0) < 0) {
    report(r, COMPARE_VANISHED, 0, "was removed while it was read");
    return;
  }
  if (!same_stat(before, &after)) {
    report(r, COMPARE_CHANGED, 0, "was rewritten while it was read");
    return;
  }
  bool older = s->ns->kind == FB_NS_DATASET &&
               (info->size != (uint64_t)after.st_size || info->mtime_ns != timespec_ns(after.st_mtim));
  if (!older) {
    report(r, COMPARE_DIFFERS, 0, "differs from its origin at offset %" PRIu64, r->offset);
    return;
  }
  clock_gettime(CLOCK_REALTIME, &now);
  if (timespec_ns(now) - timespec_ns(after.st_ctim) < s->ns->attr_ttl_ms * INT64_C(1000000) + TTL_MARGIN_NS)
    report(r, COMPARE_CHANGED, 0, "changed at the origin so recently that the cache may still serve the old version");
  else
    report(r, COMPARE_DIFFERS, 0, "differs from its origin at offset %" PRIu64 ": the cache serves an older version",
           r->offset);
}

/* The cache could not read it: is that a failure, or the truth? */
static void judge_error(const struct side_by_side *s, const struct stat *before, int code, const char *text,
                        struct compare_report *r) {
  struct stat after;
  bool gone = fstatat(s->origin_fd, s->key, &after, 0) < 0;

  if (gone)
    report(r, COMPARE_VANISHED, 0, "was removed while it was read");
  else if (!same_stat(before, &after) || code == -FB_ECHANGED)
    report(r, COMPARE_CHANGED, 0, "was rewritten while it was read");
  else
    report(r, COMPARE_FAILED, code, "%s", text[0] ? text : fb_error_describe(code));
}

static void attempt(const struct side_by_side *s, int fd, struct compare_report *r) {
  struct fb_error err = {0};
  struct fb_info info = {0};
  struct stat before;

  *r = (struct compare_report){.outcome = COMPARE_SAME};
  if (fstat(fd, &before) < 0 || !S_ISREG(before.st_mode)) {
    report(r, COMPARE_FAILED, -EINVAL, "is not a regular file at the origin");
    return;
  }
  for (;;) {
    ssize_t n =
        fb_pread_version(s->c, s->ns->name, s->key, info.etag, s->cached, COMPARE_PIECE_BYTES, r->bytes, &info, &err);
    if (n < 0) {
      judge_error(s, &before, (int)n, err.text, r);
      return;
    }
    ssize_t m = read_full(fd, s->original, COMPARE_PIECE_BYTES, r->bytes);
    if (m < 0) {
      report(r, COMPARE_FAILED, (int)m, "cannot be read at the origin: %s", strerror((int)-m));
      return;
    }
    size_t common = (size_t)(n < m ? n : m);
    size_t equal = first_difference(s->cached, s->original, common);
    if (equal < common || n != m) {
      r->offset = r->bytes + equal;
      judge(s, &before, &info, r);
      return;
    }
    r->bytes += (uint64_t)n;
    s->progress(s->arg, n);
    /* Shorter than asked for on both sides: the end. */
    if ((size_t)n < COMPARE_PIECE_BYTES)
      return;
  }
}

void compare_file(fb_client *c, const struct fb_ns *ns, int origin_fd, const char *key, void *buf,
                  compare_progress_fn progress, void *arg, struct compare_report *ret) {
  struct side_by_side s = {c, ns, origin_fd, key, buf, (char *)buf + COMPARE_PIECE_BYTES, progress, arg};
  uint32_t wait_ms = ns->attr_ttl_ms < WAIT_MAX_MS ? ns->attr_ttl_ms : WAIT_MAX_MS;

  for (int i = 0; i < ATTEMPTS; i++) {
    if (i > 0) {
      /* A new version is known once the old attributes have run out. */
      struct timespec pause = {wait_ms / 1000, (long)(wait_ms % 1000) * 1000000};
      nanosleep(&pause, NULL);
      progress(arg, -(int64_t)ret->bytes);
    }
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    int fd = openat(origin_fd, key, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
      int rc = -errno;
      *ret = (struct compare_report){0};
      if (rc == -ENOENT || rc == -ENOTDIR)
        report(ret, COMPARE_VANISHED, 0, "is not at the origin");
      else
        report(ret, COMPARE_FAILED, rc, "cannot be opened at the origin: %s", strerror(-rc));
      return;
    }
    attempt(&s, fd, ret);
    close(fd);
    if (ret->outcome != COMPARE_CHANGED && !(ret->outcome == COMPARE_FAILED && ret->code == -ENOENT))
      return;
  }
}
