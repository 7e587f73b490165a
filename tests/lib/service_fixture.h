/* service_fixture.h - a service of one peer over a real directory, and its asynchronous operations made to wait. */
#ifndef FB_TESTS_LIB_SERVICE_FIXTURE_H
#define FB_TESTS_LIB_SERVICE_FIXTURE_H

#include "server/service/internal.h"

struct service_fixture {
  char *dir;    /* holds the two below */
  char *origin; /* origin root, allowed */
  char *state;
  char *roots[1];
  struct member *member;
  struct tier *tier;
  struct rpc_loop *loop;
  struct service *s;
};

/* ram_bytes 0 = 32 MiB. Aborts on failure: a test has nobody to return to. */
void service_fixture_start(struct service_fixture *f, uint64_t ram_bytes);
/* Ends the service, keeps the directory; then _start begins anew over the same state. */
void service_fixture_stop(struct service_fixture *f);
void service_fixture_end(struct service_fixture *f); /* stop, and remove the directory */

/* What an operation answered. Data is copied out. */
struct answer {
  int code;
  char text[ERR_TEXT_MAX];
  struct object_info info;
  int source, acked;
  uint32_t crc;
  uint8_t *data; /* malloc'd */
  size_t len;
  uint64_t blocks, bytes;
  uint64_t id; /* of a namespace */
};
void answer_free(struct answer *a);

void ask_get(struct service_fixture *f, const char *ns, const char *key, uint64_t offset, uint32_t length,
             uint64_t etag, struct answer *a);
void ask_stat(struct service_fixture *f, const char *ns, const char *key, bool fresh, struct answer *a);
void ask_put(struct service_fixture *f, const char *ns, const char *key, const void *data, size_t len, bool overwrite,
             struct answer *a);
void ask_invalidate(struct service_fixture *f, const char *ns, const char *pattern, struct answer *a);
void ask_create(struct service_fixture *f, const struct ns_record *want, struct answer *a);
void ask_drop(struct service_fixture *f, const char *ns, struct answer *a);
/* A dataset over `origin`, or derived data; asserts success. */
void make_dataset(struct service_fixture *f, const char *name, uint32_t block_bytes);
void make_derived(struct service_fixture *f, const char *name, bool with_origin);
uint64_t metric(struct service_fixture *f, enum metric m);

#endif
