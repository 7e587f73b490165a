/* rpc_multi_get.c - Cache/MultiGet: many ranges, answered in the order in which they come.
 *
 *   items --start--> at the service --done--> ready --send--> on the wire
 *
 * At most WINDOW items, and WINDOW_BYTES of asked-for bytes (but always one item), are between start and the end of
 * their send, so a client that reads slowly holds back the reading, and pins at most that much. One message is being
 * sent at a time. Whoever changes something calls pump(); one caller at a time pumps, the others leave it their news.
 * The last one out finishes the call. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/net/convert.h"
#include "server/net/face.h"

#define PATH CACHE_PATH "MultiGet"
#define WINDOW 32u
#define WINDOW_BYTES (UINT64_C(32) << 20)

struct item {
  struct multi_get *m;
  uint32_t index;
};

struct multi_get {
  struct face *face;
  struct rpc_session *session;
  Forebay__V1__MultiGetRequest *q;
  int64_t deadline_ns;
  struct item *items;

  pthread_mutex_t mtx;
  /* under mtx */
  size_t next;      /* first item that was not started */
  unsigned started; /* items started and not yet sent */
  uint64_t bytes;   /* asked for by these */
  struct ready {
    struct blob *message;
    uint32_t length; /* asked for by its item */
  } ready[WINDOW];   /* a ring of answers that wait for the wire */
  unsigned first, n_ready;
  uint32_t sending_length;
  bool sending, pumping, stop;
  int code; /* why it stopped */
};

static void pump(struct multi_get *m);

static void on_sent(struct rpc_session *s, bool ok, void *arg) {
  struct multi_get *m = arg;

  (void)s;
  pthread_mutex_lock(&m->mtx);
  m->sending = false;
  m->started--;
  m->bytes -= m->sending_length;
  if (!ok) {
    m->stop = true;
    m->code = m->code ? m->code : -ECANCELED;
  }
  pump(m);
}

static void item_done(void *arg, int code, const char *text, const struct get_reply *r) {
  struct item *item = arg;
  struct multi_get *m = item->m;
  Forebay__V1__MultiGetReply outer = FOREBAY__V1__MULTI_GET_REPLY__INIT;
  Forebay__V1__GetReply inner;
  Forebay__V1__ItemStatus status;
  struct blob *b;

  outer.index = item->index;
  if (code < 0) {
    face_log_failure(m->session, PATH, code, text);
    status_to_pb(code, text, &status);
    outer.status = &status;
    b = wire_pack(&outer.base, NULL);
  } else {
    get_to_pb(r, &inner);
    b = wire_pack_nested(&outer.base, &inner.base, r->data);
  }
  uint32_t length = m->q->items[item->index]->length;
  pthread_mutex_lock(&m->mtx);
  if (b) {
    m->ready[(m->first + m->n_ready++) % WINDOW] = (struct ready){b, length};
  } else {
    m->started--;
    m->bytes -= length;
    m->stop = true;
    m->code = -ENOMEM;
  }
  pump(m);
}

static void end(struct multi_get *m) {
  if (m->code == 0)
    rpc_finish(m->session, NULL, 0, NULL);
  else
    face_refuse(m->session, PATH, m->code, NULL);
  pthread_mutex_destroy(&m->mtx);
  protobuf_c_message_free_unpacked(&m->q->base, NULL);
  free(m->items);
  free(m);
}

/* Under mtx. */
static bool may_start(const struct multi_get *m) {
  return !m->stop && m->next < m->q->n_items && m->started < WINDOW &&
         (m->started == 0 || m->bytes + m->q->items[m->next]->length <= WINDOW_BYTES);
}

/* Under mtx, released meanwhile. */
static void start_next(struct multi_get *m) {
  struct item *item = &m->items[m->next];
  const Forebay__V1__GetItem *q = m->q->items[m->next];

  *item = (struct item){m, (uint32_t)m->next};
  m->next++;
  m->started++;
  m->bytes += q->length;
  pthread_mutex_unlock(&m->mtx);
  service_get(m->face->service,
              &(struct get_req){.ns = m->q->ns,
                                .key = q->key,
                                .offset = q->offset,
                                .length = q->length,
                                .etag = q->etag,
                                .route = route_from_pb(m->q->route),
                                .deadline_ns = m->deadline_ns},
              item_done, item);
  pthread_mutex_lock(&m->mtx);
}

/* Under mtx: takes the oldest answer. */
static struct ready take_ready(struct multi_get *m) {
  struct ready r = m->ready[m->first];

  m->first = (m->first + 1) % WINDOW;
  m->n_ready--;
  return r;
}

/* Under mtx, which it releases; the caller must not touch *m after, since whoever pumps may have ended it. */
static void pump(struct multi_get *m) {
  if (m->pumping) {
    pthread_mutex_unlock(&m->mtx);
    return;
  }
  m->pumping = true;
  for (;;) {
    if (!m->stop && rpc_cancelled(m->session)) {
      m->stop = true;
      m->code = -ECANCELED;
    }
    if (m->stop && m->n_ready) {
      struct ready r = take_ready(m);
      m->started--;
      m->bytes -= r.length;
      blob_unref(&r.message);
    } else if (!m->sending && m->n_ready) {
      struct ready r = take_ready(m);
      m->sending = true;
      m->sending_length = r.length;
      pthread_mutex_unlock(&m->mtx);
      rpc_send(m->session, r.message, on_sent, m);
      pthread_mutex_lock(&m->mtx);
    } else if (may_start(m)) {
      start_next(m);
    } else {
      break;
    }
  }
  m->pumping = false;
  bool over = m->started == 0;
  pthread_mutex_unlock(&m->mtx);
  if (over)
    end(m);
}

void serve_multi_get(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  Forebay__V1__MultiGetRequest *q = (Forebay__V1__MultiGetRequest *)*request;
  char text[128];

  if (q->n_items < 1 || q->n_items > MULTI_GET_MAX) {
    snprintf(text, sizeof text, "%zu items; accepted: 1 to %u per call", q->n_items, MULTI_GET_MAX);
    face_refuse(s, PATH, -EINVAL, text);
    return;
  }
  struct multi_get *m = calloc(1, sizeof *m);
  struct item *items = calloc(q->n_items, sizeof *items);
  if (!m || !items) {
    free(m);
    free(items);
    face_refuse(s, PATH, -ENOMEM, NULL);
    return;
  }
  m->face = f;
  m->session = s;
  m->q = q;
  *request = NULL;
  m->deadline_ns = face_deadline(f, s);
  m->items = items;
  pthread_mutex_init(&m->mtx, NULL);
  pthread_mutex_lock(&m->mtx);
  pump(m);
}
