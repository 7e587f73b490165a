/* catalog.h - what only the namespace files (catalog.c, ns.c, ns_record.c) share. */
#ifndef FB_SERVICE_CATALOG_H
#define FB_SERVICE_CATALOG_H

#include "forebay/v1/common.pb-c.h"
#include "server/service/internal.h"

/* A namespace of its own, not in the catalog; one reference. NULL when out of memory. */
struct ns *ns_make(const struct ns_record *r);
/* Revision of the record (or tombstone) of a name; 0 = none. */
uint64_t catalog_revision(struct catalog *c, const char *name);
/* Takes a record whose name is free (or has a tombstone of a lower revision). -FB_ENSEXISTS, -FB_EBUSY (full), -ENOMEM.
 */
int catalog_create(struct catalog *c, const struct ns_record *r, struct err *e);
/* Writes the file if anything changed since the last time. Blocks (fsync). */
int catalog_save(struct catalog *c, struct err *e);
/* Takes the contents of a catalog file. -FB_EBADCONF, -FB_ECRC, -FB_EPROTO, or as catalog_apply. */
int catalog_decode(struct catalog *c, const uint8_t *data, size_t len, struct err *e);

/* ns_record.c: is a record that came from outside well-formed? -FB_ENSNAME or -EINVAL with a text. */
int ns_record_check(const struct ns_record *r, struct err *e);
/* Arrays that borrow the records' strings. NULL when out of memory (also for n == 0: never). */
Forebay__V1__Namespace **ns_records_to_pb(const struct ns_record *records, size_t n);
void ns_records_pb_free(Forebay__V1__Namespace **pb, size_t n);
struct ns_record *ns_records_from_pb(Forebay__V1__Namespace *const *pb, size_t n);

#endif
