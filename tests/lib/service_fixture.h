/* service_fixture.h - a service of one peer over a real directory, or an origin in memory that does as it is told, and
 * its asynchronous operations made to wait. */
#ifndef FB_TESTS_LIB_SERVICE_FIXTURE_H
#define FB_TESTS_LIB_SERVICE_FIXTURE_H

#include <semaphore.h>

#include "server/service/internal.h"
#include "tests/lib/fake_origin.h"
#include "tests/lib/fault_tier.h"

struct service_fixture {
  char *dir;    /* holds the two below */
  char *origin; /* origin root, allowed */
  char *state;
  char *roots[1];
  struct member *member;
  struct tier *tier; /* the base of `faults`, which wraps a RAM tier */
  struct fault_tier *faults;
  struct rpc_loop *loop;
  struct service *s;
};

/* ram_bytes 0 = 32 MiB. Aborts on failure: a test has nobody to return to. */
void service_fixture_start(struct service_fixture *f, uint64_t ram_bytes);
/* The same, otherwise. All may be left 0. */
struct service_fixture_options {
  uint64_t ram_bytes;
  void (*tune)(struct service_conf *c); /* changes the settings before the service is made */
  const struct ring_member *members;    /* the first is this peer; NULL: alone */
  unsigned n_members;
  const char *origin; /* another directory than one of its own */
};
void service_fixture_open(struct service_fixture *f, const struct service_fixture_options *o);
/* Ends the service, keeps the directory; then _start begins anew over the same state. */
void service_fixture_stop(struct service_fixture *f);
void service_fixture_end(struct service_fixture *f); /* stop, and remove the directory */

/* Puts an origin in memory under a namespace that nobody has used yet; it lives as long as the namespace does. */
struct fake_origin *service_fixture_fake_origin(struct service_fixture *f, const char *ns);

/* What an operation answered. Data is copied out. */
struct answer {
  sem_t done;
  int calls; /* of `done` */
  int code;
  char text[ERR_TEXT_MAX];
  struct object_info info;
  int source, acked;
  uint32_t crc;
  uint8_t *data; /* malloc'd */
  size_t len;
  uint64_t blocks, bytes;
  uint64_t id;       /* of a namespace */
  char peer[64];     /* who answered */
  char missing[128]; /* names of peers that were not reached, each with a blank behind it */
};
void answer_free(struct answer *a);
/* Operations that are only begun here, with a deadline of `ms` from now, are waited for with answer_await. */
void begin_get(struct service_fixture *f, const struct get_req *q, struct answer *a);
void begin_stat(struct service_fixture *f, const struct stat_req *q, struct answer *a);
void begin_put(struct service_fixture *f, const char *ns, const char *key, const void *data, size_t len, bool overwrite,
               struct answer *a);
void answer_await(struct answer *a);
bool answer_ready(struct answer *a);

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

/* A warm: results are copied out, n of them. */
struct warm_answer {
  sem_t done;
  int code;
  char text[ERR_TEXT_MAX];
  unsigned n;
  struct warm_result results[256];
};
void begin_warm(struct service_fixture *f, const struct warm_req *q, struct warm_answer *a);
void warm_answer_await(struct warm_answer *a);
void ask_warm(struct service_fixture *f, const struct warm_req *q, struct warm_answer *a);

#endif
