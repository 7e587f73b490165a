/* rpc_list.c - Cache/List: pages from the service, one on the wire at a time. The next page is asked for when the last
 * one was sent, so a client that reads slowly holds the listing back instead of filling our memory. But it holds a
 * thread of the service with it, so an alarm lets the listing go at the deadline, whether or not the client reads. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "server/net/convert.h"
#include "server/net/face.h"

#define PATH CACHE_PATH "List"

struct list {
  struct alarm alarm; /* first member */
  atomic_uint refs;   /* the alarm's and the call's */
  struct face *face;
  struct rpc_session *session;
  pthread_mutex_t mtx;
  /* under mtx */
  struct list_op *op; /* waits for service_list_next, which whoever takes this calls */
  bool sending, late, ended;
  struct err end; /* the first that went wrong */
};

static void list_unref(struct list *l) {
  if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
    return;
  pthread_mutex_destroy(&l->mtx);
  free(l);
}

/* The service is done and nothing is on the wire. */
static void finish(struct list *l) {
  if (l->end.code)
    face_refuse(l->session, PATH, l->end.code, l->end.text);
  else
    rpc_finish(l->session, NULL, 0, NULL);
  list_unref(l);
}

/* Under mtx. */
static void note(struct list *l, int code, const char *text) {
  if (l->end.code == 0)
    err_set(&l->end, code, "%s", text);
}

static struct list_op *take_op(struct list *l) {
  struct list_op *op = l->op;

  l->op = NULL;
  return op;
}

static void on_alarm(struct alarm *a) {
  struct list *l = (struct list *)a;

  pthread_mutex_lock(&l->mtx);
  l->late = true;
  struct list_op *op = take_op(l);
  if (op)
    note(l, -ETIMEDOUT, "the client did not read the listing by the call's deadline");
  pthread_mutex_unlock(&l->mtx);
  if (op)
    service_list_next(op, false);
  list_unref(l);
}

static void on_sent(struct rpc_session *s, bool ok, void *arg) {
  struct list *l = arg;
  bool go_on = ok && !rpc_cancelled(s);

  pthread_mutex_lock(&l->mtx);
  l->sending = false;
  if (!go_on)
    note(l, -ECANCELED, "the client gave up");
  struct list_op *op = take_op(l);
  bool ended = l->ended;
  pthread_mutex_unlock(&l->mtx);
  if (op)
    service_list_next(op, go_on); /* from here on *l may be gone */
  else if (ended)
    finish(l);
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

  pthread_mutex_lock(&l->mtx);
  if (!b)
    note(l, -ENOMEM, "this peer has no memory for the listing: try again later");
  else if (l->late)
    note(l, -ETIMEDOUT, "the listing was not complete by the call's deadline");
  bool send = l->end.code == 0;
  l->sending = send;
  l->op = send ? op : NULL;
  pthread_mutex_unlock(&l->mtx);
  if (send) {
    rpc_send(l->session, b, on_sent, l);
  } else {
    blob_unref(&b);
    service_list_next(op, false);
  }
}

static void on_done(void *arg, int code, const char *text) {
  struct list *l = arg;
  bool alarm_ours = alarm_cancel(l->face->alarms, &l->alarm);

  pthread_mutex_lock(&l->mtx);
  if (code < 0)
    note(l, code, text ? text : err_describe(code));
  l->ended = true;
  bool sending = l->sending;
  pthread_mutex_unlock(&l->mtx);
  if (alarm_ours)
    list_unref(l);
  if (!sending)
    finish(l);
}

void serve_list(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__ListRequest *q = (const void *)*request;
  struct list *l = calloc(1, sizeof *l);
  int64_t deadline_ns = face_deadline(f, s);

  if (!l) {
    face_refuse(s, PATH, -ENOMEM, NULL);
    return;
  }
  l->face = f;
  l->session = s;
  atomic_init(&l->refs, 2);
  pthread_mutex_init(&l->mtx, NULL);
  alarm_set(f->alarms, &l->alarm, deadline_ns, on_alarm);
  service_list(f->service,
               &(struct list_req){.ns = q->ns,
                                  .prefix = q->prefix,
                                  .recursive = q->recursive,
                                  .limit = q->limit,
                                  .route = route_from_pb(q->route),
                                  .deadline_ns = deadline_ns},
               on_page, on_done, l);
}
