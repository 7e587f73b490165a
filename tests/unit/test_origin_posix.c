/* test_origin_posix.c - the directory origin: nothing outside the root, one version or an error, whole files or none.
 */
#include <dirent.h>
#include <errno.h>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "server/origin/posix_impl.h"
#include "tests/lib/testlib.h"

struct fixture {
  char *dir;  /* holds root/ and outside/ */
  char *root; /* dir/root */
  struct origin *o;
};

static char *in(struct fixture *fx, const char *path) {
  static _Thread_local char *ring[8];
  static _Thread_local unsigned at;
  at = (at + 1) % 8;
  free(ring[at]);
  return ring[at] = test_printf("%s/%s", fx->root, path);
}

static void put_file(struct fixture *fx, const char *path, const char *text) {
  test_write_file(in(fx, path), text, strlen(text));
}

static struct origin *new_origin(const char *root, const char *allowed, unsigned max_open) {
  struct origin *o = NULL;
  struct err e = {0};
  char *roots[] = {(char *)allowed};
  if (origin_posix_new(&o, root, roots, 1, max_open, &e) < 0)
    fail_msg("%s", e.text);
  return o;
}

static int setup(void **state) {
  struct fixture *fx = calloc(1, sizeof *fx);
  fx->dir = test_tmpdir();
  fx->root = test_printf("%s/root", fx->dir);
  assert_int_equal(mkdir(fx->root, 0755), 0);
  char *outside = test_printf("%s/outside", fx->dir), *secret = test_printf("%s/outside/secret", fx->dir);
  assert_int_equal(mkdir(outside, 0755), 0);
  test_write_file(secret, "secret", 6);
  free(outside);
  free(secret);
  fx->o = new_origin(fx->root, fx->dir, 4);
  *state = fx;
  return 0;
}

static int teardown(void **state) {
  struct fixture *fx = *state;
  origin_free(&fx->o);
  test_rmtree(fx->dir);
  free(fx->dir);
  free(fx->root);
  free(fx);
  return 0;
}

static int fd_count(void) {
  DIR *d = opendir("/proc/self/fd");
  int n = 0;
  while (readdir(d))
    n++;
  closedir(d);
  return n;
}

static void origins_share_their_descriptors(void **state) {
  struct fixture *fx = *state;
  struct origin_fds fds = {.max = 3};
  struct origin *o[2];
  struct err e = {0};
  char name[16], buf[16];
  char *roots[] = {fx->root};

  for (int i = 0; i < 2; i++) {
    assert_int_equal(origin_posix_new(&o[i], fx->root, roots, 1, 8, &e), 0);
    origin_posix_share_fds(o[i], &fds);
  }
  int before = fd_count();
  for (int k = 0; k < 40; k++) {
    snprintf(name, sizeof name, "s%d", k % 10);
    char *path = in(fx, name);
    test_write_file(path, name, strlen(name));
    assert_int_equal(origin_read(o[k % 2], name, 0, 0, buf, sizeof buf, NULL, &e), (int)strlen(name));
    assert_memory_equal(buf, name, strlen(name));
    assert_true(atomic_load(&fds.used) <= 3);
    assert_true(fd_count() <= before + 3);
  }
  assert_int_equal(atomic_load(&fds.used), 3);
  origin_free(&o[0]);
  origin_free(&o[1]);
  assert_int_equal(atomic_load(&fds.used), 0);
}

static int read_text(struct fixture *fx, const char *path, uint64_t etag, char *buf, size_t cap) {
  struct err e = {0};
  ssize_t n = origin_read(fx->o, path, etag, 0, buf, cap - 1, NULL, &e);
  if (n >= 0)
    buf[n] = '\0';
  else
    assert_true(e.code == n && e.text[0]);
  return (int)n;
}

static uint64_t etag_of(struct fixture *fx, const char *path) {
  struct origin_stat st;
  struct err e = {0};
  if (origin_stat(fx->o, path, &st, &e) < 0)
    fail_msg("%s", e.text);
  return st.etag;
}

static int stat_code(struct fixture *fx, const char *path) {
  struct origin_stat st;
  struct err e = {0};
  int r = origin_stat(fx->o, path, &st, &e);
  assert_true(r == 0 || (e.code == r && e.text[0]));
  return r;
}

static void test_new(void **state) {
  struct fixture *fx = *state;
  struct origin *o = NULL;
  struct err e = {0};
  char *dir[] = {fx->dir}, *outside[] = {test_printf("%s/outside", fx->dir)}, *link = test_printf("%s/link", fx->dir);
  char *half[] = {test_printf("%s/ro", fx->dir)}, *missing = test_printf("%s/missing", fx->dir);
  char *roots[] = {(char *)"/nowhere", fx->root};

  assert_int_equal(origin_posix_new(&o, "relative", dir, 1, 4, &e), -EINVAL);
  assert_int_equal(origin_posix_new(&o, NULL, dir, 1, 4, &e), -EINVAL);
  assert_int_equal(origin_posix_new(&o, fx->root, dir, 1, 1u << 30, &e), -EINVAL);
  assert_int_equal(origin_posix_new(&o, fx->root, NULL, 0, 4, &e), -FB_EORIGINROOT);
  assert_non_null(strstr(e.text, "origin.roots"));
  assert_int_equal(origin_posix_new(&o, fx->root, outside, 1, 4, &e), -FB_EORIGINROOT);
  assert_int_equal(origin_posix_new(&o, fx->root, half, 1, 4, &e), -FB_EORIGINROOT); /* "…/ro" is not above "…/root" */
  assert_int_equal(origin_posix_new(&o, missing, dir, 1, 4, &e), -ENOENT);
  assert_int_equal(origin_posix_new(&o, missing, outside, 1, 4, &e), -FB_EORIGINROOT); /* not even that it is missing */
  put_file(fx, "file", "x");
  assert_int_equal(origin_posix_new(&o, in(fx, "file"), dir, 1, 4, &e), -ENOTDIR);
  /* A link counts as what it leads to. */
  assert_int_equal(symlink(outside[0], link), 0);
  char *only_root[] = {fx->root};
  assert_int_equal(unlink(link), 0);
  char *inner = in(fx, "inner");
  assert_int_equal(symlink(outside[0], inner), 0);
  assert_int_equal(origin_posix_new(&o, inner, only_root, 1, 4, &e), -FB_EORIGINROOT);
  assert_int_equal(origin_posix_new(&o, inner, outside, 1, 4, &e), 0);
  origin_free(&o);
  assert_null(o);
  assert_int_equal(origin_posix_new(&o, fx->root, roots, 2, 0, &e), 0);
  origin_free(&o);
  char *slash[] = {(char *)"/"};
  assert_int_equal(origin_posix_new(&o, fx->root, slash, 1, 0, &e), 0);
  origin_free(&o);
  origin_free(&o);
  free(outside[0]);
  free(half[0]);
  free(link);
  free(missing);
}

