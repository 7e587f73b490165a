/* client.c - opening and closing a client, and the frame of every call: its checks, its deadline, its end. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "client/lib/request.h"
#include "common/hash.h"
#include "common/names.h"

#define LOOP_THREADS_MAX 4
#define RING_TRIES 4 /* with their pauses, about a second for peers to agree */
#define RING_PAUSE_NS (80 * NS_PER_MS)

const char *fb_error_name(int code) { return err_name(code); }
const char *fb_error_describe(int code) { return err_describe(code); }
const char *fb_version(void) { return FOREBAY_VERSION; }

static void tell(struct fb_error *err, const struct err *e, int code) {
  if (!err)
    return;
  err->code = code;
  snprintf(err->text, sizeof err->text, "%s", e->text[0] ? e->text : err_describe(code));
}

/* ---- open and close --------------------------------------------------------------------------------------------- */

static void client_free(fb_client *c) {
  topology_unref(&c->topology);
  for (unsigned i = 0; c->seeds && i < c->o.n_peers; i++)
    peer_unref(&c->seeds[i]);
  free(c->seeds);
  rpc_loop_free(&c->loop);
  options_fini(&c->o);
  pthread_cond_destroy(&c->idle);
  pthread_mutex_destroy(&c->mtx);
  free(c);
}

static int start(fb_client *c, struct err *e) {
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);

  int r = rpc_loop_new(&c->loop,
                       (unsigned)(cpus < 1                  ? 1
                                  : cpus > LOOP_THREADS_MAX ? LOOP_THREADS_MAX
                                                            : cpus),
                       "fb-client", e);
  if (r < 0)
    return r;
  c->seeds = calloc(c->o.n_peers, sizeof *c->seeds);
  if (!c->seeds)
    return err_set(e, -ENOMEM, "out of memory for %u peers", c->o.n_peers);
  for (unsigned i = 0; i < c->o.n_peers; i++) {
    r = peer_new(&c->seeds[i], c->loop, c->o.peers[i], MESSAGE_MAX_BYTES, e);
    if (r < 0)
      return r;
  }
  return 0;
}

int fb_open(fb_client **ret, const struct fb_options *options, struct fb_error *err) {
  struct err e = {0};
  struct call k;

  fb_client *c = calloc(1, sizeof *c);
  if (!c) {
    err_set(&e, -ENOMEM, "out of memory for a client");
    tell(err, &e, -ENOMEM);
    return -ENOMEM;
  }
  c->pid = getpid();
  pthread_mutex_init(&c->mtx, NULL);
  pthread_cond_init(&c->idle, NULL);
  if (getrandom(&c->random, sizeof c->random, GRND_NONBLOCK) != sizeof c->random)
    c->random = (uint64_t)clock_wall_ns(); /* jitter and spreading only */
  int r = options_init(&c->o, options, &e);
  if (r == 0)
    r = start(c, &e);
  if (r == 0) {
    r = call_begin(&k, c, 0, NULL, NULL);
    if (r == 0)
      r = topology_open(&k);
    e = k.e;
    r = (int)call_end(&k, r, NULL);
  }
  if (r < 0) {
    tell(err, &e, r);
    client_free(c);
    return r;
  }
  *ret = c;
  return 0;
}

void fb_close(fb_client **cp) {
  fb_client *c = *cp;

  *cp = NULL;
  if (!c || c->pid != getpid())
    return; /* in a forked child the loop's threads do not exist: nothing of it can be freed in order */
  pthread_mutex_lock(&c->mtx);
  while (c->calls)
    pthread_cond_wait(&c->idle, &c->mtx);
  pthread_mutex_unlock(&c->mtx);
  client_free(c);
}

uint64_t client_random(fb_client *c) {
  pthread_mutex_lock(&c->mtx);
  uint64_t state = c->random += UINT64_C(0x9e3779b97f4a7c15);
  pthread_mutex_unlock(&c->mtx);
  return hash_mix64(state);
}

