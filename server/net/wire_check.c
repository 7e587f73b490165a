/* wire_check.c - walks the fields of a packed message along its descriptor, over a blob's pieces as they lie. */
#include "server/net/wire_check.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "common/utf8.h"

#define DEPTH_MAX 8 /* of messages within messages; ours have three levels */
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct cursor {
  const struct blob *b;
  uint32_t seg;
  size_t off;  /* in segs[seg] */
  size_t left; /* bytes until the end of the blob */
};

/* What lies at the cursor within one piece: its length, at least 1 while bytes are left. */
static size_t here(struct cursor *c, const uint8_t **ret) {
  while (c->left && c->off == c->b->segs[c->seg].len) {
    c->seg++;
    c->off = 0;
  }
  if (!c->left)
    return 0;
  *ret = c->b->segs[c->seg].data + c->off;
  return c->b->segs[c->seg].len - c->off;
}

static void advance(struct cursor *c, size_t n) {
  c->off += n;
  c->left -= n;
}

/* A string as its bytes come by, in pieces. */
struct text {
  uint8_t begun[4]; /* a character whose end lies in a later piece */
  unsigned n;
  bool nul, bad; /* bad: not UTF-8 */
};

static void text_feed(struct text *t, const uint8_t *p, size_t len) {
  uint32_t c;

  t->nul = t->nul || memchr(p, 0, len);
  while (len && !t->bad) {
    unsigned used = t->n ? 0 : utf8_next(p, len, &c);
    if (used == 0) {
      t->begun[t->n++] = *p;
      used = 1;
      if (utf8_next(t->begun, t->n, &c) == t->n)
        t->n = 0;
      else
        t->bad = t->n == sizeof t->begun;
    }
    p += used;
    len -= used;
  }
}

/* Passes n bytes (n <= left), showing them to `t` if it is not NULL. */
static void pass(struct cursor *c, size_t n, struct text *t) {
  while (n) {
    const uint8_t *p = NULL;
    size_t have = here(c, &p);
    if (have > n)
      have = n;
    if (t)
      text_feed(t, p, have);
    advance(c, have);
    n -= have;
  }
}

/* False: cut off, or longer than 64 bits. */
static bool varint(struct cursor *c, size_t end_left, uint64_t *ret) {
  uint64_t v = 0;

  for (unsigned shift = 0; shift < 64 && c->left > end_left; shift += 7) {
    const uint8_t *p = NULL;
    here(c, &p);
    uint8_t byte = *p;
    advance(c, 1);
    v |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) {
      *ret = v;
      return true;
    }
  }
  return false;
}

static int refuse(const ProtobufCFieldDescriptor *f, const struct text *t, struct err *e) {
  int code = -EINVAL;

  if (strcmp(f->name, "key") == 0 || strcmp(f->name, "prefix") == 0)
    code = -FB_EKEYNAME;
  else if (strcmp(f->name, "ns") == 0 || strcmp(f->name, "name") == 0)
    code = -FB_ENSNAME;
  return err_set(e, code,
                 t->nul ? "%s holds a NUL byte; accepted: text without one" : "%s is not UTF-8; accepted: UTF-8",
                 f->name);
}

/* Fields until only end_left bytes of the blob are left. 0: clean, or malformed (*ret_ok false). */
static int walk(const ProtobufCMessageDescriptor *type, struct cursor *c, size_t end_left, unsigned depth, bool *ret_ok,
                struct err *e) {
  while (*ret_ok && c->left > end_left) {
    uint64_t tag, len;
    *ret_ok = varint(c, end_left, &tag);
    if (!*ret_ok)
      return 0;
    switch (tag & 7) {
    case WIRE_VARINT:
      *ret_ok = varint(c, end_left, &len);
      continue;
    case WIRE_64:
      len = 8;
      break;
    case WIRE_32:
      len = 4;
      break;
    case WIRE_BYTES:
      *ret_ok = varint(c, end_left, &len);
      break;
    default: /* groups: not in proto3 */
      *ret_ok = false;
    }
    if (!*ret_ok || len > c->left - end_left) {
      *ret_ok = false;
      return 0;
    }
    const ProtobufCFieldDescriptor *f = (tag & 7) == WIRE_BYTES && tag >> 3 <= UINT32_MAX
                                            ? protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3))
                                            : NULL;
    if (f && f->type == PROTOBUF_C_TYPE_MESSAGE && depth < DEPTH_MAX) {
      int r = walk(f->descriptor, c, c->left - (size_t)len, depth + 1, ret_ok, e);
      if (r < 0)
        return r;
    } else {
      struct text t = {.n = 0};
      bool look = f && f->type == PROTOBUF_C_TYPE_STRING;
      pass(c, (size_t)len, look ? &t : NULL);
      if (look && (t.nul || t.bad || t.n))
        return refuse(f, &t, e);
    }
  }
  return 0;
}

int wire_check_strings(const ProtobufCMessageDescriptor *type, const struct blob *message, struct err *e) {
  struct cursor c = {.b = message, .left = message->len};
  bool ok = true;

  return walk(type, &c, 0, 0, &ok, e);
}
