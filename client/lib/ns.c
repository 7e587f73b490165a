/* ns.c - namespaces: the calls on them, and the part of their records that other calls are planned with. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/request.h"

#define RECORD_TTL_NS NS_PER_S
#define BLOCK_BYTES_MIN (64u << 10)

/* ---- messages --------------------------------------------------------------------------------------------------- */

static int check(const Forebay__V1__Namespace *m, struct err *e) {
  if (!m)
    return err_set(e, -FB_EPROTO, "the answer carries no namespace");
  if (strlen(m->name) > 64 || strlen(m->origin) >= sizeof((struct fb_ns *)0)->origin ||
      strlen(m->version) > HASH_VERSION_MAX)
    return err_set(e, -FB_EPROTO, "the answer's namespace has a name, origin or version that is too long");
  if (m->id == 0 || m->block_bytes < BLOCK_BYTES_MIN || m->block_bytes > GET_MAX_BYTES ||
      (m->block_bytes & (m->block_bytes - 1)))
    return err_set(e, -FB_EPROTO, "the answer's namespace has id %llu and blocks of %u bytes",
                   (unsigned long long)m->id, m->block_bytes);
  return 0;
}

static void to_public(const Forebay__V1__Namespace *m, struct fb_ns *ns) {
  memset(ns, 0, sizeof *ns);
  snprintf(ns->name, sizeof ns->name, "%s", m->name);
  snprintf(ns->origin, sizeof ns->origin, "%s", m->origin);
  snprintf(ns->version, sizeof ns->version, "%s", m->version);
  ns->id = m->id;
  ns->kind = (enum fb_ns_kind)m->kind; /* FB_NS_* and FB_ACK_* have the protocol's numbers */
  ns->ack = (enum fb_ack)m->ack;
  ns->block_bytes = m->block_bytes;
  ns->attr_ttl_ms = m->attr_ttl_ms;
  ns->replicas = m->replicas;
  ns->created_ns = m->created_ns;
}

/* ---- the record that requests are planned with ------------------------------------------------------------------- */

static struct ns_entry *find_entry(fb_client *c, const char *name) {
  for (unsigned i = 0; i < c->n_ns; i++)
    if (strcmp(c->ns[i].name, name) == 0)
      return &c->ns[i];
  return NULL;
}

/* Under c->mtx: a new entry, or the one that was used longest ago. */
static struct ns_entry *make_entry(fb_client *c, const char *name) {
  struct ns_entry *n = &c->ns[0];

  if (c->n_ns < NS_ENTRIES) {
    n = &c->ns[c->n_ns++];
  } else {
    for (unsigned i = 1; i < NS_ENTRIES; i++)
      if (c->ns[i].used_ns < n->used_ns)
        n = &c->ns[i];
  }
  memset(n, 0, sizeof *n);
  snprintf(n->name, sizeof n->name, "%s", name);
  return n;
}

static void forget(fb_client *c, const char *name) {
  pthread_mutex_lock(&c->mtx);
  struct ns_entry *n = find_entry(c, name);
  if (n)
    *n = c->ns[--c->n_ns];
  pthread_mutex_unlock(&c->mtx);
}

static int take_record(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__Namespace *m = ((const Forebay__V1__ShowNamespaceReply *)q->reply)->ns;
  struct call *k = b->call;

  int r = check(m, e);
  if (r < 0)
    return r;
  k->record = (struct ns_plan){.id = m->id,
                               .whole = m->kind == FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DERIVED,
                               .block_bytes = m->block_bytes,
                               .attr_ttl_ms = m->attr_ttl_ms};
  snprintf(k->record.version, sizeof k->record.version, "%s", m->version);
  return 0;
}

