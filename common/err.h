/* err.h - what went wrong, in a number for programs and a sentence for people.
 *
 * Functions return 0 (or a count) on success and a negative code on failure. Codes are:
 *   -1 .. -4095      a Linux errno, passed on unchanged (an origin's EIO stays EIO)
 *   FB_CODES below   conditions that errno has no word for
 * Calls that set things up or serve a user also fill a `struct err` with a text: what failed, on what, and what
 * would be accepted. Library code returns it; the daemon or the CLI prints it, once.
 */
#ifndef FB_COMMON_ERR_H
#define FB_COMMON_ERR_H

#include <stdarg.h>
#include <stddef.h>

/* The one table of Forebay's own codes. Columns: name, number on the wire, short description. The public header
 * repeats the numbers (tests/unit/test_err.c holds the two together); proto/status.c maps each to a gRPC status. */
#define FB_CODES(X)                                                                                                    \
  X(FB_ENONS, 5001, "no such namespace")                                                                               \
  X(FB_ENSEXISTS, 5002, "namespace exists already")                                                                    \
  X(FB_ENSNAME, 5003, "bad namespace name")                                                                            \
  X(FB_EKEYEMPTY, 5004, "empty key")                                                                                   \
  X(FB_EKEYLONG, 5005, "key longer than 1024 bytes")                                                                   \
  X(FB_EKEYNAME, 5006, "key has an empty, '.' or '..' component, or a NUL byte")                                       \
  X(FB_EPASTEND, 5007, "range starts past the end")                                                                    \
  X(FB_ETOOBIG, 5008, "message or value over its size limit")                                                          \
  X(FB_EPEERSEMPTY, 5009, "empty peer list")                                                                           \
  X(FB_EPEERSDUP, 5010, "duplicate peer in the list")                                                                  \
  X(FB_ERING, 5011, "peers disagree on the ring")                                                                      \
  X(FB_ECHANGED, 5012, "file changed while it was read")                                                               \
  X(FB_ECRC, 5013, "checksum mismatch")                                                                                \
  X(FB_EESCAPES, 5014, "path leaves the origin directory")                                                             \
  X(FB_ENOTDERIVED, 5015, "namespace does not take puts")                                                              \
  X(FB_EORIGINROOT, 5016, "origin directory is not below an allowed root")                                             \
  X(FB_EPEERDOWN, 5017, "peer unreachable")                                                                            \
  X(FB_EBUSY, 5018, "over a configured limit, try again later")                                                        \
  X(FB_ESHORT, 5019, "origin returned fewer bytes than the file holds")                                                \
  X(FB_EPROTO, 5020, "malformed or unexpected message")                                                                \
  X(FB_EBADCONF, 5021, "bad configuration")                                                                            \
  X(FB_EBELOWTARGET, 5022, "prestage ended below its target")                                                          \
  X(FB_EDIFFERS, 5023, "cache and origin differ")

#ifndef FOREBAY_H /* the public header has the same names; where both are needed it comes first */
enum fb_code {
#define X(name, number, text) name = (number),
  FB_CODES(X)
#undef X
};
#endif

#define ERR_TEXT_MAX 512

/* A failure with its text. Caller's memory; zero-initialised means "no error". */
struct err {
  int code;                /* 0, or the negative code that was returned with it */
  char text[ERR_TEXT_MAX]; /* NUL-terminated sentence, cut at the limit */
};

/* Fills *e (which may be NULL) and returns `code`, so that `return err_set(e, -ENOSPC, "...")` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_vset(struct err *e, int code, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));

#ifdef __clang_analyzer__
/* The analyzer does not look into err.c; told that err_set returns its code, it follows no failure as a success. */
#define err_set(e, code, ...) ((err_set)((e), (code), __VA_ARGS__), (code))
#endif

/* Puts "CONTEXT: " before the text that is there. Returns e->code. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Symbolic name of a code ("ENOENT", "FB_ENONS", "OK"), static storage; "E?" for one that nobody knows.
 * Takes either sign. Thread-safe. */
const char *err_name(int code);

/* Short description of a code, static storage. Takes either sign. Thread-safe. */
const char *err_describe(int code);

#endif
