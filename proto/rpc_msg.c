/* rpc_msg.c - blobs out, blobs in, bytes never moved.
 *
 * Outgoing: every piece becomes a slice that holds a reference to the blob, dropped when gRPC has written it. Incoming:
 * the blob's pieces point into the received slices, and its first piece owns the whole message. */
#include "proto/rpc_internal.h"

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdlib.h>

/* Below this a copy is cheaper than a reference, an allocation and a longer iovec. */
#define COPY_BYTES 256
#define SLICES_ON_STACK 16

static void drop_blob(void *owner) {
  struct blob *b = owner;
  blob_unref(&b);
}

grpc_byte_buffer *rpc_msg_out(struct blob *b) {
  grpc_slice few[SLICES_ON_STACK];
  grpc_slice *slices = b->n <= SLICES_ON_STACK ? few : gpr_malloc(b->n * sizeof *slices);
  size_t n = 0;

  for (uint32_t i = 0; i < b->n; i++) {
    const struct blob_seg *seg = &b->segs[i];
    if (seg->len == 0)
      continue;
    if (seg->len <= COPY_BYTES)
      slices[n++] = grpc_slice_from_copied_buffer((const char *)seg->data, seg->len);
    else /* gRPC only reads it: the cast away of const is its interface's */
      slices[n++] = grpc_slice_new_with_user_data((void *)(uintptr_t)seg->data, seg->len, drop_blob, blob_ref(b));
  }
  grpc_byte_buffer *bb = grpc_raw_byte_buffer_create(slices, n); /* takes references of its own */
  for (size_t i = 0; i < n; i++)
    grpc_slice_unref(slices[i]);
  if (slices != few)
    gpr_free(slices);
  blob_unref(&b);
  return bb;
}

static void drop_message(void *owner) { grpc_byte_buffer_destroy(owner); }

struct blob *rpc_msg_in(grpc_byte_buffer *bb) {
  const grpc_slice_buffer *sb = &bb->data.raw.slice_buffer;
  struct blob *b = blob_new(sb->count ? (unsigned)sb->count : 1);
  bool owned = false;

  for (size_t i = 0; b && i < sb->count; i++) {
    size_t len = GRPC_SLICE_LENGTH(sb->slices[i]);
    if (len == 0)
      continue;
    /* On failure the piece's owner has been released: with the first piece that is the message. */
    int r = blob_append(b, GRPC_SLICE_START_PTR(sb->slices[i]), len, owned ? NULL : drop_message, owned ? NULL : bb);
    owned = true;
    if (r < 0)
      blob_unref(&b);
  }
  if (!owned)
    grpc_byte_buffer_destroy(bb);
  return b;
}
