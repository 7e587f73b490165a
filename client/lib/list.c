/* list.c - listings, page by page on the caller's thread. A listing that breaks off before its first entry begins again
 * at another peer; after that it cannot, because entries would come twice. */
#include <errno.h>
#include <string.h>

#include "client/lib/request.h"
#include "common/names.h"

struct list_args {
  Forebay__V1__ListRequest message;
  Forebay__V1__Route route;
  fb_list_fn each;
  void *arg;
  bool begun; /* an entry was told */
  int said;   /* what `each` returned to stop */
};

/* Tells one page. 1 to go on, 0 when `each` stopped it, or a code. */
static int tell_page(struct list_args *a, const Forebay__V1__ListReply *page, struct err *e) {
  for (size_t i = 0; i < page->n_entries; i++) {
    const Forebay__V1__ObjectInfo *m = page->entries[i];
    if (name_check_key(m->key, strlen(m->key), NULL) < 0)
      return err_set(e, -FB_EPROTO, "it lists an entry whose name is no key");
    const struct fb_info info = {.size = m->size, .mtime_ns = m->mtime_ns, .etag = m->etag, .directory = m->directory};
    a->begun = true;
    a->said = a->each(a->arg, m->key, &info);
    if (a->said)
      return 0;
  }
  return 1;
}

/* A silent peer is given up in time to ask another one, but a directory may be slow to read: each attempt is given more
 * time. Between pages all of timeout_ms. */
static int64_t patience_ns(const struct call *k, const struct list_args *a, unsigned attempt) {
  int64_t first = (k->c->o.peer_timeout_ms * NS_PER_MS) << attempt, most = k->c->o.timeout_ms * NS_PER_MS;

  return a->begun || first > most ? most : first;
}

static int list_from(struct call *k, struct list_args *a, const struct pick *pick, unsigned attempt) {
  const ProtobufCMessage *page;
  struct stream s;
  struct err e = {0};

  count(&k->c->stats.requests, 1);
  stream_open(&s, pick->peer, "/forebay.v1.Cache/List", &a->message.base, &forebay__v1__list_reply__descriptor,
              pick->ignore_breaker);
  int r = 1;
  while (r == 1) {
    r = stream_next(&s, clock_mono_ns() + patience_ns(k, a, attempt), &page, &e);
    if (r == 1)
      r = tell_page(a, (const Forebay__V1__ListReply *)page, &e);
  }
  stream_close(&s);
  if (r < 0) {
    if (code_moves_on(r))
      err_prefix(&e, "peer %s", peer_address(pick->peer));
    k->e = e;
  }
  return r;
}

static int list_once(struct call *k, void *arg) {
  struct list_args *a = arg;
  struct picker picker = {0};
  struct pick pick;

  a->route.ns_id = k->record.id;
  for (unsigned attempt = 0;; attempt++) {
    struct err last = k->e;
    int r = pick_peer(k, &picker, &pick);
    if (r == 1) {
      k->e = last;
      return last.code; /* every peer was asked */
    }
    if (r < 0)
      return r;
    if (attempt)
      count(&k->c->stats.retries, 1);
    r = list_from(k, a, &pick, attempt);
    if (r < 0)
      pick_failed(k, &picker, pick.index);
    peer_unref(&pick.peer);
    if (r == 0 || a->begun || !code_moves_on(r) || attempt == k->c->o.retries)
      return r;
    if (clock_mono_ns() >= k->deadline_ns)
      return err_set(&k->e, -ETIMEDOUT, "no peer has begun the listing within %u ms", k->c->o.timeout_ms);
  }
}

int fb_list(fb_client *c, const char *ns, const char *prefix, bool recursive, uint64_t limit, fb_list_fn each,
            void *arg, struct fb_error *err) {
  struct list_args a = {
      .message = FOREBAY__V1__LIST_REQUEST__INIT, .route = FOREBAY__V1__ROUTE__INIT, .each = each, .arg = arg};
  bool root = !prefix || !*prefix;
  struct call k;

  int r = call_begin(&k, c, CALL_NS | (root ? 0 : CALL_KEY) | (c && c->o.any_peer ? 0 : CALL_RECORD), ns,
                     root ? NULL : prefix);
  if (r == 0) {
    a.message.ns = (char *)(uintptr_t)ns;
    a.message.prefix = (char *)(uintptr_t)(root ? "" : prefix);
    a.message.recursive = recursive;
    a.message.limit = limit;
    a.message.route = &a.route;
    r = call_run(&k, list_once, &a);
  }
  if (r == 0 && a.said) {
    call_end(&k, 0, NULL);
    return a.said; /* the caller's own word, of either sign, is no failure of ours */
  }
  return (int)call_end(&k, r, err);
}
