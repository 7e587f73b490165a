/* fuzz_wire.c - any bytes as any message of the API, in pieces of any size: what wire.c makes of them is what
 * protobuf-c makes of the contiguous bytes, with the payload cut off or not.
 *
 * The first byte of the input chooses the type, the second the length of the pieces, the rest is the message. Types are
 * found through the services, so that a new call is fuzzed without a change here. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto/wire.h"

#define TYPES_MAX 256

static const ProtobufCMessageDescriptor *types[TYPES_MAX];
static unsigned n_types;

static void must(int ok, const char *what) {
  if (!ok) {
    fprintf(stderr, "not so: %s\n", what);
    abort();
  }
}

static void find_types(void) {
  const ProtobufCServiceDescriptor *services[] = {&forebay__v1__cache__descriptor, &forebay__v1__namespaces__descriptor,
                                                  &forebay__v1__prestage__descriptor, &forebay__v1__cluster__descriptor,
                                                  &grpc__health__v1__health__descriptor};

  for (size_t i = 0; i < sizeof services / sizeof *services; i++)
    for (unsigned j = 0; j < services[i]->n_methods; j++) {
      must(n_types + 2 <= TYPES_MAX, "there is room for all types");
      types[n_types++] = services[i]->methods[j].input;
      types[n_types++] = services[i]->methods[j].output;
    }
}

/* Each piece in memory of its own, so that a read beyond it is seen. */
static struct blob *in_pieces(const uint8_t *data, size_t len, size_t step) {
  struct blob *b = blob_new(0);
  for (size_t off = 0; off < len; off += step) {
    size_t n = len - off < step ? len - off : step;
    uint8_t *piece = malloc(n);
    memcpy(piece, data + off, n);
    must(blob_append(b, piece, n, free, piece) == 0, "a piece can be added");
  }
  return b;
}

static const ProtobufCFieldDescriptor *field15(const ProtobufCMessageDescriptor *type, ProtobufCType kind) {
  const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(type, WIRE_PAYLOAD_FIELD);
  return d && d->type == kind ? d : NULL;
}

static void must_be_equal(const ProtobufCMessage *a, const ProtobufCMessage *b) {
  size_t len = protobuf_c_message_get_packed_size(a);
  uint8_t *pa = malloc(len + 1), *pb = malloc(len + 1);

  must(protobuf_c_message_get_packed_size(b) == len, "both have the same length");
  protobuf_c_message_pack(a, pa);
  protobuf_c_message_pack(b, pb);
  must(memcmp(pa, pb, len) == 0, "both have the same bytes");
  free(pa);
  free(pb);
}

/* Puts the payload back where protobuf-c would have put it. */
static void put_back(ProtobufCMessage *m, const struct blob *payload) {
  const ProtobufCFieldDescriptor *d = field15(m->descriptor, PROTOBUF_C_TYPE_BYTES);

  if (!payload)
    return;
  must(d != NULL, "only a type with a payload field has a payload");
  ProtobufCBinaryData *bytes = (ProtobufCBinaryData *)((uint8_t *)m + d->offset);
  must(bytes->len == 0, "the payload is not in the message, too");
  bytes->len = payload->len;
  bytes->data = payload->len ? malloc(payload->len) : NULL;
  if (payload->len)
    blob_read(payload, 0, bytes->data, payload->len);
}

static void check_nested(const ProtobufCMessageDescriptor *type, struct blob *b, const ProtobufCMessage *want) {
  const ProtobufCFieldDescriptor *d = field15(type, PROTOBUF_C_TYPE_MESSAGE);
  ProtobufCMessage *outer, *inner;
  struct blob *payload;

  int r = wire_unpack_nested(type, d->descriptor, b, &outer, &inner, &payload);
  must((r == 0) == (want != NULL), "nested and plain agree on what is malformed");
  if (r < 0)
    return;
  if (inner) {
    put_back(inner, payload);
    *(ProtobufCMessage **)((uint8_t *)outer + d->offset) = inner;
  }
  must_be_equal(outer, want);
  blob_unref(&payload);
  protobuf_c_message_free_unpacked(outer, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ProtobufCMessage *whole = NULL, *head;
  struct blob *payload;

  if (!n_types)
    find_types();
  if (size < 2)
    return -1;
  const ProtobufCMessageDescriptor *type = types[data[0] % n_types];
  size_t step = 1u + data[1];
  data += 2;
  size -= 2;
  struct blob *b = in_pieces(data, size, step);
  int r = wire_unpack(type, b, &whole, NULL);
  if (r == 0) { /* wire.c refuses more than protobuf-c does, never less */
    ProtobufCMessage *want = protobuf_c_message_unpack(type, NULL, size, data);
    must(want != NULL, "protobuf-c takes it too");
    must_be_equal(whole, want);
    protobuf_c_message_free_unpacked(want, NULL);
  }
  int r2 = wire_unpack(type, b, &head, &payload);
  must((r == 0) == (r2 == 0), "with and without payload the same messages are taken");
  if (r2 == 0) {
    put_back(head, payload);
    must_be_equal(head, whole);
    blob_unref(&payload);
    protobuf_c_message_free_unpacked(head, NULL);
  }
  if (field15(type, PROTOBUF_C_TYPE_MESSAGE))
    check_nested(type, b, whole);
  if (whole) { /* what protobuf-c packs is always taken */
    size_t len = protobuf_c_message_get_packed_size(whole);
    uint8_t *packed = malloc(len + 1);
    protobuf_c_message_pack(whole, packed);
    struct blob *again = in_pieces(packed, len, step);
    must(wire_unpack(type, again, &head, NULL) == 0, "its own packing is taken");
    protobuf_c_message_free_unpacked(head, NULL);
    blob_unref(&again);
    free(packed);
    protobuf_c_message_free_unpacked(whole, NULL);
  }
  blob_unref(&b);
  return 0;
}