static void test_stat_and_read(void **state) {
  struct fixture *fx = *state;
  char buf[64];
  struct origin_stat st = {0}, st2 = {0};
  struct err e = {0};

  mkdir(in(fx, "a"), 0755);
  put_file(fx, "a/f", "hello world");
  put_file(fx, "empty", "");
  assert_int_equal(origin_stat(fx->o, "a/f", &st, &e), 0);
  assert_int_equal(st.size, 11);
  assert_false(st.directory);
  assert_true(st.etag != 0);
  assert_true(st.mtime_ns <= clock_wall_ns() && st.mtime_ns > clock_wall_ns() - 60 * NS_PER_S);
  assert_int_equal(origin_stat(fx->o, "a", &st2, &e), 0);
  assert_true(st2.directory);
  assert_int_equal(origin_stat(fx->o, "", &st2, &e), 0);
  assert_true(st2.directory);
  assert_int_equal(stat_code(fx, "a/missing"), -ENOENT);
  assert_int_equal(stat_code(fx, "a/f/g"), -ENOTDIR);

  memset(buf, '#', sizeof buf);
  assert_int_equal(origin_read(fx->o, "a/f", st.etag, 0, buf, 5, NULL, &e), 5);
  assert_memory_equal(buf, "hello#", 6);
  assert_int_equal(origin_read(fx->o, "a/f", 0, 6, buf, 60, &st2, &e), 5);
  assert_memory_equal(buf, "world#", 6); /* never padded, never past the end */
  assert_true(st.etag == st2.etag && st.size == st2.size && st.mtime_ns == st2.mtime_ns);
  assert_int_equal(origin_read(fx->o, "a/f", st.etag, 11, buf, 5, NULL, &e), 0);
  assert_int_equal(origin_read(fx->o, "a/f", st.etag, 12, buf, 5, NULL, &e), -FB_EPASTEND);
  assert_int_equal(origin_read(fx->o, "a/f", st.etag, UINT64_MAX, buf, 5, NULL, &e), -FB_EPASTEND);
  assert_int_equal(origin_read(fx->o, "a/f", st.etag ^ 2, 0, buf, 5, NULL, &e), -FB_ECHANGED);
  assert_int_equal(origin_read(fx->o, "empty", 0, 0, buf, 5, &st2, &e), 0);
  assert_int_equal(st2.size, 0);
  assert_int_equal(read_text(fx, "a/missing", 0, buf, sizeof buf), -ENOENT);
  assert_int_equal(read_text(fx, "a/missing", 7, buf, sizeof buf), -ENOENT);
  assert_int_equal(read_text(fx, "a", 0, buf, sizeof buf), -EISDIR);
  struct origin_stats count;
  origin_stats(fx->o, &count);
  assert_int_equal(count.read_bytes, 10);
  assert_true(count.opens >= 3 && count.errors >= 4);
}

