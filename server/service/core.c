/* core.c - the service itself: its parts put together, and the ticker that ends what waited too long. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/names.h"
#include "server/service/catalog.h"
#include "server/service/parts.h"

#define TICK_MS 50

int fail_object(struct err *e, int code, const char *ns, const char *key, const char *text) {
  char name[NAME_OBJECT_MAX];
  size_t n = strlen(name_object(name, ns, key));

  if (strncmp(text, name, n) == 0 && text[n] == ':')
    return err_set(e, code, "%s", text);
  return err_set(e, code, "%s: %s", name, text);
}

static void *ticker_main(void *arg) {
  struct service *s = arg;
  int64_t next_sync = 0;

  pthread_setname_np(pthread_self(), "fb-ticker");
  while (!atomic_load(&s->stopping)) {
    struct timespec pause = clock_timespec(TICK_MS * NS_PER_MS);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    int64_t now = clock_mono_ns();
    bool over = atomic_load(&s->draining) && now >= atomic_load(&s->drain_deadline_ns);
    int64_t late = over ? INT64_MAX : now;
    unsigned n = flight_expire(s->block_flights, late) + flight_expire(s->attr_flights, late);
    if (n)
      metric_add(s, M_expired, n);
    catalog_tend(s->catalog, now);
    if (now >= next_sync) {
      catalog_pull(s, now);
      next_sync = now + (int64_t)s->conf.catalog_sync_ms * NS_PER_MS;
    }
  }
  return NULL;
}

static int copy_strings(struct service *s, const struct service_conf *conf) {
  s->self = strdup(conf->self);
  s->state_dir = strdup(conf->state_dir);
  s->origin_roots = calloc(conf->n_origin_roots ? conf->n_origin_roots : 1, sizeof *s->origin_roots);
  if (!s->self || !s->state_dir || !s->origin_roots)
    return -ENOMEM;
  for (; s->n_origin_roots < conf->n_origin_roots; s->n_origin_roots++)
    if (!(s->origin_roots[s->n_origin_roots] = strdup(conf->origin_roots[s->n_origin_roots])))
      return -ENOMEM;
  return 0;
}

int service_new(struct service **ret, const struct service_conf *conf, struct err *e) {
  struct service *s = calloc(1, sizeof *s);
  int r;

  if (!s)
    return err_set(e, -ENOMEM, "out of memory");
  s->conf = *conf;
  s->member = conf->member;
  s->tier = conf->tier;
  s->loop = conf->loop;
  s->started_ns = clock_mono_ns();
  s->origin_fds.max = conf->origin_open_files;
  for (unsigned i = 0; i < PUT_LOCKS; i++)
    pthread_mutex_init(&s->put_locks[i].mtx, NULL);
  atomic_store(&s->error_ttl_ms, conf->error_ttl_ms);
  atomic_store(&s->peer_timeout_ms, conf->peer_timeout_ms);
  if ((r = copy_strings(s, conf)) < 0 || (r = flight_table_new(&s->block_flights)) < 0 ||
      (r = flight_table_new(&s->attr_flights)) < 0 || (r = uncached_new(&s->uncached, conf->uncached_max_bytes)) < 0 ||
      (r = attr_table_new(&s->attrs, conf->attr_entries)) < 0 || (r = peer_table_new(&s->peers)) < 0 ||
      (r = prestage_runs_new(&s->runs, s)) < 0)
    err_set(e, r, "out of memory");
  else if ((r = pool_new(&s->origin_pool, conf->origin_threads, conf->origin_queue, "fb-origin", e)) == 0 &&
           (r = pool_new(&s->scan_pool, SCAN_THREADS, SCAN_QUEUE, "fb-scan", e)) == 0 &&
           (r = pool_new(&s->put_pool, PUT_THREADS, PUT_QUEUE, "fb-put", e)) == 0 &&
           (r = pool_new(&s->save_pool, 1, 1, "fb-save", e)) == 0)
    r = catalog_new(&s->catalog, s, s->state_dir, e);
  if (r < 0) {
    service_free(&s);
    return r;
  }
  *ret = s;
  return 0;
}

int service_start(struct service *s, struct err *e) {
  int r = catalog_load(s->catalog, e);

  if (r < 0)
    return r;
  r = pthread_create(&s->ticker, NULL, ticker_main, s);
  if (r)
    return err_set(e, -r, "cannot start the ticker thread: %s", strerror(r));
  s->ticker_runs = true;
  return 0;
}

bool service_stop(struct service *s, int64_t deadline_ns) {
  unsigned left;

  atomic_store(&s->stopping, true);
  if (s->ticker_runs) {
    pthread_join(s->ticker, NULL);
    s->ticker_runs = false;
  }
  /* Nobody waits for an answer any more: waiters end now, fills when the origin answers. */
  do {
    left = prestage_runs_stop(s->runs);
    flight_expire(s->block_flights, INT64_MAX);
    flight_expire(s->attr_flights, INT64_MAX);
    left += flight_count(s->block_flights) + flight_count(s->attr_flights) + atomic_load(&s->pulling) +
            catalog_saving(s->catalog);
    if (left == 0)
      return true;
    struct timespec pause = clock_timespec(2 * NS_PER_MS);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
  } while (clock_mono_ns() < deadline_ns);
  return false;
}

void service_free(struct service **sp) {
  struct service *s = *sp;

  if (!s)
    return;
  /* What a service_stop gave up on still uses all that follows. The catalog is made last: before it there is nothing.
   */
  while (s->catalog && !service_stop(s, deadline_in_ms(1000)))
    continue;
  pool_free(&s->save_pool);
  pool_free(&s->put_pool);
  pool_free(&s->scan_pool);
  pool_free(&s->origin_pool);
  prestage_runs_free(&s->runs);
  peer_table_free(&s->peers);
  catalog_free(&s->catalog);
  attr_table_free(&s->attrs);
  flight_table_free(&s->attr_flights);
  flight_table_free(&s->block_flights);
  uncached_unref(&s->uncached);
  for (unsigned i = 0; i < s->n_origin_roots; i++)
    free(s->origin_roots[i]);
  for (unsigned i = 0; i < PUT_LOCKS; i++)
    pthread_mutex_destroy(&s->put_locks[i].mtx);
  free(s->origin_roots);
  free(s->state_dir);
  free(s->self);
  free(s);
  *sp = NULL;
}

void service_reload(struct service *s, const struct service_conf *conf) {
  atomic_store(&s->error_ttl_ms, conf->error_ttl_ms);
  atomic_store(&s->peer_timeout_ms, conf->peer_timeout_ms);
}

void service_drain(struct service *s, int64_t deadline_ns) {
  atomic_store(&s->drain_deadline_ns, deadline_ns);
  atomic_store(&s->draining, true);
}

struct ring *service_ring(struct service *s) {
  return member_ring(s->member);
}
const char *service_self(struct service *s) { return s->self; }
