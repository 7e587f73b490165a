/* convert.h - between the service's structs and protobuf messages. Nothing is copied: results point into the argument.
 */
#ifndef FB_SERVER_NET_CONVERT_H
#define FB_SERVER_NET_CONVERT_H

#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "forebay/v1/common.pb-c.h"

#include "server/service/service.h"

/* protobuf-c's strings are `char *` that it only reads when packing. NULL becomes the empty string. */
static inline char *pb_str(const char *s) { return (char *)(uintptr_t)(s ? s : ""); }

/* NULL: the route of a caller that knows nothing. */
struct route route_from_pb(const Forebay__V1__Route *r);

/* Overwrite *ret. */
void object_to_pb(const struct object_info *info, const char *key, Forebay__V1__ObjectInfo *ret);
void ns_to_pb(const struct ns_record *r, Forebay__V1__Namespace *ret);
void ns_from_pb(const Forebay__V1__Namespace *n, struct ns_record *ret);
/* code: 0 or negative. */
void status_to_pb(int code, const char *text, Forebay__V1__ItemStatus *ret);

/* All of a GetReply but its data. Overwrites *ret. */
void get_to_pb(const struct get_reply *r, Forebay__V1__GetReply *ret);
/* NULL: an empty list. */
char **names_to_pb(const struct name_list *names, size_t *ret_n);

/* `n` zeroed elements of `size` bytes followed by n pointers to them, as protobuf-c wants repeated messages: one
 * allocation, free() it. The pointers go to *ret_pointers. NULL when out of memory; never NULL for n = 0. */
void *pb_array(size_t n, size_t size, void ***ret_pointers);

#endif
