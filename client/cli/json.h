/* json.h - writes one JSON value on one line, escaped right, as it goes: a listing of any length needs no memory.
 *
 * Bytes that are not UTF-8 (file names may hold any) become U+FFFD, so the output always parses. Commas are put by the
 * writer; json_finish closes what is open, so an error in the middle of a listing still ends in valid JSON. */
#ifndef FB_CLI_JSON_H
#define FB_CLI_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_DEPTH_MAX 8

struct json {
  FILE *out;
  unsigned depth;
  struct {
    char close;
    bool comma;
  } open[JSON_DEPTH_MAX];
};

/* `key` is NULL inside arrays and for the outermost value. */
void json_object(struct json *j, const char *key);
void json_array(struct json *j, const char *key);
void json_end(struct json *j);
/* Closes levels until `depth` are open. */
void json_end_to(struct json *j, unsigned depth);
void json_string(struct json *j, const char *key, const char *value);
void json_uint(struct json *j, const char *key, uint64_t value);
void json_int(struct json *j, const char *key, int64_t value);
/* 16 hex digits as a string: hashes and etags do not fit the numbers of JavaScript. */
void json_hex(struct json *j, const char *key, uint64_t value);
void json_real(struct json *j, const char *key, double value);
void json_bool(struct json *j, const char *key, bool value);

/* Length of the UTF-8 sequence at s (1..4), or 0 when it is none (overlong forms and surrogates included). */
unsigned utf8_length(const char *s);

#endif
