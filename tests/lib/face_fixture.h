/* face_fixture.h - a whole peer in the test's process and a client beside it, for tests of the gRPC face. */
#ifndef FB_TESTS_LIB_FACE_FIXTURE_H
#define FB_TESTS_LIB_FACE_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/daemon.h"
#include "tests/lib/face_client.h"

#define CACHE "/forebay.v1.Cache/"
#define SPACES "/forebay.v1.Namespaces/"
#define CLUSTER "/forebay.v1.Cluster/"
#define HEALTH "/grpc.health.v1.Health/"
#define VALUE_MAX (3u << 20)

struct face_fixture {
  char *dir;
  struct daemon *d;
  struct face_client c;
};

/* A peer of its own for each test, named solo: values of up to VALUE_MAX bytes, 4 MiB of puts in flight, and a default
 * deadline of 300 ms (slow: 3 s). DIR/origin may become the origin of a dataset. */
int face_up(void **state);
int face_up_slow(void **state);
int face_down(void **state);
/* protobuf-c's strings are not const, though it only reads them when packing. */
char *face_str(const char *s);
/* A derived namespace; and the dataset `files` over DIR/origin. */
void face_create(struct face_fixture *f, const char *name);
void face_create_dataset(struct face_fixture *f);
/* Bytes that depend on the key's text, and their check from offset `off` on. */
struct blob *face_value(const char *key, size_t len);
void face_assert_value(const struct blob *b, const char *key, size_t off, size_t len);
struct blob *face_piece(struct blob *b, size_t off, size_t len);
/* Puts with messages of `piece` bytes and announces `size`. Returns the code, with its text if wanted. */
int face_put(struct face_fixture *f, const char *ns, const char *key, struct blob *value, uint64_t size, size_t piece,
             bool overwrite, char text[1100]);
void face_put_good(struct face_fixture *f, const char *ns, const char *key, size_t len, size_t piece);
struct reply face_get(struct face_fixture *f, const char *ns, const char *key, uint64_t off, uint32_t len);
/* Sends 1000 bytes of a value of `size`, and leaves it at that. */
struct stream *face_half_a_put(struct face_fixture *f, const char *key, uint32_t size, int deadline_ms);
/* For test_wait: puts VALUE_MAX bytes; true when the answer is `want`. */
struct face_try_put {
  struct face_fixture *f;
  const char *key;
  int want;
};
bool face_put_answers(void *arg);

#endif
