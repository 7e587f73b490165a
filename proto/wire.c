/* wire.c - finds field 15 on the wire, cuts it off, and lets protobuf-c see the rest.
 *
 * Two walks, both bounded by the bytes that are there. The first follows the top level over the blob's pieces and finds
 * where the payload starts; it touches a few bytes per field and none of the payload. The second checks the contiguous
 * head along its descriptor before protobuf-c unpacks it, because protobuf-c would turn two bytes of a hostile message
 * into a hundred of memory, without a limit, and cuts strings at a NUL. */
#include "proto/wire.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/err.h"

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

#define PAYLOAD_TAG (WIRE_PAYLOAD_FIELD << 3 | BYTES) /* 0x7a: one byte on the wire */
#define VARINT_MAX 10
#define LENGTH_MAX 5 /* bytes of a tag's or length's varint */

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* A place in a blob. */
struct cursor {
  const struct blob *b;
  uint32_t seg;
  size_t off; /* in the piece */
  size_t pos; /* in the blob */
};

static bool next_byte(struct cursor *c, uint8_t *ret) {
  while (c->seg < c->b->n && c->off == c->b->segs[c->seg].len) {
    c->seg++;
    c->off = 0;
  }
  if (c->seg == c->b->n)
    return false;
  *ret = c->b->segs[c->seg].data[c->off++];
  c->pos++;
  return true;
}

static bool skip(struct cursor *c, uint64_t len) {
  if (len > c->b->len - c->pos)
    return false;
  c->pos += (size_t)len;
  while (len > 0) {
    size_t here = c->b->segs[c->seg].len - c->off;
    if (len <= here) {
      c->off += (size_t)len;
      break;
    }
    len -= here;
    c->seg++;
    c->off = 0;
  }
  return true;
}

static bool next_varint(struct cursor *c, unsigned max_bytes, uint64_t *ret) {
  uint64_t v = 0;
  uint8_t byte;

  for (unsigned i = 0; i < max_bytes; i++) {
    if (!next_byte(c, &byte))
      return false;
    v |= (uint64_t)(byte & 0x7f) << (7 * i);
    if (!(byte & 0x80)) {
      *ret = v;
      return true;
    }
  }
  return false;
}

/* One field: its number, type and, for BYTES, where the content starts and its length. The cursor ends behind it. */
struct field {
  uint32_t number;
  unsigned type;
  size_t start, len; /* of the content */
};

