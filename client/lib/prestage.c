/* prestage.c - has a peer fill what a pattern matches, and tells how far it is. The run lives at one coordinating peer;
 * if that goes away the run begins again at another: what is resident already costs it only a look. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/lib/request.h"
#include "common/glob.h"

struct prestage_args {
  Forebay__V1__PrestageRequest message;
  fb_prestage_fn each;
  void *arg;
  struct fb_prestage_progress last;
  bool moved; /* the last peer did something, so its loss is no reason to despair */
};

static int tell(struct prestage_args *a, const char *key, const char *why) {
  return a->each && a->each(a->arg, &a->last, key, why);
}

/* 1 to go on, or -ECANCELED. */
static int take(struct prestage_args *a, const Forebay__V1__PrestageProgress *m, struct err *e) {
  int stop = 0;

  a->moved = true;
  a->last = (struct fb_prestage_progress){.files_total = m->files_total,
                                          .bytes_total = m->bytes_total,
                                          .files_resident = m->files_resident,
                                          .bytes_resident = m->bytes_resident,
                                          .bytes_from_origin = m->bytes_from_origin,
                                          .files_failed = m->files_failed,
                                          .elapsed_ns = m->elapsed_ns,
                                          .listed = m->listed,
                                          .done = m->done};
  for (size_t i = 0; i < m->n_failures && !stop; i++) {
    const Forebay__V1__ItemStatus *s = m->failures[i]->status;
    stop = tell(a, m->failures[i]->key, s && s->text[0] ? s->text : err_describe(s ? (int)(s->code & 0xffff) : 0));
  }
  if (m->n_failures == 0)
    stop = tell(a, NULL, NULL);
  return stop ? err_set(e, -ECANCELED, "the caller has stopped the prestage") : 1;
}

static int run_at(struct call *k, struct prestage_args *a, const struct pick *pick) {
  const ProtobufCMessage *m;
  struct stream s;
  struct err e = {0};
  int r = 1;

  count(&k->c->stats.requests, 1);
  a->moved = false;
  a->last.done = false;
  stream_open(&s, pick->peer, "/forebay.v1.Prestage/Run", &a->message.base, &forebay__v1__prestage_progress__descriptor,
              pick->ignore_breaker);
  bool stopped = false;
  while (r == 1) {
    r = stream_next(&s, clock_mono_ns() + k->c->o.timeout_ms * NS_PER_MS, &m, &e);
    if (r == 1) {
      r = take(a, (const Forebay__V1__PrestageProgress *)m, &e);
      stopped = r < 0;
    }
  }
  stream_close(&s);
  if (stopped) {
    k->e = e;
    return 0; /* not a failure to move on from; the caller sees k->e */
  }
  if (r == 0 && !a->last.done && !a->message.background)
    r = err_set(&e, -FB_EPROTO, "the run ended without its final count");
  if (r < 0) {
    if (code_moves_on(r))
      err_prefix(&e, "peer %s", peer_address(pick->peer));
    k->e = e;
  }
  return r;
}

static int prestage(struct call *k, struct prestage_args *a) {
  struct picker picker = {0};
  struct pick pick;
  unsigned failures = 0;

  for (;;) {
    struct err last = k->e;
    int r = pick_peer(k, &picker, &pick);
    if (r < 0)
      return r;
    if (r == 1) { /* all were asked: again, as long as there is something to hope for */
      k->e = last;
      call_pause(k, clock_mono_ns() + NS_PER_S / 4);
      continue;
    }
    k->e.code = 0;
    k->e.text[0] = '\0';
    r = run_at(k, a, &pick);
    if (r < 0)
      pick_failed(k, &picker, pick.index);
    peer_unref(&pick.peer);
    if (r == 0)
      return k->e.code;
    if (!code_moves_on(r))
      return r;
    failures = a->moved ? 1 : failures + 1;
    count(&k->c->stats.retries, 1);
    if (failures > k->c->o.retries)
      return r;
    k->deadline_ns = deadline_in_ms(k->c->o.timeout_ms);
  }
}

int fb_prestage(fb_client *c, const char *ns, const char *pattern, const struct fb_prestage_options *options,
                fb_prestage_fn each, void *arg, struct fb_prestage_progress *ret, struct fb_error *err) {
  struct prestage_args a = {.message = FOREBAY__V1__PRESTAGE_REQUEST__INIT, .each = each, .arg = arg};
  struct call k;

  int r = call_begin(&k, c, CALL_NS, ns, NULL);
  if (r == 0 && pattern && *pattern)
    r = glob_check(pattern, &k.e);
  if (r == 0 && options && options->parallel > 64)
    r = err_set(&k.e, -EINVAL, "parallel is %u; accepted: 1..64, or 0 for the peer's own", options->parallel);
  if (r == 0) {
    a.message.ns = (char *)(uintptr_t)ns;
    a.message.pattern = (char *)(uintptr_t)(pattern ? pattern : "");
    a.message.parallel = options ? options->parallel : 0;
    a.message.background = options && options->background;
    r = prestage(&k, &a);
  }
  if (r == 0 && ret)
    *ret = a.last;
  return (int)call_end(&k, r, err);
}
