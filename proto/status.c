/* status.c - err.h's codes and gRPC's statuses: two tables, so that a reader (and docs/protocol.md) sees all of it.
 *
 * A status tells a foreign client what kind of failure it met and whether to try again; the exact code travels beside
 * it in `forebay-code`. Hence many codes share a status, and the way back is only a guess for calls without that
 * metadata. */
#include "proto/status.h"

#include <errno.h>
#include <stdlib.h>

#include "common/err.h"

/* gRPC's statuses by number, so that this file needs none of its headers. */
enum {
  OK = 0,
  CANCELLED = 1,
  UNKNOWN = 2,
  INVALID_ARGUMENT = 3,
  DEADLINE_EXCEEDED = 4,
  NOT_FOUND = 5,
  ALREADY_EXISTS = 6,
  PERMISSION_DENIED = 7,
  RESOURCE_EXHAUSTED = 8,
  FAILED_PRECONDITION = 9,
  ABORTED = 10,
  OUT_OF_RANGE = 11,
  UNIMPLEMENTED = 12,
  INTERNAL = 13,
  UNAVAILABLE = 14,
  DATA_LOSS = 15,
  UNAUTHENTICATED = 16,
};

#define CODE_TO_STATUS(X)                                                                                              \
  X(FB_ENONS, NOT_FOUND)                                                                                               \
  X(FB_ENSEXISTS, ALREADY_EXISTS)                                                                                      \
  X(FB_ENSNAME, INVALID_ARGUMENT)                                                                                      \
  X(FB_EKEYEMPTY, INVALID_ARGUMENT)                                                                                    \
  X(FB_EKEYLONG, INVALID_ARGUMENT)                                                                                     \
  X(FB_EKEYNAME, INVALID_ARGUMENT)                                                                                     \
  X(FB_EPASTEND, OUT_OF_RANGE)                                                                                         \
  X(FB_ETOOBIG, RESOURCE_EXHAUSTED)                                                                                    \
  X(FB_EPEERSEMPTY, INVALID_ARGUMENT)                                                                                  \
  X(FB_EPEERSDUP, INVALID_ARGUMENT)                                                                                    \
  X(FB_ERING, FAILED_PRECONDITION)                                                                                     \
  X(FB_ECHANGED, ABORTED)                                                                                              \
  X(FB_ECRC, DATA_LOSS)                                                                                                \
  X(FB_EESCAPES, PERMISSION_DENIED)                                                                                    \
  X(FB_ENOTDERIVED, FAILED_PRECONDITION)                                                                               \
  X(FB_EORIGINROOT, PERMISSION_DENIED)                                                                                 \
  X(FB_EPEERDOWN, UNAVAILABLE)                                                                                         \
  X(FB_EBUSY, RESOURCE_EXHAUSTED)                                                                                      \
  X(FB_ESHORT, DATA_LOSS)                                                                                              \
  X(FB_EPROTO, INTERNAL)                                                                                               \
  X(FB_EBADCONF, INVALID_ARGUMENT)                                                                                     \
  X(FB_EBELOWTARGET, FAILED_PRECONDITION)                                                                              \
  X(FB_EDIFFERS, DATA_LOSS)                                                                                            \
  X(EPERM, PERMISSION_DENIED)                                                                                          \
  X(EACCES, PERMISSION_DENIED)                                                                                         \
  X(EROFS, PERMISSION_DENIED)                                                                                          \
  X(ENOENT, NOT_FOUND)                                                                                                 \
  X(EEXIST, ALREADY_EXISTS)                                                                                            \
  X(EINVAL, INVALID_ARGUMENT)                                                                                          \
  X(ENAMETOOLONG, INVALID_ARGUMENT)                                                                                    \
  X(ELOOP, FAILED_PRECONDITION)                                                                                        \
  X(EISDIR, FAILED_PRECONDITION)                                                                                       \
  X(ENOTDIR, FAILED_PRECONDITION)                                                                                      \
  X(ENOTEMPTY, FAILED_PRECONDITION)                                                                                    \
  X(EXDEV, PERMISSION_DENIED)                                                                                          \
  X(ENODEV, FAILED_PRECONDITION)                                                                                       \
  X(ENXIO, FAILED_PRECONDITION)                                                                                        \
  X(ERANGE, OUT_OF_RANGE)                                                                                              \
  X(EOVERFLOW, OUT_OF_RANGE)                                                                                           \
  X(EFBIG, OUT_OF_RANGE)                                                                                               \
  X(ENOSPC, RESOURCE_EXHAUSTED)                                                                                        \
  X(EDQUOT, RESOURCE_EXHAUSTED)                                                                                        \
  X(ENOMEM, RESOURCE_EXHAUSTED)                                                                                        \
  X(EMFILE, RESOURCE_EXHAUSTED)                                                                                        \
  X(ENFILE, RESOURCE_EXHAUSTED)                                                                                        \
  X(ENOBUFS, RESOURCE_EXHAUSTED)                                                                                       \
  X(EMSGSIZE, RESOURCE_EXHAUSTED)                                                                                      \
  X(EAGAIN, UNAVAILABLE)                                                                                               \
  X(EBUSY, UNAVAILABLE)                                                                                                \
  X(EINTR, UNAVAILABLE)                                                                                                \
  X(ESHUTDOWN, UNAVAILABLE)                                                                                            \
  X(ECONNREFUSED, UNAVAILABLE)                                                                                         \
  X(ECONNRESET, UNAVAILABLE)                                                                                           \
  X(ECONNABORTED, UNAVAILABLE)                                                                                         \
  X(ENOTCONN, UNAVAILABLE)                                                                                             \
  X(EPIPE, UNAVAILABLE)                                                                                                \
  X(EHOSTUNREACH, UNAVAILABLE)                                                                                         \
  X(ENETUNREACH, UNAVAILABLE)                                                                                          \
  X(EHOSTDOWN, UNAVAILABLE)                                                                                            \
  X(ETIMEDOUT, DEADLINE_EXCEEDED)                                                                                      \
  X(ETIME, DEADLINE_EXCEEDED)                                                                                          \
  X(ESTALE, ABORTED)                                                                                                   \
  X(EDEADLK, ABORTED)                                                                                                  \
  X(ENOSYS, UNIMPLEMENTED)                                                                                             \
  X(EOPNOTSUPP, UNIMPLEMENTED)                                                                                         \
  X(ECANCELED, CANCELLED)                                                                                              \
  X(EIO, INTERNAL)                                                                                                     \
  X(EPROTO, INTERNAL)                                                                                                  \
  X(EBADMSG, DATA_LOSS)