int ns_load(struct call *k, bool fresh) {
  Forebay__V1__ShowNamespaceRequest m = FOREBAY__V1__SHOW_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Route route = FOREBAY__V1__ROUTE__INIT;
  struct request q = {.method = "/forebay.v1.Namespaces/Show",
                      .message = &m.base,
                      .reply_type = &forebay__v1__show_namespace_reply__descriptor};
  fb_client *c = k->c;
  int64_t now = clock_mono_ns();

  pthread_mutex_lock(&c->mtx);
  struct ns_entry *n = find_entry(c, k->ns);
  bool known = n != NULL, young = n && now - n->fetched_ns < RECORD_TTL_NS;
  if (n) {
    n->used_ns = now;
    k->record = n->record;
  }
  pthread_mutex_unlock(&c->mtx);
  if (young && !fresh)
    return 0;

  m.name = (char *)(uintptr_t)k->ns;
  route.local = true; /* the record alone: figures over all peers are not wanted */
  m.route = &route;
  int r = request_run(k, &q, take_record, NULL);
  if (r < 0 && known && !fresh && code_moves_on(r) && clock_mono_ns() < k->deadline_ns) {
    k->e.code = 0;
    k->e.text[0] = '\0';
    return 0;
  }
  if (r == -FB_ENONS)
    forget(c, k->ns);
  if (r < 0)
    return r;
  pthread_mutex_lock(&c->mtx);
  n = find_entry(c, k->ns);
  if (!n)
    n = make_entry(c, k->ns);
  n->record = k->record;
  n->fetched_ns = n->used_ns = clock_mono_ns();
  pthread_mutex_unlock(&c->mtx);
  return 0;
}

/* ---- public calls ------------------------------------------------------------------------------------------------ */

/* Peers ask their peers for these, and wait for one that does not answer as long as we wait for them. */
static int64_t fan_out_ns(const struct call *k) { return k->c->o.peer_timeout_ms * NS_PER_MS; }

static int take_show(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__ShowNamespaceReply *m = (const Forebay__V1__ShowNamespaceReply *)q->reply;
  struct fb_ns *ret = b->arg;

  int r = check(m->ns, e);
  if (r < 0)
    return r;
  to_public(m->ns, ret);
  ret->resident_bytes = m->resident_bytes;
  ret->resident_blocks = m->resident_blocks;
  return 0;
}

static int show(struct call *k, struct fb_ns *ret) {
  Forebay__V1__ShowNamespaceRequest m = FOREBAY__V1__SHOW_NAMESPACE_REQUEST__INIT;
  struct request q = {.method = "/forebay.v1.Namespaces/Show",
                      .message = &m.base,
                      .reply_type = &forebay__v1__show_namespace_reply__descriptor,
                      .extra_ns = fan_out_ns(k)};

  m.name = (char *)(uintptr_t)k->ns;
  return request_run(k, &q, take_show, ret);
}

int fb_ns_show(fb_client *c, const char *name, struct fb_ns *ret, struct fb_error *err) {
  struct call k;

  int r = call_begin(&k, c, CALL_NS, name, NULL);
  if (r == 0)
    r = show(&k, ret);
  return (int)call_end(&k, r, err);
}

static int take_create(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__Namespace *m = ((const Forebay__V1__CreateNamespaceReply *)q->reply)->ns;

  int r = check(m, e);
  if (r == 0)
    to_public(m, b->arg);
  return r;
}

/* Does what is there fulfil what was asked for? */
static bool fulfils(const struct fb_ns *is, const struct fb_ns *want) {
  return is->kind == want->kind && strcmp(is->origin, want->origin) == 0 && strcmp(is->version, want->version) == 0 &&
         (!want->block_bytes || is->block_bytes == want->block_bytes) && (!want->ack || is->ack == want->ack) &&
         (!want->attr_ttl_ms || is->attr_ttl_ms == want->attr_ttl_ms) &&
         (!want->replicas || is->replicas == want->replicas);
}

static int create(struct call *k, struct fb_ns *ns) {
  Forebay__V1__CreateNamespaceRequest m = FOREBAY__V1__CREATE_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Namespace wanted = FOREBAY__V1__NAMESPACE__INIT;
  struct request q = {.method = "/forebay.v1.Namespaces/Create",
                      .message = &m.base,
                      .reply_type = &forebay__v1__create_namespace_reply__descriptor,
                      .extra_ns = fan_out_ns(k)};
  struct fb_ns is;

  wanted.name = ns->name;
  wanted.kind = (Forebay__V1__NamespaceKind)ns->kind;
  wanted.origin = ns->origin;
  wanted.block_bytes = ns->block_bytes;
  wanted.ack = (Forebay__V1__AckLevel)ns->ack;
  wanted.attr_ttl_ms = ns->attr_ttl_ms;
  wanted.version = ns->version;
  wanted.replicas = ns->replicas;
  m.ns = &wanted;
  int r = request_run(k, &q, take_create, &is);
  if (r == -FB_ENSEXISTS && q.ambiguous) {
    /* Perhaps by the attempt whose answer was lost. What matters to the caller is that it is there as wanted. */
    struct err said = k->e;
    if (show(k, &is) == 0 && fulfils(&is, ns)) {
      is.resident_bytes = is.resident_blocks = 0;
      r = 0;
    } else {
      k->e = said;
    }
  }
  if (r == 0)
    *ns = is;
  return r;
}

