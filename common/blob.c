/* blob.c - pieces of bytes behind one reference count. */
#include "common/blob.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/crc.h"

struct blob *blob_new(unsigned cap) {
  struct blob *b = calloc(1, sizeof *b);

  if (!b)
    return NULL;
  if (cap > 0) {
    b->segs = malloc(cap * sizeof *b->segs);
    if (!b->segs) {
      free(b);
      return NULL;
    }
  }
  b->cap = cap;
  atomic_init(&b->refs, 1);
  return b;
}

struct blob *blob_copy(const void *data, size_t len) {
  struct blob *b = blob_new(len > 0);
  void *copy;

  if (!b || len == 0)
    return b;
  copy = malloc(len);
  if (!copy) {
    blob_unref(&b);
    return NULL;
  }
  memcpy(copy, data, len);
  blob_append(b, copy, len, free, copy); /* cannot fail: there is room for one piece */
  return b;
}

/* Makes room for `more` further pieces. */
static int blob_reserve(struct blob *b, size_t more) {
  size_t want = b->n + more;

  if (want <= b->cap)
    return 0;
  want = (size_t)max_u64(want, 2 * (uint64_t)b->cap);
  if (want > UINT32_MAX)
    return -ENOMEM;
  struct blob_seg *segs = reallocarray(b->segs, want, sizeof *segs);
  if (!segs)
    return -ENOMEM;
  b->segs = segs;
  b->cap = (uint32_t)want;
  return 0;
}

int blob_append(struct blob *b, const void *data, size_t len, blob_release_fn release, void *owner) {
  int r = len > 0 ? blob_reserve(b, 1) : 0;

  /* An empty piece has nothing to keep alive. */
  if (r < 0 || len == 0) {
    if (release)
      release(owner);
    return r;
  }
  b->segs[b->n++] = (struct blob_seg){.data = data, .len = len, .release = release, .owner = owner};
  b->len += len;
  return 0;
}

static void release_blob(void *owner) {
  struct blob *b = owner;
  blob_unref(&b);
}

int blob_append_range(struct blob *b, struct blob *src, size_t off, size_t len) {
  uint32_t first = 0, last;

  if (off > src->len || len > src->len - off)
    return -EINVAL;
  if (len == 0)
    return 0;
  while (off >= src->segs[first].len)
    off -= src->segs[first++].len;
  size_t end = off + len; /* from the start of piece `first` */
  last = first;
  for (size_t sum = src->segs[first].len; sum < end; sum += src->segs[last].len)
    last++;
  /* All the room first, so that a failure adds nothing. */
  int r = blob_reserve(b, (size_t)last - first + 1);
  if (r < 0)
    return r;
  for (uint32_t i = first; i <= last; i++, off = 0) {
    const struct blob_seg *s = &src->segs[i];
    size_t n = (size_t)min_u64(len, s->len - off);

    blob_append(b, s->data + off, n, release_blob, blob_ref(src));
    len -= n;
  }
  return 0;
}

struct blob *blob_ref(struct blob *b) {
  atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
  return b;
}

void blob_unref(struct blob **bp) {
  struct blob *b = *bp;

  *bp = NULL;
  /* acq_rel: what other holders did with the bytes happens before their release. */
  if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
    return;
  for (uint32_t i = 0; i < b->n; i++)
    if (b->segs[i].release)
      b->segs[i].release(b->segs[i].owner);
  free(b->segs);
  free(b);
}

size_t blob_read(const struct blob *b, size_t off, void *dst, size_t len) {
  uint8_t *out = dst;
  size_t done = 0;

  for (uint32_t i = 0; i < b->n && done < len; i++) {
    const struct blob_seg *s = &b->segs[i];

    if (off >= s->len) {
      off -= s->len;
      continue;
    }
    size_t n = (size_t)min_u64(len - done, s->len - off);
    memcpy(out + done, s->data + off, n);
    done += n;
    off = 0;
  }
  return done;
}

uint32_t blob_crc32c(const struct blob *b) {
  uint32_t crc = 0;

  for (uint32_t i = 0; i < b->n; i++)
    crc = crc32c(crc, b->segs[i].data, b->segs[i].len);
  return crc;
}