void fb_client_stats(fb_client *c, struct fb_client_stats *ret) {
#define READ(field) atomic_load_explicit(&c->stats.field, memory_order_relaxed)
  *ret = (struct fb_client_stats){
      .bytes_ram = READ(by_source[FB_SOURCE_RAM]),
      .bytes_origin = READ(by_source[FB_SOURCE_ORIGIN]),
      .bytes_nvme = READ(by_source[FB_SOURCE_NVME]),
      .bytes_forwarded = READ(forwarded),
      .requests = READ(requests),
      .retries = READ(retries),
      .failovers = READ(failovers),
      .errors = READ(errors),
      .crc_errors = READ(crc_errors),
  };
#undef READ
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

int call_begin(struct call *k, fb_client *c, unsigned what, const char *ns, const char *key) {
  /* not by an initialiser: it would clear the text's 512 bytes for every small read */
  k->c = NULL;
  k->ns = ns;
  k->key = key;
  k->topology = NULL;
  k->record.id = 0;
  k->record.whole = false;
  k->record.version[0] = '\0';
  k->with_record = (what & CALL_RECORD) != 0;
  k->refreshed = false;
  k->ring_peer = NULL;
  k->e.code = 0;
  k->e.text[0] = '\0';
  if (!c)
    return err_set(&k->e, -EINVAL, "there is no client: it is NULL");
  if (c->pid != getpid())
    return err_set(&k->e, -EINVAL, "this client was opened by process %d and does not work across fork: open one here",
                   (int)c->pid);
  pthread_mutex_lock(&c->mtx);
  c->calls++;
  k->topology = c->topology ? topology_ref(c->topology) : NULL;
  pthread_mutex_unlock(&c->mtx);
  k->c = c;
  k->deadline_ns = deadline_in_ms(c->o.timeout_ms);
  int r = what & CALL_NS ? name_check_ns(ns, &k->e) : 0;
  if (r == 0 && what & CALL_KEY) /* a key is found too long without walking to its end */
    r = name_check_key(key, key ? strnlen(key, NAME_KEY_MAX + 1) : 0, &k->e);
  if (r < 0)
    k->ns = k->key = NULL; /* the text quotes what is wrong; it is no context to be printed raw */
  return r;
}

/* After -FB_ERING: another ring, or the same once more after a while, because the peers may just be changing over from
 * one to the next. 0: try again. */
static int another_ring(struct call *k, unsigned tries) {
  const struct err said = k->e;
  int64_t pause_ns = RING_PAUSE_NS << tries;

  if (tries == RING_TRIES)
    return -FB_ERING;
  int r = topology_refresh(k, k->ring_peer);
  k->e = said;
  if (r == 0 && tries == 0)
    return 0;
  call_pause(k, clock_mono_ns() + pause_ns - (int64_t)(client_random(k->c) % (uint64_t)(pause_ns / 2)));
  return clock_mono_ns() < k->deadline_ns ? 0 : -FB_ERING;
}

int call_run(struct call *k, int (*once)(struct call *k, void *arg), void *arg) {
  bool new_record = false;
  struct err said; /* by the last peer that has another ring */

  for (unsigned ring_tries = 0;;) {
    int r = k->with_record ? ns_load(k, false) : 0;
    if (r == 0)
      r = once(k, arg);
    if (r == -FB_ERING && k->ring_peer) {
      said = k->e;
      r = another_ring(k, ring_tries++);
      if (r == 0)
        continue;
    } else if (r == -FB_ENONS && k->record.id && !new_record) {
      uint64_t old = k->record.id;
      new_record = true;
      r = ns_load(k, true);
      if (r == 0 && k->record.id != old)
        continue;
      if (r == 0 && ring_tries) { /* they cannot tell each other: what keeps them apart is what is wrong */
        k->e = said;
        r = -FB_ERING;
      } else if (r == 0) {
        r = err_set(&k->e, -FB_ENONS, "a peer does not know this namespace, another one does: try again in a moment");
      }
    }
    if (r == -FB_ERING)
      err_prefix(&k->e, "peers disagree on the ring (this client's is %016llx, epoch %llu)",
                 (unsigned long long)topology_hash(k->topology),
                 (unsigned long long)ring_epoch(topology_ring(k->topology)));
    return r;
  }
}

/* Says on what a call failed, unless the peer's text does. */
static void add_context(struct call *k) {
  char name[NAME_OBJECT_MAX];

  if (k->ns && !strstr(k->e.text, name_object(name, k->ns, k->key)) && (k->key || !strstr(k->e.text, k->ns)))
    err_prefix(&k->e, "%s", name);
}

ssize_t call_end(struct call *k, ssize_t r, struct fb_error *err) {
  fb_client *c = k->c;

  if (r < 0) {
    if (!k->e.text[0])
      err_set(&k->e, (int)r, "%s", err_describe((int)r));
    add_context(k);
    tell(err, &k->e, (int)r);
  }
  if (!c)
    return r;
  if (r < 0)
    count(&c->stats.errors, 1);
  topology_unref(&k->topology);
  peer_unref(&k->ring_peer);
  pthread_mutex_lock(&c->mtx);
  if (--c->calls == 0)
    pthread_cond_broadcast(&c->idle);
  pthread_mutex_unlock(&c->mtx);
  return r;
}

void call_pause(struct call *k, int64_t until_ns) {
  struct timespec ts = clock_timespec(until_ns < k->deadline_ns ? until_ns : k->deadline_ns);

  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
    ;
}
