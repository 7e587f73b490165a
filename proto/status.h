/* status.h - the one place where err.h's codes and gRPC's status codes meet. docs/protocol.md prints this table. */
#ifndef FB_PROTO_STATUS_H
#define FB_PROTO_STATUS_H

/* gRPC status (0..16) for a code of err.h (either sign). Codes not in the table are INTERNAL (13) if they are FB_*,
 * UNKNOWN (2) else. */
int status_from_code(int code);
/* Negative code for a gRPC status that came without forebay-code metadata (another implementation, or gRPC itself). */
int status_to_code(int grpc_status);

#endif
