/* rpc_put.c - Cache/Put: collects a value and hands it to the service.
 *
 *   RECEIVING --all bytes and the client's end--> STORING --service's answer--> over
 *       |  `--too many, too few, malformed-------> over
 *       `-----deadline (alarm)-------------------> over
 *
 * The value is a blob over the received messages, not a copy. Its memory is admitted by its announced size before a
 * byte is kept and given back at the end. A client that stops sending must not hold that memory for ever: hence the
 * alarm. What ends the call in RECEIVING, a message or the alarm, decides under the lock, so it ends once. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "server/net/convert.h"
#include "server/net/face.h"

#define PATH CACHE_PATH "Put"

struct put {
  struct alarm alarm; /* first member */
  atomic_uint refs;   /* the alarm's, that of the receive or the store under way, and of code that begins a receive */
  struct face *face;
  struct rpc_session *session;
  int64_t deadline_ns;
  /* A receive is begun under it, so that the alarm cannot finish the session beneath one that is about to begin.
   * Recursive, because a receive that gRPC refuses answers from within. */
  pthread_mutex_t mtx;
  /* under mtx */
  enum { RECEIVING, STORING, OVER } state;
  Forebay__V1__PutRequest *head; /* the first message, without data */
  struct blob *value;
  bool admitted;
};

/* Before the call is finished: after that the face and the service may be gone. */
static void give_back(struct put *p) {
  blob_unref(&p->value);
  if (p->admitted)
    service_put_release(p->face->service, p->head->size);
  p->admitted = false;
}

static void put_unref(struct put *p) {
  if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
    return;
  if (p->head)
    protobuf_c_message_free_unpacked(&p->head->base, NULL);
  pthread_mutex_destroy(&p->mtx);
  free(p);
}

static void drop_alarm(struct put *p) {
  if (alarm_cancel(p->face->alarms, &p->alarm))
    put_unref(p);
}

static void on_alarm(struct alarm *a) {
  struct put *p = (struct put *)a;
  struct err e;

  pthread_mutex_lock(&p->mtx);
  bool late = p->state == RECEIVING;
  if (late) {
    p->state = OVER; /* the receive under way comes back empty and finds that */
    err_set(&e, -ETIMEDOUT, "the value did not arrive by the call's deadline: %zu bytes of %llu", p->value->len,
            p->head ? (unsigned long long)p->head->size : 0ull);
    give_back(p);
    face_refuse(p->session, PATH, -ETIMEDOUT, e.text);
  }
  pthread_mutex_unlock(&p->mtx);
  put_unref(p);
}

static void put_done(void *arg, int code, const char *text, const struct object_info *info, int acked,
                     const char *peer) {
  struct put *p = arg;
  Forebay__V1__PutReply m = FOREBAY__V1__PUT_REPLY__INIT;
  Forebay__V1__ObjectInfo object;

  give_back(p);
  if (code < 0) {
    face_refuse(p->session, PATH, code, text);
  } else {
    object_to_pb(info, p->head->key, &object);
    m.info = &object;
    m.acked = (Forebay__V1__AckLevel)acked;
    m.peer = pb_str(peer);
    face_reply(p->session, PATH, &m.base, NULL);
  }
  put_unref(p);
}

/* Under mtx: what the first message tells. */
static int take_head(struct put *p, Forebay__V1__PutRequest **m, struct err *e) {
  int r = service_put_admit(p->face->service, (*m)->ns, (*m)->key, (*m)->size, e);

  if (r < 0)
    return r;
  p->admitted = true;
  p->head = *m;
  *m = NULL;
  return 0;
}

/* Under mtx: one message with its data. */
static int take_message(struct put *p, struct blob *message, struct err *e) {
  ProtobufCMessage *m = NULL;
  struct blob *data = NULL;
  int r = face_unpack(&forebay__v1__put_request__descriptor, message, &m, &data, e);

  if (r == 0 && !p->head)
    r = take_head(p, (Forebay__V1__PutRequest **)(void *)&m, e);
  if (r == 0 && data && data->len > PUT_PIECE_BYTES)
    r = err_set(e, -FB_ETOOBIG, "a message carries %zu bytes of the value; accepted: up to %u per message", data->len,
                PUT_PIECE_BYTES);
  if (r == 0 && data && p->value->len + data->len > p->head->size)
    r = err_set(e, -FB_EPROTO, "more bytes than the %llu that the first message announced",
                (unsigned long long)p->head->size);
  if (r == 0 && data && blob_append_range(p->value, data, 0, data->len) < 0)
    r = err_set(e, -ENOMEM, "this peer has no memory for the value: try again later");
  blob_unref(&data);
  if (m)
    protobuf_c_message_free_unpacked(m, NULL);
  return r;
}

/* Under mtx: the client has sent all, or is gone. */
static int check_complete(struct put *p, struct err *e) {
  if (rpc_cancelled(p->session))
    return err_set(e, -ECANCELED, "the client gave up");
  if (!p->head)
    return err_set(e, -FB_EPROTO, "the call ended without a message; accepted: a first one with ns, key and size");
  if (p->value->len != p->head->size)
    return err_set(e, -FB_EPROTO, "%zu bytes arrived of the %llu that the first message announced", p->value->len,
                   (unsigned long long)p->head->size);
  return 0;
}

static void on_message(struct rpc_session *s, struct blob *message, void *arg) {
  struct put *p = arg;
  struct err e;
  bool store = false, over = false;

  pthread_mutex_lock(&p->mtx);
  if (p->state != RECEIVING) {
    pthread_mutex_unlock(&p->mtx);
    put_unref(p);
    return;
  }
  atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed); /* for the next receive, which may be over at once */
  int r = message ? take_message(p, message, &e) : check_complete(p, &e);
  if (r < 0) {
    p->state = OVER;
    over = true;
    give_back(p);
    face_refuse(s, PATH, r, e.text);
  } else if (message) {
    rpc_recv(s, on_message, p);
  } else {
    p->state = STORING;
    store = true;
  }
  pthread_mutex_unlock(&p->mtx);
  if (over || store)
    put_unref(p); /* there is no next receive */
  if (store) {
    drop_alarm(p);
    service_put(p->face->service,
                &(struct put_req){.ns = p->head->ns,
                                  .key = p->head->key,
                                  .value = p->value,
                                  .crc = p->head->crc32c,
                                  .overwrite = p->head->overwrite,
                                  .route = route_from_pb(p->head->route),
                                  .deadline_ns = p->deadline_ns},
                put_done, p);
    return; /* this receive's reference is the store's now */
  }
  if (over)
    drop_alarm(p);
  put_unref(p);
}

void serve_put(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  struct put *p = calloc(1, sizeof *p);
  struct blob *value = blob_new(8);
  pthread_mutexattr_t recursive;

  (void)request;
  if (!p || !value) {
    free(p);
    blob_unref(&value);
    face_refuse(s, PATH, -ENOMEM, NULL);
    return;
  }
  p->face = f;
  p->session = s;
  p->value = value;
  p->deadline_ns = face_deadline(f, s);
  atomic_init(&p->refs, 3);
  pthread_mutexattr_init(&recursive);
  pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&p->mtx, &recursive);
  pthread_mutexattr_destroy(&recursive);
  pthread_mutex_lock(&p->mtx);
  alarm_set(f->alarms, &p->alarm, p->deadline_ns, on_alarm);
  rpc_recv(s, on_message, p);
  pthread_mutex_unlock(&p->mtx);
  put_unref(p);
}
