/* service_fixture.c - see service_fixture.h. */
#include "tests/lib/service_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/crc.h"
#include "tests/lib/testlib.h"

#define PATIENCE_MS 60000

static void must(int r, const struct err *e) {
  if (r < 0) {
    fprintf(stderr, "service_fixture: %s (%s)\n", e->text, err_name(r));
    abort();
  }
}

void service_fixture_start(struct service_fixture *f, uint64_t ram_bytes) {
  service_fixture_open(f, &(struct service_fixture_options){.ram_bytes = ram_bytes});
}

void service_fixture_open(struct service_fixture *f, const struct service_fixture_options *o) {
  const struct ring_member alone = {.name = "a", .address = "127.0.0.1:1", .weight = 1};
  const struct ring_member *members = o->members ? o->members : &alone;
  struct err e = {0};

  if (!f->dir) {
    f->dir = test_tmpdir();
    f->origin = o->origin ? test_printf("%s", o->origin) : test_printf("%s/origin", f->dir);
    f->state = test_printf("%s/state", f->dir);
    mkdir(f->origin, 0755);
    mkdir(f->state, 0755);
    f->roots[0] = f->origin;
  }
  must(member_static_new(&f->member, members, o->members ? o->n_members : 1, RING_SLOTS_DEFAULT, &e), &e);
  must(tier_ram_new(&f->tier, o->ram_bytes ? o->ram_bytes : 32u << 20, &e), &e);
  f->faults = fault_tier_new(&f->tier);
  f->tier = &f->faults->base;
  must(rpc_loop_new(&f->loop, 1, "test", &e), &e);
  struct service_conf c = {.self = members[0].name,
                           .state_dir = f->state,
                           .member = f->member,
                           .tier = f->tier,
                           .loop = f->loop,
                           .origin_roots = f->roots,
                           .n_origin_roots = 1,
                           .origin_threads = 4,
                           .origin_queue = 256,
                           .origin_open_files = 32,
                           .error_ttl_ms = 50,
                           .attr_entries = 4096,
                           .uncached_max_bytes = 8u << 20,
                           .put_max_value_bytes = 64u << 20,
                           .put_max_inflight_bytes = 64u << 20,
                           .peer_timeout_ms = 1000,
                           .prestage_parallel = 4,
                           .prestage_runs = 2,
                           .catalog_sync_ms = 1000};
  if (o->tune)
    o->tune(&c);
  must(service_new(&f->s, &c, &e), &e);
  must(service_start(f->s, &e), &e);
}

void service_fixture_stop(struct service_fixture *f) {
  if (!service_stop(f->s, deadline_in_ms(PATIENCE_MS)))
    abort();
  service_free(&f->s);
  rpc_loop_free(&f->loop);
  tier_free(&f->tier);
  member_free(&f->member);
}

void service_fixture_end(struct service_fixture *f) {
  service_fixture_stop(f);
  test_rmtree(f->dir);
  free(f->dir);
  free(f->origin);
  free(f->state);
  memset(f, 0, sizeof *f);
}

struct fake_origin *service_fixture_fake_origin(struct service_fixture *f, const char *ns) {
  struct fake_origin *fake = fake_origin_new();
  struct ns *n = catalog_find(f->s->catalog, ns);

  if (!n || n->origin)
    abort();
  n->origin = &fake->base;
  ns_unref(&n);
  return fake;
}

void answer_free(struct answer *a) {
  free(a->data);
  a->data = NULL;
}

static void begin(struct answer *a) {
  memset(a, 0, sizeof *a);
  sem_init(&a->done, 0, 0);
}

static void wait_for(sem_t *done) {
  struct timespec until;

  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_MS / 1000;
  if (sem_timedwait(done, &until) != 0) {
    fprintf(stderr, "service_fixture: no answer within %d ms\n", PATIENCE_MS);
    abort();
  }
  sem_destroy(done);
}

void answer_await(struct answer *a) {
  wait_for(&a->done);
  if (a->calls != 1)
    abort();
}

bool answer_ready(struct answer *a) {
  int n;
  return sem_getvalue(&a->done, &n) == 0 && n > 0;
}

static void status(struct answer *a, int code, const char *text) {
  a->code = code;
  a->calls++;
  snprintf(a->text, sizeof a->text, "%s", text);
}

static void peer_is(struct answer *a, const char *peer) { snprintf(a->peer, sizeof a->peer, "%s", peer ? peer : ""); }

static void missing(struct answer *a, const struct name_list *l) {
  for (unsigned i = 0; i < l->n; i++) {
    size_t n = strlen(a->missing);
    snprintf(a->missing + n, sizeof a->missing - n, "%s ", l->v[i]);
  }
}

static void on_get(void *arg, int code, const char *text, const struct get_reply *r) {
  struct answer *a = arg;

  status(a, code, text);
  if (r) {
    a->info = r->info;
    a->source = r->source;
    a->crc = r->crc;
    a->len = r->data->len;
    peer_is(a, r->peer);
    a->data = malloc(r->data->len + 1);
    blob_read(r->data, 0, a->data, r->data->len);
  }
  sem_post(&a->done);
}

void begin_get(struct service_fixture *f, const struct get_req *q, struct answer *a) {
  begin(a);
  service_get(f->s, q, on_get, a);
}

