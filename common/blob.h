/* blob.h - immutable bytes in pieces, shared by reference: how a block travels from a tier to a socket uncopied.
 *
 * A blob is built by one thread (blob_new, blob_append...), then only read; from then on any thread may hold a
 * reference. Each piece has a release function that runs once, when the last reference goes, on whichever thread that
 * is: it must not block nor take locks that a caller of blob_unref may hold. */
#ifndef FB_COMMON_BLOB_H
#define FB_COMMON_BLOB_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef void (*blob_release_fn)(void *owner);

struct blob_seg {
  const uint8_t *data;
  size_t len;
  blob_release_fn release; /* NULL: nothing to release */
  void *owner;
};

struct blob {
  atomic_uint refs;
  uint32_t n, cap;
  size_t len; /* bytes over all pieces */
  struct blob_seg *segs;
};

/* An empty blob with room for `cap` pieces (it grows). One reference, the caller's. NULL when out of memory. */
struct blob *blob_new(unsigned cap);
/* A blob that owns a copy of data[0..len). */
struct blob *blob_copy(const void *data, size_t len);
/* Adds a piece; takes over `owner`. 0 or -ENOMEM (then `owner` was released). */
int blob_append(struct blob *b, const void *data, size_t len, blob_release_fn release, void *owner);
/* Adds bytes [off, off+len) of `src` as pieces that hold references to `src`. 0, -ENOMEM, or -EINVAL out of range. */
int blob_append_range(struct blob *b, struct blob *src, size_t off, size_t len);

struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob **b); /* NULLs it; accepts NULL */

/* Copies bytes [off, off+len) to dst; returns the bytes copied (fewer only at the end). */
size_t blob_read(const struct blob *b, size_t off, void *dst, size_t len);
/* CRC32C of all its bytes. */
uint32_t blob_crc32c(const struct blob *b);

#endif
