/* service_fixture.c - see service_fixture.h. */
#include "tests/lib/service_fixture.h"

#include <semaphore.h>
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
  const struct ring_member self = {.name = "a", .address = "127.0.0.1:1", .weight = 1};
  struct err e = {0};

  if (!f->dir) {
    f->dir = test_tmpdir();
    f->origin = test_printf("%s/origin", f->dir);
    f->state = test_printf("%s/state", f->dir);
    mkdir(f->origin, 0755);
    mkdir(f->state, 0755);
    f->roots[0] = f->origin;
  }
  must(member_static_new(&f->member, &self, 1, RING_SLOTS_DEFAULT, &e), &e);
  must(tier_ram_new(&f->tier, ram_bytes ? ram_bytes : 32u << 20, &e), &e);
  must(rpc_loop_new(&f->loop, 1, "test", &e), &e);
  struct service_conf c = {.self = "a",
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

void answer_free(struct answer *a) {
  free(a->data);
  memset(a, 0, sizeof *a);
}

/* An answer on its way. */
struct wait {
  struct answer *a;
  sem_t done;
};

static void begin(struct wait *w, struct answer *a) {
  memset(a, 0, sizeof *a);
  w->a = a;
  sem_init(&w->done, 0, 0);
}

static void end(struct wait *w) {
  struct timespec until;

  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_MS / 1000;
  if (sem_timedwait(&w->done, &until) != 0) {
    fprintf(stderr, "service_fixture: no answer within %d ms\n", PATIENCE_MS);
    abort();
  }
  sem_destroy(&w->done);
}

static void status(struct wait *w, int code, const char *text) {
  w->a->code = code;
  snprintf(w->a->text, sizeof w->a->text, "%s", text);
}

static void on_get(void *arg, int code, const char *text, const struct get_reply *r) {
  struct wait *w = arg;

  status(w, code, text);
  if (r) {
    w->a->info = r->info;
    w->a->source = r->source;
    w->a->crc = r->crc;
    w->a->len = r->data->len;
    w->a->data = malloc(r->data->len + 1);
    blob_read(r->data, 0, w->a->data, r->data->len);
  }
  sem_post(&w->done);
}

void ask_get(struct service_fixture *f, const char *ns, const char *key, uint64_t offset, uint32_t length,
             uint64_t etag, struct answer *a) {
  struct get_req q = {.ns = ns,
                      .key = key,
                      .offset = offset,
                      .length = length,
                      .etag = etag,
                      .deadline_ns = deadline_in_ms(PATIENCE_MS)};
  struct wait w;

  begin(&w, a);
  service_get(f->s, &q, on_get, &w);
  end(&w);
}

static void on_stat(void *arg, int code, const char *text, const struct object_info *info, const char *peer) {
  struct wait *w = arg;

  (void)peer;
  status(w, code, text);
  if (info)
    w->a->info = *info;
  sem_post(&w->done);
}

void ask_stat(struct service_fixture *f, const char *ns, const char *key, bool fresh, struct answer *a) {
  struct stat_req q = {.ns = ns, .key = key, .fresh = fresh, .deadline_ns = deadline_in_ms(PATIENCE_MS)};
  struct wait w;

  begin(&w, a);
  service_stat(f->s, &q, on_stat, &w);
  end(&w);
}

static void on_put(void *arg, int code, const char *text, const struct object_info *info, int acked, const char *peer) {
  struct wait *w = arg;

  (void)peer;
  status(w, code, text);
  w->a->acked = acked;
  if (info)
    w->a->info = *info;
  sem_post(&w->done);
}

void ask_put(struct service_fixture *f, const char *ns, const char *key, const void *data, size_t len, bool overwrite,
             struct answer *a) {
  struct put_req q = {.ns = ns,
                      .key = key,
                      .value = blob_copy(data, len),
                      .crc = crc32c(0, data, len),
                      .overwrite = overwrite,
                      .deadline_ns = deadline_in_ms(PATIENCE_MS)};
  struct wait w;

  begin(&w, a);
  service_put(f->s, &q, on_put, &w);
  blob_unref(&q.value);
  end(&w);
}

static void on_invalidate(void *arg, int code, const char *text, uint64_t blocks, uint64_t bytes,
                          const struct name_list *unreachable) {
  struct wait *w = arg;

  (void)unreachable;
  status(w, code, text);
  w->a->blocks = blocks;
  w->a->bytes = bytes;
  sem_post(&w->done);
}

void ask_invalidate(struct service_fixture *f, const char *ns, const char *pattern, struct answer *a) {
  struct invalidate_req q = {.ns = ns, .pattern = pattern, .deadline_ns = deadline_in_ms(PATIENCE_MS)};
  struct wait w;

  begin(&w, a);
  service_invalidate(f->s, &q, on_invalidate, &w);
  end(&w);
}

static void on_ns(void *arg, int code, const char *text, const struct ns_record *ns, uint64_t bytes, uint64_t blocks,
                  const struct name_list *unreachable) {
  struct wait *w = arg;

  (void)unreachable;
  status(w, code, text);
  w->a->id = ns ? ns->id : 0;
  w->a->bytes = bytes;
  w->a->blocks = blocks;
  sem_post(&w->done);
}

static const struct route any;

void ask_create(struct service_fixture *f, const struct ns_record *want, struct answer *a) {
  struct ns_record r = *want;
  struct wait w;

  r.origin = r.origin ? r.origin : "";
  r.version = r.version ? r.version : "";
  begin(&w, a);
  service_ns_create(f->s, &r, &any, deadline_in_ms(PATIENCE_MS), on_ns, &w);
  end(&w);
}

void ask_drop(struct service_fixture *f, const char *ns, struct answer *a) {
  struct wait w;

  begin(&w, a);
  service_ns_drop(f->s, ns, &any, deadline_in_ms(PATIENCE_MS), on_ns, &w);
  end(&w);
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