static void test_escapes(void **state) {
  struct fixture *fx = *state;
  char buf[64];
  static const struct {
    const char *name, *target;
    int code;
  } links[] = {
      {"abs", "/etc/passwd", -FB_EESCAPES},
      {"rel", "../outside/secret", -FB_EESCAPES},
      {"reldir", "../outside", -FB_EESCAPES},
      {"up", "..", -FB_EESCAPES},
      {"proc", "/proc/self/exe", -FB_EESCAPES},
      {"absroot", "/", -FB_EESCAPES},
      {"twice", "rel", -FB_EESCAPES},
      {"dangling", "nothing", -ENOENT},
      {"circle", "circle", -ELOOP},
      {"inside", "d/f", 0},
      {"dotted", "d/../d/f", 0},
  };

  mkdir(in(fx, "d"), 0755);
  put_file(fx, "d/f", "inside");
  assert_int_equal(symlink("../d/f", in(fx, "d/back")), 0);
  for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
    assert_int_equal(symlink(links[i].target, in(fx, links[i].name)), 0);
    assert_int_equal(stat_code(fx, links[i].name), links[i].code);
    int r = read_text(fx, links[i].name, 0, buf, sizeof buf);
    if (links[i].code < 0 && strcmp(links[i].name, "up") != 0)
      assert_int_equal(r, links[i].code);
    if (links[i].code == 0)
      assert_string_equal(buf, "inside");
  }
  assert_true(read_text(fx, "d/back", 0, buf, sizeof buf) == 6);
  assert_int_equal(stat_code(fx, "reldir/secret"), -FB_EESCAPES);
  assert_int_equal(stat_code(fx, "../outside/secret"), -FB_EESCAPES);
  assert_int_equal(stat_code(fx, "/etc/passwd"), -FB_EESCAPES);
  assert_int_equal(stat_code(fx, "d/../../outside/secret"), -FB_EESCAPES);
  assert_int_equal(read_text(fx, "reldir/secret", 0, buf, sizeof buf), -FB_EESCAPES);
  /* Nor is anything written out there. */
  struct iovec iov = {.iov_base = (char *)"x", .iov_len = 1};
  struct err e = {0};
  assert_int_equal(origin_put(fx->o, "reldir/new", &iov, 1, true, NULL, &e), -FB_EESCAPES);
  assert_int_equal(origin_put(fx->o, "reldir/new/deep", &iov, 1, true, NULL, &e), -FB_EESCAPES);
  assert_int_equal(origin_put(fx->o, "../outside/new", &iov, 1, true, NULL, &e), -FB_EKEYNAME);
  char *outside = test_printf("%s/outside/new", fx->dir);
  assert_int_equal(access(outside, F_OK), -1);
  free(outside);

  /* Magic links themselves: an origin that lies in /proc. */
  struct origin *proc = new_origin("/proc/self", "/", 4);
  struct origin_stat st;
  assert_int_equal(origin_stat(proc, "status", &st, &e), 0);
  assert_int_equal(origin_stat(proc, "exe", &st, &e), -FB_EESCAPES);
  assert_int_equal(origin_stat(proc, "cwd/common/err.h", &st, &e), -FB_EESCAPES);
  assert_int_equal(origin_stat(proc, "fd/0", &st, &e), -FB_EESCAPES);
  assert_int_equal(origin_stat(proc, "root/etc/passwd", &st, &e), -FB_EESCAPES);
  origin_free(&proc);
}

static void test_special_files(void **state) {
  struct fixture *fx = *state;
  char buf[8];

  assert_int_equal(mkfifo(in(fx, "fifo"), 0666), 0);
  int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un addr = {.sun_family = AF_UNIX};
  snprintf(addr.sun_path, sizeof addr.sun_path, "%s", in(fx, "socket"));
  assert_int_equal(bind(s, (struct sockaddr *)&addr, sizeof addr), 0);
  int64_t start = clock_mono_ns();
  for (int i = 0; i < 2; i++) {
    const char *name = i ? "socket" : "fifo";
    assert_int_equal(stat_code(fx, name), -EINVAL);
    assert_int_equal(read_text(fx, name, 0, buf, sizeof buf), -EINVAL);
  }
  if (mknod(in(fx, "null"), S_IFCHR | 0666, makedev(1, 3)) == 0) {
    assert_int_equal(stat_code(fx, "null"), -EINVAL);
    assert_int_equal(read_text(fx, "null", 0, buf, sizeof buf), -EINVAL);
  }
  assert_true(clock_mono_ns() - start < 5 * NS_PER_S);
  close(s);
}

/* Everything that can happen to a file between the look at it and the read. */
static void test_changes_between(void **state) {
  struct fixture *fx = *state;
  char buf[64];
  uint64_t etag;
  struct stat st;

  put_file(fx, "f", "version one");
  etag = etag_of(fx, "f");
  assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), 11);
  assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), 11); /* from the descriptor that is open */

  put_file(fx, "f", "version two"); /* rewritten in place, same size */
  assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), -FB_ECHANGED);
  etag = etag_of(fx, "f");
  assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), 11);
  assert_string_equal(buf, "version two");

  assert_int_equal(truncate(in(fx, "f"), 3), 0);
  assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), -FB_ECHANGED);
  assert_int_equal(truncate(in(fx, "f"), 11), 0); /* same size, zeros now */
  assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), -FB_ECHANGED);

  /* Same size, same mtime: ctime tells. */
  put_file(fx, "g", "aaaaaaaa");
  etag = etag_of(fx, "g");
  assert_int_equal(read_text(fx, "g", etag, buf, sizeof buf), 8);
  assert_int_equal(stat(in(fx, "g"), &st), 0);
  put_file(fx, "g", "bbbbbbbb");
  struct timespec times[2] = {st.st_atim, st.st_mtim};
  assert_int_equal(utimensat(AT_FDCWD, in(fx, "g"), times, 0), 0);
  assert_int_equal(read_text(fx, "g", etag, buf, sizeof buf), -FB_ECHANGED);
  assert_true(etag_of(fx, "g") != etag);

  /* Replaced by rename: another inode; the open descriptor's old one lost its name, which is a change, too. */
  etag = etag_of(fx, "g");
  assert_int_equal(read_text(fx, "g", etag, buf, sizeof buf), 8);
  put_file(fx, "new", "cccccccc");
  assert_int_equal(rename(in(fx, "new"), in(fx, "g")), 0);
  int r = read_text(fx, "g", etag, buf, sizeof buf);
  assert_true(r == -FB_ECHANGED || (r == 8 && strcmp(buf, "bbbbbbbb") == 0));
  assert_int_equal(read_text(fx, "g", 0, buf, sizeof buf), 8);
  assert_string_equal(buf, "cccccccc");

  etag = etag_of(fx, "g");
  assert_int_equal(unlink(in(fx, "g")), 0);
  assert_int_equal(read_text(fx, "g", etag, buf, sizeof buf), -ENOENT);
  assert_int_equal(read_text(fx, "g", 0, buf, sizeof buf), -ENOENT);
  assert_int_equal(mkdir(in(fx, "g"), 0755), 0);
  assert_int_equal(read_text(fx, "g", etag, buf, sizeof buf), -EISDIR);
}

