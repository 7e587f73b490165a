/* stream.c - a stream of replies for a caller that takes one at a time and may take its time: the next message is asked
 * for when the last one was used up, so a slow caller holds back the peer and not our memory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/lib/request.h"

static bool on_message(void *arg, const ProtobufCMessage *reply, const ProtobufCMessage *inner, struct blob *payload) {
  struct stream *s = arg;

  (void)inner, (void)payload;
  pthread_mutex_lock(&s->waiter.mtx);
  s->message = (ProtobufCMessage *)(uintptr_t)reply; /* keep_reply: it is ours */
  pthread_cond_signal(&s->waiter.cond);
  pthread_mutex_unlock(&s->waiter.mtx);
  return true;
}

static void on_done(void *arg, int code, const char *text) {
  struct stream *s = arg;

  pthread_mutex_lock(&s->waiter.mtx);
  s->over = true;
  s->code = code;
  snprintf(s->text, sizeof s->text, "%s", text && *text ? text : err_describe(code));
  pthread_cond_signal(&s->waiter.cond);
  pthread_mutex_unlock(&s->waiter.mtx);
}

void stream_open(struct stream *s, struct peer *p, const char *method, const ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *reply_type, bool ignore_breaker) {
  const struct peer_call_args args = {.method = method,
                                      .request = request,
                                      .reply_type = reply_type,
                                      .deadline_ns = DEADLINE_NONE,
                                      .ignore_breaker = ignore_breaker,
                                      .keep_reply = true};

  memset(s, 0, sizeof *s);
  waiter_init(&s->waiter);
  peer_paced_open(&s->paced, p, &args, on_message, on_done, s);
}

static void drop(ProtobufCMessage **m) {
  if (*m)
    protobuf_c_message_free_unpacked(*m, NULL);
  *m = NULL;
}

int stream_next(struct stream *s, int64_t deadline_ns, const ProtobufCMessage **ret, struct err *e) {
  if (s->given) {
    drop(&s->given);
    peer_paced_next(s->paced);
  }
  pthread_mutex_lock(&s->waiter.mtx);
  while (!s->message && !s->over && waiter_wait(&s->waiter, deadline_ns))
    ;
  s->given = s->message;
  s->message = NULL;
  bool over = s->over;
  pthread_mutex_unlock(&s->waiter.mtx);
  if (s->given) {
    *ret = s->given;
    return 1;
  }
  if (!over)
    return err_set(e, -ETIMEDOUT, "it has sent nothing for too long");
  return s->code == 0 ? 0 : err_set(e, s->code, "%s", s->text);
}

void stream_close(struct stream *s) {
  pthread_mutex_lock(&s->waiter.mtx);
  if (!s->over && s->paced) {
    pthread_mutex_unlock(&s->waiter.mtx);
    peer_paced_cancel(s->paced);
    pthread_mutex_lock(&s->waiter.mtx);
  }
  while (!s->over)
    waiter_wait(&s->waiter, DEADLINE_NONE);
  pthread_mutex_unlock(&s->waiter.mtx);
  drop(&s->message);
  drop(&s->given);
  peer_paced_unref(&s->paced);
  waiter_fini(&s->waiter);
}