int status_from_code(int code) {
  switch (abs(code)) {
  case 0:
    return OK;
#define X(name, status)                                                                                                \
  case name:                                                                                                           \
    return status;
    CODE_TO_STATUS(X)
#undef X
  default:
    return abs(code) > 5000 ? INTERNAL : UNKNOWN;
  }
}

/* Guesses for a status that came alone. The way back through status_from_code is the same status, but for what only a
 * foreign server can mean by UNKNOWN and UNAUTHENTICATED. */
int status_to_code(int grpc_status) {
  static const int codes[] = {
      [OK] = 0,
      [CANCELLED] = -ECANCELED,
      [UNKNOWN] = -EREMOTEIO,
      [INVALID_ARGUMENT] = -EINVAL,
      [DEADLINE_EXCEEDED] = -ETIMEDOUT,
      [NOT_FOUND] = -ENOENT,
      [ALREADY_EXISTS] = -EEXIST,
      [PERMISSION_DENIED] = -EACCES,
      [RESOURCE_EXHAUSTED] = -FB_EBUSY,
      [FAILED_PRECONDITION] = -ENXIO,
      [ABORTED] = -ESTALE,
      [OUT_OF_RANGE] = -ERANGE,
      [UNIMPLEMENTED] = -ENOSYS,
      [INTERNAL] = -FB_EPROTO,
      [UNAVAILABLE] = -FB_EPEERDOWN,
      [DATA_LOSS] = -EBADMSG,
      [UNAUTHENTICATED] = -EACCES,
  };

  if (grpc_status < 0 || grpc_status >= (int)(sizeof codes / sizeof *codes))
    return -EREMOTEIO;
  return codes[grpc_status];
}