/* A file that changed just now is read only when a later change could be told from it. */
static void test_racy_timestamp(void **state) {
  struct fixture *fx = *state;
  char buf[64];

  for (int i = 0; i < 5; i++) {
    put_file(fx, "f", "first.");
    int64_t start = clock_mono_ns();
    assert_int_equal(read_text(fx, "f", 0, buf, sizeof buf), 6);
    int64_t took = clock_mono_ns() - start;
    assert_true(took >=
                9 * NS_PER_MS); /* 20 ms but for what the file was old already, by a clock of up to 10 ms ticks */
    assert_true(took < NS_PER_S);
  }
  uint64_t etag = etag_of(fx, "f");
  assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), 6);
  int64_t best = INT64_MAX;
  for (int i = 0; i < 5; i++) {
    int64_t start = clock_mono_ns();
    assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), 6);
    int64_t took = clock_mono_ns() - start;
    best = took < best ? took : best;
  }
  assert_true(best < 9 * NS_PER_MS); /* old enough: not waited for again */
  /* An mtime far in the future is somebody's wish, not a change. */
  struct timespec t[2] = {clock_timespec(clock_wall_ns() + 86400 * NS_PER_S)};
  t[1] = t[0];
  assert_int_equal(utimensat(AT_FDCWD, in(fx, "f"), t, 0), 0);
  assert_int_equal(read_text(fx, "f", 0, buf, sizeof buf), 6);
  etag = etag_of(fx, "f");
  best = INT64_MAX;
  for (int i = 0; i < 5; i++) {
    int64_t start = clock_mono_ns();
    assert_int_equal(read_text(fx, "f", etag, buf, sizeof buf), 6);
    int64_t took = clock_mono_ns() - start;
    best = took < best ? took : best;
  }
  assert_true(best < 9 * NS_PER_MS);
}

/* A change in the very middle of a read: the second half of the buffer is memory whose first touch waits for us, so the
 * read stands still there until the file is another one. */
struct halted {
  struct fixture *fx;
  char *buf;
  uint64_t etag;
  ssize_t result;
};

#define HALF 16384
static void *halted_reader(void *arg) {
  struct halted *h = arg;
  h->result = origin_read(h->fx->o, "f", h->etag, 0, h->buf, 2 * HALF, NULL, NULL);
  return NULL;
}

static void test_change_in_the_middle(void **state) {
  struct fixture *fx = *state;
  char *one = malloc(2 * HALF), *two = malloc(2 * HALF);
  int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  struct uffdio_api api = {.api = UFFD_API};

  if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
    skip(); /* not root, or a sandbox */
  memset(one, '1', 2 * HALF);
  memset(two, '2', 2 * HALF);
  enum { REWRITE, REWRITE_HIDING, TRUNCATE, REPLACE, REMOVE, NOTHING, CASES };
  for (int kind = 0; kind < CASES; kind++) {
    test_write_file(in(fx, "f"), one, 2 * HALF);
    struct halted h = {.fx = fx, .etag = etag_of(fx, "f")};
    struct stat st;
    assert_int_equal(stat(in(fx, "f"), &st), 0);
    h.buf = mmap(NULL, 2 * HALF, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(h.buf != MAP_FAILED);
    struct uffdio_register reg = {.range = {.start = (uintptr_t)h.buf + HALF, .len = HALF},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, halted_reader, &h), 0);
    struct uffd_msg msg;
    assert_int_equal(read(uffd, &msg, sizeof msg), sizeof msg); /* it stands */
    assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
    int fd = open(in(fx, "f"), O_WRONLY | O_CLOEXEC);
    switch (kind) {
    case REWRITE:
    case REWRITE_HIDING:
      assert_int_equal(pwrite(fd, two, 2 * HALF, 0), 2 * HALF);
      struct timespec times[2] = {st.st_atim, st.st_mtim};
      if (kind == REWRITE_HIDING)
        assert_int_equal(futimens(fd, times), 0);
      break;
    case TRUNCATE:
      assert_int_equal(ftruncate(fd, HALF), 0);
      break;
    case REPLACE:
      test_write_file(in(fx, "g"), two, 2 * HALF);
      assert_int_equal(rename(in(fx, "g"), in(fx, "f")), 0);
      break;
    case REMOVE:
      assert_int_equal(unlink(in(fx, "f")), 0);
      break;
    default:
      break;
    }
    close(fd);
    struct uffdio_zeropage zero = {.range = reg.range};
    assert_int_equal(ioctl(uffd, UFFDIO_ZEROPAGE, &zero), 0);
    pthread_join(reader, NULL);
    if (kind == NOTHING || (kind >= REPLACE && h.result > 0)) { /* the old file may serve who has it open */
      assert_int_equal(h.result, 2 * HALF);
      assert_memory_equal(h.buf, one, 2 * HALF);
    } else {
      assert_int_equal(h.result, -FB_ECHANGED);
    }
    munmap(h.buf, 2 * HALF);
  }
  close(uffd);
  free(one);
  free(two);
}

/* A writer that rewrites, replaces, truncates and removes while readers read: what is read is one version. */
#define RACE_BYTES 200000
struct race {
  struct fixture *fx;
  atomic_bool stop;
};

