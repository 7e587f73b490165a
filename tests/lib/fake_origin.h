/* fake_origin.h - an origin in memory, for tests of what stands on origins: files appear, change and go at the test's
 * word, between two calls or in the middle of one. */
#ifndef FB_TESTS_LIB_FAKE_ORIGIN_H
#define FB_TESTS_LIB_FAKE_ORIGIN_H

#include "server/origin/origin.h"
#include "tests/lib/fault.h"

struct fake_file;
struct fake_origin {
  struct origin base;
  pthread_mutex_t mtx;
  struct fake_file *files; /* by path */
  uint64_t version;        /* of the last change: gives etags and times */
  struct origin_stats count;
  /* Held and failed as the test says. read_half is passed in the middle of each read, after half of the bytes: what
   * changes the file while a call waits there makes that read end with -FB_ECHANGED. stat_late is passed when a stat
   * has looked already, put_late when a put has put: who waits there holds an answer that grows old. */
  struct fault stat, stat_late, read, read_half, list, put, put_late;
};

struct fake_origin *fake_origin_new(void); /* free with origin_free on &f->base */
/* Creates or replaces a file: a new version. */
void fake_origin_set(struct fake_origin *f, const char *path, const void *data, size_t len);
void fake_origin_remove(struct fake_origin *f, const char *path);
/* Reads will end after `len` bytes of the file though its size says more (-FB_ESHORT). SIZE_MAX: not any more. */
void fake_origin_cut(struct fake_origin *f, const char *path, size_t len);
uint64_t fake_origin_etag(struct fake_origin *f, const char *path); /* 0: no such file */

#endif
