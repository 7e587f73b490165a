/* catalog.h - what only the namespace files (catalog*.c, ns*.c) share. */
#ifndef FB_SERVICE_CATALOG_H
#define FB_SERVICE_CATALOG_H

#include "forebay/v1/admin.pb-c.h"
#include "server/service/internal.h"

struct catalog {
  struct service *s;
  char *dir;
  pthread_mutex_t mtx;
  unsigned n, cap;          /* under mtx */
  struct ns **v;            /* under mtx; by name; tombstones too */
  bool dirty;               /* under mtx: the file is older than this */
  pthread_mutex_t save_mtx; /* one save at a time; taken before mtx */

  struct pool_job job; /* the next save by itself */
  atomic_bool saving;  /* it is queued or runs */
  _Atomic int64_t save_again_ns;
  uint64_t pause_ms; /* only the job: after a failure; 0 = the last save went well */
};

/* A namespace of its own, not in the catalog; one reference. NULL when out of memory. */
struct ns *ns_make(const struct ns_record *r);
/* Revision of the record (or tombstone) of a name; 0 = none. */
uint64_t catalog_revision(struct catalog *c, const char *name);
/* Takes a record whose name is free (or has a tombstone of a lower revision). -FB_ENSEXISTS, -FB_EBUSY (full), -ENOMEM.
 */
int catalog_create(struct catalog *c, const struct ns_record *r, struct err *e);
/* Takes a tombstone for the live namespace of this name and id; the bytes of its blocks are added to *freed. -FB_ENONS:
 * there is none (any more). -ENOMEM. */
int catalog_drop(struct catalog *c, const struct ns_record *tombstone, uint64_t *freed, struct err *e);
/* Takes one well-formed record if it is news. -FB_EBUSY, -ENOMEM. */
int catalog_take(struct catalog *c, const struct ns_record *r, uint64_t *freed, struct err *e);
/* Writes the file if anything changed since the last time. Blocks (fsync). */
int catalog_save(struct catalog *c, struct err *e);
void catalog_save_run(struct pool_job *job);
/* Takes the contents of a catalog file. -FB_EBADCONF, -FB_ECRC, -FB_EPROTO, or as catalog_apply. */
int catalog_decode(struct catalog *c, const uint8_t *data, size_t len, struct err *e);

/* ns_find.c: a request for another peer's catalog. */
#define SYNC_METHOD "/forebay.v1.Namespaces/SyncCatalog"
void catalog_ask_init(struct service *s, Forebay__V1__SyncCatalogRequest *q);

/* ns_record.c: is a record that came from outside well-formed? -FB_ENSNAME or -EINVAL with a text. */
int ns_record_check(const struct ns_record *r, struct err *e);
/* A revision is a wall clock's time or little more: one from far ahead of our clock is not taken from another peer,
 * because nobody could supersede it. -EINVAL. */
int ns_record_check_revision(const struct ns_record *r, struct err *e);
/* Arrays that borrow the records' strings. NULL when out of memory (also for n == 0: never). */
Forebay__V1__Namespace **ns_records_to_pb(const struct ns_record *records, size_t n);
void ns_records_pb_free(Forebay__V1__Namespace **pb, size_t n);
struct ns_record *ns_records_from_pb(Forebay__V1__Namespace *const *pb, size_t n);

#endif