static void *race_writer(void *arg) {
  struct race *race = arg;
  struct rng rng;
  char *data = malloc(RACE_BYTES);
  char *path = test_printf("%s/racy", race->fx->root), *next = test_printf("%s/next", race->fx->root);

  rng_init(&rng, test_seed("FB_SEED"));
  for (unsigned v = 0; !atomic_load(&race->stop); v++) {
    memset(data, 'a' + (int)(v % 26), RACE_BYTES);
    unsigned how = (unsigned)rng_below(&rng, 8);
    if (how < 4) { /* in place, in pieces */
      int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
      for (size_t at = 0; at < RACE_BYTES; at += 20000)
        if (pwrite(fd, data + at, 20000, (off_t)at) != 20000)
          abort();
      close(fd);
    } else if (how < 6) {
      test_write_file(next, data, RACE_BYTES);
      if (rename(next, path) < 0)
        abort();
    } else if (how == 6) {
      test_write_file(path, data, RACE_BYTES); /* truncates first */
    } else {
      unlink(path);
      test_write_file(path, data, RACE_BYTES);
    }
    struct timespec pause = clock_timespec((int64_t)rng_below(&rng, 40) * NS_PER_MS);
    nanosleep(&pause, NULL); /* readers wait 20 ms for quiet: let some get through, and some be caught */
  }
  free(data);
  free(path);
  free(next);
  return NULL;
}

static void test_changes_during(void **state) {
  struct fixture *fx = *state;
  struct race race = {.fx = fx};
  pthread_t writer;
  char *buf = malloc(RACE_BYTES + 1);
  unsigned good = 0, changed = 0, gone = 0;
  int64_t until = clock_mono_ns() + 2 * NS_PER_S, give_up = until + 30 * NS_PER_S;

  put_file(fx, "racy", "x");
  assert_int_equal(pthread_create(&writer, NULL, race_writer, &race), 0);
  while (clock_mono_ns() < until || ((good < 5 || changed < 5) && clock_mono_ns() < give_up)) {
    struct origin_stat st;
    struct err e = {0};
    ssize_t n = origin_stat(fx->o, "racy", &st, &e);
    if (n == 0) /* in blocks, as the service does */
      for (uint64_t at = 0; at < st.size && n >= 0; at += 65536) {
        n = origin_read(fx->o, "racy", st.etag, at, buf + at, 65536, NULL, &e);
        if (n >= 0)
          assert_int_equal(n, st.size - at < 65536 ? st.size - at : 65536);
      }
    if (n >= 0 && st.size > 1) {
      good++;
      for (uint64_t i = 0; i < st.size; i++)
        assert_int_equal(buf[i], buf[0]);
    } else if (n < 0) {
      assert_true(n == -FB_ECHANGED || n == -ENOENT);
      changed += n == -FB_ECHANGED;
      gone += n == -ENOENT;
    }
  }
  atomic_store(&race.stop, true);
  pthread_join(writer, NULL);
  print_message("reads: %u of one version, %u changed, %u gone\n", good, changed, gone);
  assert_true(good >= 5 && changed >= 5);
  free(buf);
}

static void test_permissions(void **state) {
  struct fixture *fx = *state;
  char buf[8];

  put_file(fx, "secret", "x");
  assert_int_equal(mkdir(in(fx, "closed"), 0755), 0);
  put_file(fx, "closed/f", "x");
  assert_int_equal(chmod(in(fx, "secret"), 0600), 0);
  assert_int_equal(chmod(in(fx, "closed"), 0700), 0);
  if (geteuid() != 0)
    skip();
  assert_int_equal(chmod(fx->dir, 0755), 0);
  assert_int_equal(seteuid(65534), 0);
  int r1 = read_text(fx, "secret", 0, buf, sizeof buf), r2 = stat_code(fx, "closed/f"), r3 = stat_code(fx, "secret");
  struct iovec iov = {.iov_base = buf, .iov_len = 1};
  struct err e = {0}, e2 = {0};
  int r4 = origin_put(fx->o, "new", &iov, 1, true, NULL, &e);
  struct origin *o = NULL;
  char *roots[] = {fx->dir};
  int r5 = origin_posix_new(&o, in(fx, "closed"), roots, 1, 1, &e2);
  assert_int_equal(seteuid(0), 0);
  assert_int_equal(r1, -EACCES);
  assert_int_equal(r2, -EACCES);
  assert_int_equal(r3, 0);
  assert_int_equal(r4, -EACCES);
  assert_int_equal(r5, -EACCES);
  assert_non_null(strstr(e.text, "new"));
}

static void test_open_files(void **state) {
  struct fixture *fx = *state;
  char buf[16], name[16];
  struct origin_stats before, after;
  uint64_t etag[12];

  for (int i = 0; i < 12; i++) {
    snprintf(name, sizeof name, "f%d", i);
    put_file(fx, name, name);
    etag[i] = etag_of(fx, name);
  }
  int base = fd_count();
  origin_stats(fx->o, &before);
  for (int k = 0; k < 16; k++)
    assert_int_equal(read_text(fx, "f0", etag[0], buf, sizeof buf), 2);
  origin_stats(fx->o, &after);
  assert_int_equal(after.opens - before.opens, 1); /* a file is opened once for all its blocks */
  assert_int_equal(after.reads - before.reads, 16);
  assert_int_equal(fd_count(), base + 1);
  for (int round = 0; round < 3; round++)
    for (int i = 0; i < 12; i++) {
      snprintf(name, sizeof name, "f%d", i);
      assert_int_equal(read_text(fx, name, etag[i], buf, sizeof buf), (int)strlen(name));
      assert_string_equal(buf, name);
      assert_true(fd_count() <= base + 4);
    }
  /* A changed file's descriptor is not kept. */
  put_file(fx, "f11", "other");
  assert_int_equal(read_text(fx, "f11", etag[11], buf, sizeof buf), -FB_ECHANGED);
  assert_int_equal(fd_count(), base + 3);
  /* None at all. */
  struct origin *o = fx->o;
  fx->o = new_origin(fx->root, fx->dir, 0);
  int base0 = fd_count();
  assert_int_equal(read_text(fx, "f0", etag[0], buf, sizeof buf), 2);
  assert_int_equal(fd_count(), base0);
  origin_free(&fx->o);
  fx->o = o;
}