void ask_get(struct service_fixture *f, const char *ns, const char *key, uint64_t offset, uint32_t length,
             uint64_t etag, struct answer *a) {
  struct get_req q = {.ns = ns,
                      .key = key,
                      .offset = offset,
                      .length = length,
                      .etag = etag,
                      .deadline_ns = deadline_in_ms(PATIENCE_MS)};

  begin_get(f, &q, a);
  answer_await(a);
}

static void on_stat(void *arg, int code, const char *text, const struct object_info *info, const char *peer) {
  struct answer *a = arg;

  status(a, code, text);
  peer_is(a, peer);
  if (info)
    a->info = *info;
  sem_post(&a->done);
}

void begin_stat(struct service_fixture *f, const struct stat_req *q, struct answer *a) {
  begin(a);
  service_stat(f->s, q, on_stat, a);
}

void ask_stat(struct service_fixture *f, const char *ns, const char *key, bool fresh, struct answer *a) {
  struct stat_req q = {.ns = ns, .key = key, .fresh = fresh, .deadline_ns = deadline_in_ms(PATIENCE_MS)};

  begin_stat(f, &q, a);
  answer_await(a);
}

static void on_put(void *arg, int code, const char *text, const struct object_info *info, int acked, const char *peer) {
  struct answer *a = arg;

  status(a, code, text);
  peer_is(a, peer);
  a->acked = acked;
  if (info)
    a->info = *info;
  sem_post(&a->done);
}

void begin_put(struct service_fixture *f, const char *ns, const char *key, const void *data, size_t len, bool overwrite,
               struct answer *a) {
  struct put_req q = {.ns = ns,
                      .key = key,
                      .value = blob_copy(data, len),
                      .crc = crc32c(0, data, len),
                      .overwrite = overwrite,
                      .deadline_ns = deadline_in_ms(PATIENCE_MS)};

  begin(a);
  service_put(f->s, &q, on_put, a);
  blob_unref(&q.value);
}

void ask_put(struct service_fixture *f, const char *ns, const char *key, const void *data, size_t len, bool overwrite,
             struct answer *a) {
  begin_put(f, ns, key, data, len, overwrite, a);
  answer_await(a);
}

static void on_invalidate(void *arg, int code, const char *text, uint64_t blocks, uint64_t bytes,
                          const struct name_list *unreachable) {
  struct answer *a = arg;

  status(a, code, text);
  missing(a, unreachable);
  a->blocks = blocks;
  a->bytes = bytes;
  sem_post(&a->done);
}

void ask_invalidate(struct service_fixture *f, const char *ns, const char *pattern, struct answer *a) {
  struct invalidate_req q = {.ns = ns, .pattern = pattern, .deadline_ns = deadline_in_ms(PATIENCE_MS)};

  begin(a);
  service_invalidate(f->s, &q, on_invalidate, a);
  answer_await(a);
}

static void on_ns(void *arg, int code, const char *text, const struct ns_record *ns, uint64_t bytes, uint64_t blocks,
                  const struct name_list *unreachable) {
  struct answer *a = arg;

  status(a, code, text);
  missing(a, unreachable);
  a->id = ns ? ns->id : 0;
  a->bytes = bytes;
  a->blocks = blocks;
  sem_post(&a->done);
}

static const struct route any;

void ask_create(struct service_fixture *f, const struct ns_record *want, struct answer *a) {
  struct ns_record r = *want;

  r.origin = r.origin ? r.origin : "";
  r.version = r.version ? r.version : "";
  begin(a);
  service_ns_create(f->s, &r, &any, deadline_in_ms(PATIENCE_MS), on_ns, a);
  answer_await(a);
}

void ask_drop(struct service_fixture *f, const char *ns, struct answer *a) {
  begin(a);
  service_ns_drop(f->s, ns, &any, deadline_in_ms(PATIENCE_MS), on_ns, a);
  answer_await(a);
}

void make_dataset(struct service_fixture *f, const char *name, uint32_t block_bytes) {
  struct ns_record r = {
      .name = name, .kind = NS_DATASET, .origin = f->origin, .block_bytes = block_bytes, .attr_ttl_ms = 1};
  struct answer a;

  ask_create(f, &r, &a);
  must(a.code, &(struct err){.text = "create"});
}

void make_derived(struct service_fixture *f, const char *name, bool with_origin) {
  struct ns_record r = {
      .name = name, .kind = NS_DERIVED, .origin = with_origin ? f->origin : "", .block_bytes = 65536, .attr_ttl_ms = 1};
  struct answer a;

  ask_create(f, &r, &a);
  must(a.code, &(struct err){.text = "create"});
}

uint64_t metric(struct service_fixture *f, enum metric m) { return atomic_load(&f->s->metrics[m]); }

static void on_warm(void *arg, int code, const char *text, const struct warm_result *results, unsigned n) {
  struct warm_answer *a = arg;

  a->code = code;
  snprintf(a->text, sizeof a->text, "%s", text);
  a->n = n;
  for (unsigned i = 0; i < n; i++)
    a->results[i] = results[i];
  sem_post(&a->done);
}

void begin_warm(struct service_fixture *f, const struct warm_req *q, struct warm_answer *a) {
  memset(a, 0, sizeof *a);
  sem_init(&a->done, 0, 0);
  service_warm(f->s, q, on_warm, a);
}

void warm_answer_await(struct warm_answer *a) { wait_for(&a->done); }

void ask_warm(struct service_fixture *f, const struct warm_req *q, struct warm_answer *a) {
  begin_warm(f, q, a);
  warm_answer_await(a);
}
