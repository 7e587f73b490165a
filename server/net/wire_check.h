/* wire_check.h - a look at a message before protobuf-c unpacks it: protobuf-c keeps strings NUL-terminated and forgets
 * their length, so that "a\0b" would silently become "a", and takes bytes for text that are none: they would come back
 * in the texts of failures, which other clients then cannot parse. */
#ifndef FB_SERVER_NET_WIRE_CHECK_H
#define FB_SERVER_NET_WIRE_CHECK_H

#include <protobuf-c/protobuf-c.h>

#include "common/blob.h"
#include "common/err.h"

/* 0, or the refusal of a string that holds a NUL byte or is not UTF-8, in `message` or a message within it:
 * -FB_EKEYNAME for fields `key` and `prefix`, -FB_ENSNAME for `ns` and `name`, -EINVAL for others. What is malformed is
 * 0 here: the unpacking that follows refuses it. Copies nothing; bytes fields are skipped unread. */
int wire_check_strings(const ProtobufCMessageDescriptor *type, const struct blob *message, struct err *e);

#endif