struct openers {
  struct fixture *fx;
  uint64_t etag[16];
};
static void *opener(void *arg) {
  struct openers *op = arg;
  struct rng rng;
  rng_init(&rng, (uint64_t)(uintptr_t)&rng);
  for (int i = 0; i < 3000; i++) {
    char name[16], buf[16];
    unsigned k = (unsigned)rng_below(&rng, 16);
    snprintf(name, sizeof name, "f%u", k);
    ssize_t n = origin_read(op->fx->o, name, op->etag[k], 0, buf, sizeof buf, NULL, NULL);
    if (n != (ssize_t)strlen(name) || memcmp(buf, name, strlen(name)) != 0)
      abort();
  }
  return NULL;
}

static void test_open_files_threads(void **state) {
  struct fixture *fx = *state;
  struct openers op = {.fx = fx};
  pthread_t t[4];

  for (int i = 0; i < 16; i++) {
    char name[16];
    snprintf(name, sizeof name, "f%d", i);
    put_file(fx, name, name);
    op.etag[i] = etag_of(fx, name);
  }
  int base = fd_count();
  for (int i = 0; i < 4; i++)
    assert_int_equal(pthread_create(&t[i], NULL, opener, &op), 0);
  for (int i = 0; i < 4; i++)
    pthread_join(t[i], NULL);
  assert_true(fd_count() <= base + 4);
}

/* --- list ------------------------------------------------------------------------------------------------------- */

struct listing {
  char text[4096];
  unsigned n, stop_at;
};
static int on_entry(void *arg, const char *path, const struct origin_stat *st) {
  struct listing *l = arg;
  size_t len = strlen(l->text);
  snprintf(l->text + len, sizeof l->text - len, "%s%s ", path, st->directory ? "/" : "");
  assert_true(st->etag != 0);
  return ++l->n == l->stop_at ? 77 : 0;
}
static const char *list(struct fixture *fx, const char *dir, bool recursive, int code) {
  static struct listing l;
  struct err e = {0};
  l = (struct listing){.n = 0};
  assert_int_equal(origin_list(fx->o, dir, recursive, on_entry, &l, &e), code);
  assert_true(code == 0 || e.text[0]);
  return l.text;
}

static void test_list(void **state) {
  struct fixture *fx = *state;

  assert_string_equal(list(fx, "", true, 0), "");
  mkdir(in(fx, "b"), 0755);
  mkdir(in(fx, "b/sub"), 0755);
  mkdir(in(fx, "empty"), 0755);
  put_file(fx, "z", "z");
  put_file(fx, "a", "a");
  put_file(fx, "b.txt", "b");
  put_file(fx, "b/2", "2");
  put_file(fx, "b/10", "10");
  put_file(fx, "b/sub/deep", "deep");
  put_file(fx, ".hidden", "h");
  put_file(fx, "b/" POSIX_TMP_PREFIX "0123.4", "in the making");
  put_file(fx, "bad\xff name", "no UTF-8");
  put_file(fx, "caf\xc3\xa9", "UTF-8");
  assert_int_equal(mkfifo(in(fx, "fifo"), 0666), 0);
  assert_int_equal(symlink("b/2", in(fx, "link")), 0);
  assert_int_equal(symlink("b", in(fx, "linkdir")), 0);
  assert_int_equal(symlink("../outside/secret", in(fx, "out")), 0);
  assert_int_equal(symlink("/", in(fx, "root")), 0);
  assert_int_equal(symlink("nothing", in(fx, "dangling")), 0);
  assert_int_equal(symlink("circle", in(fx, "circle")), 0);
  assert_int_equal(symlink("../../z", in(fx, "b/sub/up")), 0); /* within the root */

  assert_string_equal(list(fx, "", false, 0), ".hidden a b/ b.txt caf\xc3\xa9 empty/ link linkdir/ z ");
  assert_string_equal(list(fx, "", true, 0), ".hidden a b/10 b/2 b/sub/deep b/sub/up b.txt caf\xc3\xa9 link z ");
  assert_string_equal(list(fx, "b", false, 0), "b/10 b/2 b/sub/ ");
  assert_string_equal(list(fx, "b/sub", true, 0), "b/sub/deep b/sub/up ");
  assert_string_equal(list(fx, "linkdir", true, 0), "linkdir/10 linkdir/2 linkdir/sub/deep linkdir/sub/up ");
  list(fx, "missing", true, -ENOENT);
  list(fx, "z", true, -ENOTDIR);
  list(fx, "root", true, -FB_EESCAPES);
  list(fx, "..", true, -FB_EESCAPES);
  struct listing l = {.stop_at = 3};
  struct err e = {0};
  int fds = fd_count();
  assert_int_equal(origin_list(fx->o, "", true, on_entry, &l, &e), 77);
  assert_int_equal(l.n, 3);
  assert_int_equal(fd_count(), fds);
}

