/* log.h - structured lines: `ts=... level=... msg="..." key=value ...` (logfmt) or one JSON object, to one descriptor.
 *
 * The daemon logs, once, where the request is known. `common`, `proto` and the client library return errors and log
 * nothing above debug. A line is written by one write(2), so lines of several threads never mix. */
#ifndef FB_COMMON_LOG_H
#define FB_COMMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_LOGFMT, LOG_JSON };

/* Where and how to log from now on. Thread-safe. The default is level info, logfmt, descriptor 2. */
void log_setup(enum log_level level, enum log_format format, int fd);
bool log_enabled(enum log_level level);

/* A key and its value. Values are quoted and escaped as the format needs; a NULL string is printed as "". */
struct log_field {
  const char *key;
  enum { LOGF_STR, LOGF_I64, LOGF_U64, LOGF_HEX } type;
  union {
    const char *s;
    int64_t i;
    uint64_t u;
  };
};
#define LOGF_S(k, v) ((struct log_field){.key = (k), .type = LOGF_STR, .s = (v)})
#define LOGF_I(k, v) ((struct log_field){.key = (k), .type = LOGF_I64, .i = (v)})
#define LOGF_U(k, v) ((struct log_field){.key = (k), .type = LOGF_U64, .u = (v)})
#define LOGF_X(k, v) ((struct log_field){.key = (k), .type = LOGF_HEX, .u = (v)})

/* At most LOG_LINE_MAX bytes; what is longer is cut, visibly. */
#define LOG_LINE_MAX 4096
void log_write(enum log_level level, const char *msg, const struct log_field *fields, unsigned n);

/* log_event(LOG_INFO, "peer up", LOGF_S("peer", name), LOGF_U("epoch", epoch)); */
#define log_event(level, msg, ...)                                                                                     \
  do {                                                                                                                 \
    if (log_enabled(level)) {                                                                                          \
      const struct log_field log_fields_[] = {{.key = 0}, ##__VA_ARGS__};                                              \
      log_write(level, msg, log_fields_ + 1, sizeof log_fields_ / sizeof *log_fields_ - 1);                            \
    }                                                                                                                  \
  } while (0)

#endif
