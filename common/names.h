/* names.h - checks of the names that come from outside, and printing them without harm.
 *
 * Each check returns 0, or a code of its own with a sentence that quotes the name (cut and escaped) and says what would
 * be accepted. The rules are those of proto/forebay/v1/common.proto. Pure; `e` may be NULL. */
#ifndef FB_COMMON_NAMES_H
#define FB_COMMON_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define NAME_NS_MAX 64u
#define NAME_KEY_MAX 1024u
#define NAME_PEER_MAX 63u
#define NAME_HOST_MAX 253u

/* Namespace: 1..64 of [a-z0-9._-], starting with a letter or a digit. Else -FB_ENSNAME. NULL counts as empty. */
int name_check_ns(const char *name, struct err *e);

/* Key: 1..1024 bytes of UTF-8, components separated by single '/'. Else
 *   -FB_EKEYEMPTY  len is 0
 *   -FB_EKEYLONG   more than NAME_KEY_MAX bytes
 *   -FB_EKEYNAME   a NUL byte, an empty, "." or ".." component, a leading or trailing '/', or bytes that are not UTF-8
 */
int name_check_key(const void *key, size_t len, struct err *e);

/* Peer: 1..63 of [A-Za-z0-9._-] (as ring.h has it). Else -EINVAL. NULL counts as empty. */
int name_check_peer(const char *name, struct err *e);

/* Takes "host:port" apart: a DNS name, an IPv4 address, or an IPv6 address in brackets ("[::1]:7077"); ret_host is
 * without brackets. Port is 1..65535, and 0 too if `port_0` (a listener that lets the kernel choose). Else -EINVAL.
 * Resolves nothing. */
int name_parse_hostport(const char *text, bool port_0, char ret_host[NAME_HOST_MAX + 1], uint16_t *ret_port,
                        struct err *e);

/* Writes bytes from outside into out as a quoted, NUL-terminated string that is safe in a terminal and in a log:
 * control bytes and what is not UTF-8 become \xNN, quotes and backslashes get a backslash, and what is longer than fits
 * is cut
 * ("abc"...). NULL prints as (none). Returns out. */
#define NAME_QUOTE_MAX 96u
const char *name_quote(char out[NAME_QUOTE_MAX], const void *name, size_t len);

/* "ns/key" as failures name it (without the key: "ns"): as safe as above but without quotes, and cut so that the
 * sentence that follows has room. Returns out. */
#define NAME_OBJECT_MAX 224u
const char *name_object(char out[NAME_OBJECT_MAX], const char *ns, const char *key);

#endif