static void test_list_deep_and_wide(void **state) {
  struct fixture *fx = *state;
  char path[1024] = "deep";

  assert_int_equal(mkdir(in(fx, path), 0755), 0);
  for (int i = 0; i < 63; i++) {
    strcat(path, "/d");
    assert_int_equal(mkdir(in(fx, path), 0755), 0);
  }
  char file[1040];
  snprintf(file, sizeof file, "%s/f", path);
  put_file(fx, file, "x");
  int fds = fd_count();
  assert_non_null(strstr(list(fx, "", true, 0), "/d/f"));
  strcat(path, "/d");
  assert_int_equal(mkdir(in(fx, path), 0755), 0);
  list(fx, "", true, -ELOOP);
  assert_int_equal(fd_count(), fds);
  test_rmtree(in(fx, "deep"));
  assert_int_equal(mkdir(in(fx, "wide"), 0755), 0);
  for (int i = 0; i < 300; i++) {
    snprintf(path, sizeof path, "wide/%03d", (i * 7) % 300);
    put_file(fx, path, "");
  }
  const char *at = list(fx, "wide", true, 0);
  for (int i = 0; i < 300; i++, at += 9) {
    snprintf(path, sizeof path, "wide/%03d ", i);
    assert_memory_equal(at, path, 9);
  }
  /* Paths that are too long to be keys are left out. */
  char part[201];
  memset(part, 'x', 200);
  part[200] = '\0';
  path[0] = '\0';
  assert_int_equal(chdir(fx->root), 0);
  for (int i = 0; i < 6; i++) {
    assert_int_equal(mkdir(part, 0755), 0);
    assert_int_equal(chdir(part), 0);
    test_write_file("f", "x", 1);
  }
  assert_int_equal(chdir("/"), 0);
  struct listing l = {.n = 0};
  struct err e = {0};
  assert_int_equal(origin_list(fx->o, part, true, on_entry, &l, &e), 0);
  assert_int_equal(l.n, 5); /* 1005 + 2 bytes at most */
}

/* --- put -------------------------------------------------------------------------------------------------------- */

static int put_text(struct fixture *fx, const char *path, const char *text, bool overwrite, struct origin_stat *st) {
  size_t n = strlen(text), half = n / 2;
  struct iovec iov[4] = {{(char *)text, half}, {NULL, 0}, {(char *)text + half, n - half}, {NULL, 0}};
  struct err e = {0};
  int r = origin_put(fx->o, path, iov, 4, overwrite, st, &e);
  assert_true(r == 0 || (e.code == r && e.text[0]));
  return r;
}

static void expect_file(struct fixture *fx, const char *path, const char *text) {
  char *have = test_read_file(in(fx, path), NULL);
  assert_string_equal(have, text);
  free(have);
}

static int count_names(struct fixture *fx, const char *dir, const char *prefix) {
  DIR *d = opendir(in(fx, dir));
  struct dirent *ent;
  int n = 0;
  assert_non_null(d);
  while ((ent = readdir(d)))
    n += strncmp(ent->d_name, prefix, strlen(prefix)) == 0;
  closedir(d);
  return n;
}

static void test_put(void **state) {
  struct fixture *fx = *state;
  struct origin_stat st = {0};
  char buf[64];
  struct stat sb;

  assert_int_equal(put_text(fx, "f", "hello", false, &st), 0);
  expect_file(fx, "f", "hello");
  assert_int_equal(st.size, 5);
  assert_true(st.etag == etag_of(fx, "f"));
  assert_int_equal(read_text(fx, "f", st.etag, buf, sizeof buf), 5);
  assert_int_equal(put_text(fx, "f", "again", false, &st), -EEXIST);
  expect_file(fx, "f", "hello");
  assert_int_equal(chmod(in(fx, "f"), 0640), 0);
  assert_int_equal(put_text(fx, "f", "over", true, &st), 0);
  expect_file(fx, "f", "over");
  assert_int_equal(stat(in(fx, "f"), &sb), 0);
  assert_int_equal(sb.st_mode & 0777, 0640);
  assert_int_equal(put_text(fx, "empty", "", true, NULL), 0);
  expect_file(fx, "empty", "");
  struct err e = {0};
  assert_int_equal(origin_put(fx->o, "none", NULL, 0, false, &st, &e), 0);
  assert_int_equal(st.size, 0);

  /* Parents are made, also behind a link; a file in the way is an error. */
  assert_int_equal(put_text(fx, "x/y/z/f", "deep", false, &st), 0);
  expect_file(fx, "x/y/z/f", "deep");
  assert_int_equal(symlink("x/y", in(fx, "via")), 0);
  assert_int_equal(put_text(fx, "via/new/g", "link", false, &st), 0);
  expect_file(fx, "x/y/new/g", "link");
  assert_int_equal(put_text(fx, "f/g", "x", true, &st), -ENOTDIR);
  assert_int_equal(put_text(fx, "f/g/h", "x", true, &st), -ENOTDIR);
  assert_int_equal(put_text(fx, "x/y", "x", true, &st), -EISDIR);
  assert_int_equal(put_text(fx, "x/y", "x", false, &st), -EEXIST);
  assert_int_equal(symlink("nothing", in(fx, "dangling")), 0);
  assert_int_equal(put_text(fx, "dangling/f", "x", true, &st), -ENOENT);

  /* A link is replaced, its target is not written to. */
  assert_int_equal(symlink("f", in(fx, "l")), 0);
  assert_int_equal(put_text(fx, "l", "mine", false, &st), -EEXIST);
  assert_int_equal(put_text(fx, "l", "mine", true, &st), 0);
  expect_file(fx, "l", "mine");
  expect_file(fx, "f", "over");

  assert_int_equal(put_text(fx, "", "x", true, &st), -FB_EKEYEMPTY);
  assert_int_equal(put_text(fx, "a//b", "x", true, &st), -FB_EKEYNAME);
  assert_int_equal(put_text(fx, "x/" POSIX_TMP_PREFIX "1", "x", true, &st), -EINVAL);
  assert_int_equal(count_names(fx, "", POSIX_TMP_PREFIX), 0);
  assert_int_equal(count_names(fx, "x", POSIX_TMP_PREFIX), 0);

  /* Many pieces: more than one writev takes. */
  struct iovec iov[2000];
  char *all = calloc(1, 2 * 2000 + 1);
  for (int i = 0; i < 2000; i++) {
    memset(all + 2 * i, 'a' + i % 26, 2);
    iov[i] = (struct iovec){all + 2 * i, 2};
  }
  assert_int_equal(origin_put(fx->o, "many", iov, 2000, true, &st, &e), 0);
  assert_int_equal(st.size, 4000);
  expect_file(fx, "many", all);
  free(all);
}