int fb_ns_create(fb_client *c, struct fb_ns *ns, struct fb_error *err) {
  struct call k;

  /* the arrays may come without an end: that is the caller's bug, but not one to read past them for */
  char name[sizeof ns->name + 1];
  snprintf(name, sizeof name, "%.*s", (int)sizeof ns->name, ns->name);
  int r = call_begin(&k, c, CALL_NS, name, NULL);
  if (r == 0 && (!memchr(ns->origin, 0, sizeof ns->origin) || !memchr(ns->version, 0, sizeof ns->version)))
    r = err_set(&k.e, -EINVAL, "origin or version has no end: at most %zu and %zu bytes", sizeof ns->origin - 1,
                sizeof ns->version - 1);
  if (r == 0 && ns->kind != FB_NS_DATASET && ns->kind != FB_NS_DERIVED)
    r = err_set(&k.e, -EINVAL, "kind is %d; accepted: FB_NS_DATASET (1), FB_NS_DERIVED (2)", (int)ns->kind);
  if (r == 0)
    r = create(&k, ns);
  return (int)call_end(&k, r, err);
}

struct all {
  struct fb_ns *v;
  size_t n;
};

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct fb_ns *)a)->name, ((const struct fb_ns *)b)->name);
}

static int take_list(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__ListNamespacesReply *m = (const Forebay__V1__ListNamespacesReply *)q->reply;
  struct all *all = b->arg;
  int r = 0;

  struct fb_ns *v = calloc(m->n_namespaces + 1, sizeof *v);
  if (!v)
    return err_set(e, -ENOMEM, "out of memory for %zu namespaces", m->n_namespaces);
  for (size_t i = 0; r == 0 && i < m->n_namespaces; i++) {
    r = check(m->namespaces[i], e);
    if (r == 0)
      to_public(m->namespaces[i], &v[i]);
  }
  if (r < 0) {
    free(v);
    return r;
  }
  qsort(v, m->n_namespaces, sizeof *v, by_name);
  all->v = v;
  all->n = m->n_namespaces;
  return 0;
}

int fb_ns_list(fb_client *c, struct fb_ns **ret, size_t *ret_n, struct fb_error *err) {
  Forebay__V1__ListNamespacesRequest m = FOREBAY__V1__LIST_NAMESPACES_REQUEST__INIT;
  struct request q = {.method = "/forebay.v1.Namespaces/List",
                      .message = &m.base,
                      .reply_type = &forebay__v1__list_namespaces_reply__descriptor};
  struct all all = {0};
  struct call k;

  int r = call_begin(&k, c, 0, NULL, NULL);
  if (r == 0)
    r = request_run(&k, &q, take_list, &all);
  if (r == 0) {
    *ret = all.v;
    *ret_n = all.n;
  }
  return (int)call_end(&k, r, err);
}

static int take_drop(struct batch *b, struct request *q, struct err *e) {
  (void)e;
  *(uint64_t *)b->arg = ((const Forebay__V1__DropNamespaceReply *)q->reply)->freed_bytes;
  return 0;
}

int fb_ns_drop(fb_client *c, const char *name, uint64_t *ret_freed_bytes, struct fb_error *err) {
  Forebay__V1__DropNamespaceRequest m = FOREBAY__V1__DROP_NAMESPACE_REQUEST__INIT;
  struct request q = {.method = "/forebay.v1.Namespaces/Drop",
                      .message = &m.base,
                      .reply_type = &forebay__v1__drop_namespace_reply__descriptor};
  uint64_t freed = 0;
  struct call k;

  int r = call_begin(&k, c, CALL_NS, name, NULL);
  if (r == 0) {
    m.name = (char *)(uintptr_t)name;
    q.extra_ns = fan_out_ns(&k);
    r = request_run(&k, &q, take_drop, &freed);
    if (r == -FB_ENONS && q.ambiguous)
      r = 0; /* gone, by the attempt whose answer was lost */
    forget(c, name);
  }
  if (r == 0 && ret_freed_bytes)
    *ret_freed_bytes = freed;
  return (int)call_end(&k, r, err);
}
