/* rpc_list.c - Cache/List: pages from the service, one on the wire at a time. The next page is asked for when the last
 * one was sent, so a client that reads slowly holds the listing back instead of filling our memory. */
#include <errno.h>
#include <stdlib.h>

#include "server/net/convert.h"
#include "server/net/face.h"

#define PATH CACHE_PATH "List"

/* Touched by one callback at a time: page, sent, page, sent ... done. */
struct list {
  struct rpc_session *session;
  struct list_op *op; /* of the page under way */
  int code;           /* of our own making: why it was stopped */
};

static void on_sent(struct rpc_session *s, bool ok, void *arg) {
  struct list *l = arg;

  if (!ok || rpc_cancelled(s)) {
    l->code = -ECANCELED;
    service_list_next(l->op, false);
  } else {
    service_list_next(l->op, true);
  }
}

static struct blob *pack_page(const struct list_entry *entries, unsigned n) {
  Forebay__V1__ListReply m = FOREBAY__V1__LIST_REPLY__INIT;
  void **pointers;
  Forebay__V1__ObjectInfo *v = pb_array(n, sizeof *v, &pointers);

  if (!v)
    return NULL;
  for (unsigned i = 0; i < n; i++)
    object_to_pb(&entries[i].info, entries[i].key, &v[i]);
  m.n_entries = n;
  m.entries = (Forebay__V1__ObjectInfo **)pointers;
  struct blob *b = wire_pack(&m.base, NULL);
  free(v);
  return b;
}

static void on_page(void *arg, struct list_op *op, const struct list_entry *entries, unsigned n) {
  struct list *l = arg;
  struct blob *b = pack_page(entries, n);

  l->op = op;
  if (b) {
    rpc_send(l->session, b, on_sent, l);
  } else {
    l->code = -ENOMEM;
    service_list_next(op, false);
  }
}

static void on_done(void *arg, int code, const char *text) {
  struct list *l = arg;

  if (l->code)
    face_refuse(l->session, PATH, l->code, NULL);
  else if (code < 0)
    face_refuse(l->session, PATH, code, text);
  else
    rpc_finish(l->session, NULL, 0, NULL);
  free(l);
}

void serve_list(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__ListRequest *q = (const void *)*request;
  struct list *l = calloc(1, sizeof *l);

  if (!l) {
    face_refuse(s, PATH, -ENOMEM, NULL);
    return;
  }
  l->session = s;
  service_list(f->service,
               &(struct list_req){.ns = q->ns,
                                  .prefix = q->prefix,
                                  .recursive = q->recursive,
                                  .limit = q->limit,
                                  .route = route_from_pb(q->route),
                                  .deadline_ns = face_deadline(f, s)},
               on_page, on_done, l);
}
