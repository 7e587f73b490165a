/* wire.h - between protobuf messages and blobs, with payload bytes that are never copied.
 *
 * protobuf-c wants contiguous memory and copies `bytes` fields. Messages that carry payload therefore keep it in
 * field 15, always last on the wire (cache.proto): a sender appends it as pieces behind the packed head, a receiver
 * cuts it off before it unpacks the head. A message in which field 15 is not last is still understood: it is copied. */
#ifndef FB_PROTO_WIRE_H
#define FB_PROTO_WIRE_H

#include <protobuf-c/protobuf-c.h>

#include "common/blob.h"

#define WIRE_PAYLOAD_FIELD 15
/* What a received message may cost: fields over all levels, and levels. Over it: -FB_EPROTO. */
#define WIRE_FIELDS_MAX 262144
#define WIRE_DEPTH_MAX 16

/* Packs `head` (its payload field unset), then field 15 with `payload`'s bytes if that is not NULL (borrowed).
 * A new blob, or NULL when out of memory. */
struct blob *wire_pack(const ProtobufCMessage *head, struct blob *payload);

/* The same with field 15 holding a message that itself carries `payload` in its field 15 (MultiGetReply). Without
 * `inner` there is no field 15 at all. */
struct blob *wire_pack_nested(const ProtobufCMessage *outer, const ProtobufCMessage *inner, struct blob *payload);

/* Unpacks `message`. When ret_payload is not NULL, field 15 is cut off and returned as a blob (new reference; NULL if
 * absent) that shares memory with `message`. The result is freed with protobuf_c_message_free_unpacked(m, NULL).
 * 0, -ENOMEM, -FB_EPROTO: malformed, or -FB_EKEYNAME or -FB_ENSNAME: a `key`, or an `ns` or `name`, with a NUL byte
 * (protobuf-c would cut it there). A type whose field 15 is not `bytes` is unpacked whole, without payload. */
int wire_unpack(const ProtobufCMessageDescriptor *type, struct blob *message, ProtobufCMessage **ret,
                struct blob **ret_payload);
/* The same for an outer message whose field 15 is an `inner_type` that carries the payload in its own; without field 15
 * *ret_inner and *ret_payload are NULL. -EINVAL if the types are not like that. */
int wire_unpack_nested(const ProtobufCMessageDescriptor *outer_type, const ProtobufCMessageDescriptor *inner_type,
                       struct blob *message, ProtobufCMessage **ret_outer, ProtobufCMessage **ret_inner,
                       struct blob **ret_payload);

#endif