static void test_put_leftovers(void **state) {
  struct fixture *fx = *state;
  struct origin_stat st;

  put_file(fx, POSIX_TMP_PREFIX "dead.1", "old");
  put_file(fx, POSIX_TMP_PREFIX "live.2", "new");
  struct timespec t[2] = {clock_timespec(clock_wall_ns() - 2 * 3600 * NS_PER_S)};
  t[1] = t[0];
  assert_int_equal(utimensat(AT_FDCWD, in(fx, POSIX_TMP_PREFIX "dead.1"), t, 0), 0);
  assert_int_equal(put_text(fx, "f", "x", true, &st), 0);
  assert_int_equal(access(in(fx, POSIX_TMP_PREFIX "dead.1"), F_OK), -1);
  assert_int_equal(access(in(fx, POSIX_TMP_PREFIX "live.2"), F_OK), 0);
}

struct putter {
  struct fixture *fx;
  pthread_barrier_t *barrier;
  char text[32];
  unsigned won, lost;
};
static void *putter(void *arg) {
  struct putter *p = arg;
  for (int i = 0; i < 20; i++) {
    char name[32];
    struct iovec iov = {p->text, strlen(p->text)};
    snprintf(name, sizeof name, "d%d/f", i);
    pthread_barrier_wait(p->barrier);
    int r = origin_put(p->fx->o, name, &iov, 1, false, NULL, NULL);
    if (r != 0 && r != -EEXIST)
      abort();
    p->won += r == 0;
    p->lost += r != 0;
  }
  return NULL;
}

static void test_put_exclusive_race(void **state) {
  struct fixture *fx = *state;
  enum { N = 4 };
  struct putter p[N] = {0};
  pthread_t t[N];
  pthread_barrier_t barrier;
  unsigned won = 0;

  pthread_barrier_init(&barrier, NULL, N);
  for (int i = 0; i < N; i++) {
    p[i].fx = fx;
    p[i].barrier = &barrier;
    snprintf(p[i].text, sizeof p[i].text, "putter %d", i);
    assert_int_equal(pthread_create(&t[i], NULL, putter, &p[i]), 0);
  }
  for (int i = 0; i < N; i++) {
    pthread_join(t[i], NULL);
    won += p[i].won;
  }
  pthread_barrier_destroy(&barrier);
  assert_int_equal(won, 20); /* each file by exactly one */
  for (int i = 0; i < 20; i++) {
    char name[32];
    snprintf(name, sizeof name, "d%d/f", i);
    char *text = test_read_file(in(fx, name), NULL);
    assert_memory_equal(text, "putter ", 7);
    free(text);
    snprintf(name, sizeof name, "d%d", i);
    assert_int_equal(count_names(fx, name, POSIX_TMP_PREFIX), 0);
  }
}

static void test_put_no_space(void **state) {
  struct fixture *fx = *state;
  char *mnt = in(fx, "small");
  enum { BIG = 2 << 20 };

  assert_int_equal(mkdir(mnt, 0755), 0);
  if (mount("forebay-test", mnt, "tmpfs", 0, "size=1m,nr_inodes=16") < 0)
    skip(); /* not root */
  struct origin_stat st, before;
  struct err e = {0};
  char *data = malloc(BIG);
  memset(data, 'b', BIG);
  struct iovec iov[2] = {{data, BIG / 2 - 4096}, {data, BIG / 2}};
  int r_first = put_text(fx, "small/f", "old", true, &before);
  int r_over = origin_put(fx->o, "small/f", iov, 2, true, &st, &e);
  int r_new = origin_put(fx->o, "small/new", iov, 2, false, &st, &e);
  int temps = count_names(fx, "small", POSIX_TMP_PREFIX);
  char *kept = test_read_file(in(fx, "small/f"), NULL);
  uint64_t etag = etag_of(fx, "small/f");
  int r_after = put_text(fx, "small/new", "fits", false, &st);
  int r_inodes = 0;
  for (int i = 0; i < 32 && r_inodes == 0; i++) {
    char name[32];
    snprintf(name, sizeof name, "small/i%d", i);
    r_inodes = put_text(fx, name, "", true, &st);
  }
  free(data);
  assert_int_equal(umount2(mnt, MNT_DETACH), 0);
  assert_int_equal(r_first, 0);
  assert_int_equal(r_over, -ENOSPC);
  assert_int_equal(r_new, -ENOSPC);
  assert_non_null(strstr(e.text, "small/new"));
  assert_int_equal(temps, 0);
  assert_string_equal(kept, "old");
  assert_true(etag == before.etag);
  assert_int_equal(r_after, 0);
  assert_int_equal(r_inodes, -ENOSPC);
  free(kept);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {
      T(test_new),
      T(test_stat_and_read),
      T(origins_share_their_descriptors),
      T(test_escapes),
      T(test_special_files),
      T(test_changes_between),
      T(test_racy_timestamp),
      T(test_change_in_the_middle),
      T(test_changes_during),
      T(test_permissions),
      T(test_open_files),
      T(test_open_files_threads),
      T(test_list),
      T(test_list_deep_and_wide),
      T(test_put),
      T(test_put_leftovers),
      T(test_put_exclusive_race),
      T(test_put_no_space),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