static bool next_field(struct cursor *c, struct field *ret) {
  uint64_t tag, len = 0;

  if (!next_varint(c, LENGTH_MAX, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
    return false;
  ret->number = (uint32_t)(tag >> 3);
  ret->type = (unsigned)(tag & 7);
  switch (ret->type) {
  case VARINT:
    ret->start = c->pos;
    return next_varint(c, VARINT_MAX, &len);
  case FIXED64:
    len = 8;
    break;
  case FIXED32:
    len = 4;
    break;
  case BYTES:
    if (!next_varint(c, LENGTH_MAX, &len) || len > INT32_MAX)
      return false;
    break;
  default: /* groups are not in proto3 */
    return false;
  }
  ret->start = c->pos;
  ret->len = (size_t)len;
  return skip(c, len);
}

/* ---- checking --------------------------------------------------------------------------------------------------- */

/* A string that protobuf-c would cut. The two kinds of names have codes of their own. */
static int nul_in(const char *field) {
  if (strcmp(field, "key") == 0 || strcmp(field, "prefix") == 0)
    return -FB_EKEYNAME;
  if (strcmp(field, "ns") == 0 || strcmp(field, "name") == 0)
    return -FB_ENSNAME;
  return -FB_EPROTO;
}

static int check(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len, unsigned depth,
                 unsigned *budget) {
  struct blob_seg seg = {.data = data, .len = len};
  struct blob b = {.n = len > 0, .cap = 1, .len = len, .segs = &seg};
  struct cursor c = {.b = &b};
  struct field f;

  if (depth > WIRE_DEPTH_MAX)
    return -FB_EPROTO;
  while (c.pos < len) {
    if (!next_field(&c, &f) || (*budget)-- == 0)
      return -FB_EPROTO;
    if (f.type != BYTES)
      continue;
    const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(type, f.number);
    if (d && d->type == PROTOBUF_C_TYPE_STRING && f.len > 0 && memchr(data + f.start, '\0', f.len))
      return nul_in(d->name);
    if (d && d->type == PROTOBUF_C_TYPE_MESSAGE) {
      int r = check(d->descriptor, data + f.start, f.len, depth + 1, budget);
      if (r < 0)
        return r;
    }
  }
  return 0;
}

/* Checks and unpacks bytes [0, len) of `b`, which are copied only if they lie in several pieces. */
static int unpack_head(const ProtobufCMessageDescriptor *type, const struct blob *b, size_t len,
                       ProtobufCMessage **ret) {
  unsigned budget = WIRE_FIELDS_MAX;
  const uint8_t *data = (const uint8_t *)"";
  uint8_t *copy = NULL;

  if (len > 0 && b->segs[0].len >= len) {
    data = b->segs[0].data;
  } else if (len > 0) {
    data = copy = malloc(len);
    if (!copy)
      return -ENOMEM;
    blob_read(b, 0, copy, len);
  }
  int r = check(type, data, len, 0, &budget);
  if (r == 0) {
    ProtobufCMessage *m = protobuf_c_message_unpack(type, NULL, len, data);
    if (m)
      *ret = m;
    else
      r = -FB_EPROTO;
  }
  free(copy);
  return r;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------- */

/* Where the payload is. `present` only if it is the last field and the only one of its number. */
struct cut {
  bool present, elsewhere;
  size_t head_len; /* bytes before its tag */
  size_t start, len;
};

static int find_cut(const struct blob *b, struct cut *ret) {
  struct cursor c = {.b = b};
  struct field f;

  *ret = (struct cut){.head_len = b->len};
  while (c.pos < b->len) {
    size_t tag_at = c.pos;
    if (!next_field(&c, &f))
      return -FB_EPROTO;
    if (ret->present) { /* something follows it */
      *ret = (struct cut){.elsewhere = true, .head_len = b->len};
      return 0;
    }
    if (f.number == WIRE_PAYLOAD_FIELD && f.type == BYTES)
      *ret = (struct cut){.present = true, .head_len = tag_at, .start = f.start, .len = f.len};
  }
  return 0;
}

static struct blob *range(struct blob *b, size_t off, size_t len) {
  struct blob *r = blob_new(2);

  if (r && blob_append_range(r, b, off, len) < 0)
    blob_unref(&r);
  return r;
}

static const ProtobufCFieldDescriptor *payload_field(const ProtobufCMessageDescriptor *type, ProtobufCType kind) {
  const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(type, WIRE_PAYLOAD_FIELD);
  return d && d->type == kind && d->label != PROTOBUF_C_LABEL_REPEATED ? d : NULL;
}

/* Takes the bytes that protobuf-c has copied into the message out of it. */
static int take_bytes(ProtobufCMessage *m, const ProtobufCFieldDescriptor *d, struct blob **ret) {
  ProtobufCBinaryData *bytes = (ProtobufCBinaryData *)((uint8_t *)m + d->offset);
  struct blob *b = blob_new(1);

  if (!b)
    return -ENOMEM;
  if (bytes->len > 0)
    blob_append(b, bytes->data, bytes->len, free, bytes->data); /* there is room for one piece */
  *bytes = (ProtobufCBinaryData){0};
  *ret = b;
  return 0;
}

int wire_unpack(const ProtobufCMessageDescriptor *type, struct blob *message, ProtobufCMessage **ret,
                struct blob **ret_payload) {
  const ProtobufCFieldDescriptor *d = ret_payload ? payload_field(type, PROTOBUF_C_TYPE_BYTES) : NULL;
  struct blob *payload = NULL;
  ProtobufCMessage *m = NULL;
  struct cut cut = {.head_len = message->len};

  int r = d ? find_cut(message, &cut) : 0;
  if (r < 0)
    return r;
  r = unpack_head(type, message, cut.head_len, &m);
  if (r < 0)
    return r;
  assert(m);
  if (cut.present) {
    payload = range(message, cut.start, cut.len);
    r = payload ? 0 : -ENOMEM;
  } else if (cut.elsewhere) {
    r = take_bytes(m, d, &payload);
  }
  if (r < 0) {
    protobuf_c_message_free_unpacked(m, NULL);
    return r;
  }
  *ret = m;
  if (ret_payload)
    *ret_payload = payload;
  return 0;
}

int wire_unpack_nested(const ProtobufCMessageDescriptor *outer_type, const ProtobufCMessageDescriptor *inner_type,
                       struct blob *message, ProtobufCMessage **ret_outer, ProtobufCMessage **ret_inner,
                       struct blob **ret_payload) {
  const ProtobufCFieldDescriptor *od = payload_field(outer_type, PROTOBUF_C_TYPE_MESSAGE);
  const ProtobufCFieldDescriptor *id = payload_field(inner_type, PROTOBUF_C_TYPE_BYTES);
  ProtobufCMessage *outer = NULL, *inner = NULL;
  struct blob *payload = NULL;
  struct cut cut;

  if (!od || !id || od->descriptor != inner_type)
    return -EINVAL;
  int r = find_cut(message, &cut);
  if (r < 0)
    return r;
  r = unpack_head(outer_type, message, cut.head_len, &outer);
  if (r < 0)
    return r;
  if (cut.present) {
    struct blob *part = range(message, cut.start, cut.len);
    r = part ? wire_unpack(inner_type, part, &inner, &payload) : -ENOMEM;
    blob_unref(&part);
  } else if (cut.elsewhere) {
    ProtobufCMessage **slot = (ProtobufCMessage **)((uint8_t *)outer + od->offset);
    assert(*slot); /* a field that was seen was unpacked */
    r = take_bytes(*slot, id, &payload);
    if (r == 0) {
      inner = *slot;
      *slot = NULL;
    }
  }
  if (r < 0) {
    protobuf_c_message_free_unpacked(outer, NULL);
    return r;
  }
  *ret_outer = outer;
  *ret_inner = inner;
  *ret_payload = payload;
  return 0;
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static size_t varint_len(uint64_t v) {
  size_t n = 1;
  while (v >>= 7)
    n++;
  return n;
}

static uint8_t *put_varint(uint8_t *p, uint64_t v) {
  for (; v >= 0x80; v >>= 7)
    *p++ = (uint8_t)(v | 0x80);
  *p++ = (uint8_t)v;
  return p;
}

/* Bytes of field 15 around a content of `len` bytes, without the content. */
static size_t frame_len(size_t len) { return 1 + varint_len(len); }

static uint8_t *put_frame(uint8_t *p, size_t len) {
  *p++ = PAYLOAD_TAG;
  return put_varint(p, len);
}

struct blob *wire_pack_nested(const ProtobufCMessage *outer, const ProtobufCMessage *inner, struct blob *payload) {
  size_t payload_len = payload ? payload->len : 0;
  size_t inner_head = inner ? protobuf_c_message_get_packed_size(inner) + (payload ? frame_len(payload_len) : 0) : 0;
  size_t inner_len = inner_head + payload_len;
  size_t head_len = protobuf_c_message_get_packed_size(outer) + (inner ? frame_len(inner_len) + inner_head : 0);
  struct blob *b = blob_new(1 + (payload ? payload->n : 0));
  uint8_t *head = malloc(head_len ? head_len : 1), *p = head;

  if (!b || !head) {
    blob_unref(&b);
    free(head);
    return NULL;
  }
  p += protobuf_c_message_pack(outer, p);
  if (inner) {
    p = put_frame(p, inner_len);
    p += protobuf_c_message_pack(inner, p);
    if (payload)
      p = put_frame(p, payload_len);
  }
  if (blob_append(b, head, (size_t)(p - head), free, head) < 0 ||
      (inner && payload && blob_append_range(b, payload, 0, payload_len) < 0))
    blob_unref(&b);
  return b;
}

struct blob *wire_pack(const ProtobufCMessage *head, struct blob *payload) {
  size_t head_len = protobuf_c_message_get_packed_size(head) + (payload ? frame_len(payload->len) : 0);
  struct blob *b = blob_new(1 + (payload ? payload->n : 0));
  uint8_t *buf = malloc(head_len ? head_len : 1), *p = buf;

  if (!b || !buf) {
    blob_unref(&b);
    free(buf);
    return NULL;
  }
  p += protobuf_c_message_pack(head, p);
  if (payload)
    p = put_frame(p, payload->len);
  if (blob_append(b, buf, (size_t)(p - buf), free, buf) < 0 ||
      (payload && blob_append_range(b, payload, 0, payload->len) < 0))
    blob_unref(&b);
  return b;
}
