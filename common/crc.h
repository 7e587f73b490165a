/* crc.h - CRC32C (Castagnoli), by ISA-L, which picks the widest carry-less multiply the CPU has. */
#ifndef FB_COMMON_CRC_H
#define FB_COMMON_CRC_H

#include <stddef.h>
#include <stdint.h>

/* The usual CRC32C (iSCSI, RFC 3720): crc32c(0, "123456789", 9) == 0xe3069283. Chains: crc32c(crc32c(0,a),b) is that
 * of a followed by b. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
