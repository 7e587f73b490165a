/* face_client.c - asynchronous calls made synchronous with a lock and a condition. */
#include "tests/lib/face_client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "proto/wire.h"

static void die(const char *what, const char *why) {
  fprintf(stderr, "face_client: %s: %s\n", what, why);
  abort();
}

void face_client_up(struct face_client *c, uint16_t port) {
  char address[32];
  struct err e = {0};

  snprintf(address, sizeof address, "127.0.0.1:%u", port);
  if (rpc_loop_new(&c->loop, 2, "client", &e) < 0 || rpc_channel_new(&c->channel, c->loop, address, NULL, &e) < 0)
    die(address, e.text);
}

void face_client_down(struct face_client *c) {
  rpc_channel_free(&c->channel);
  rpc_loop_free(&c->loop);
}

static int64_t deadline_of(int ms) { return ms < 0 ? DEADLINE_NONE : deadline_in_ms(ms ? ms : 30000); }

struct waiter {
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  bool done;
  struct reply r;
  const ProtobufCMessageDescriptor *type;
};

static void take_reply(struct reply *r, const ProtobufCMessageDescriptor *type, struct blob *b) {
  bool has_payload = protobuf_c_message_descriptor_get_field(type, WIRE_PAYLOAD_FIELD) != NULL;

  if (wire_unpack(type, b, &r->m, has_payload ? &r->payload : NULL) < 0)
    die("reply", type->name);
}

static void on_reply(void *arg, int code, const char *text, struct blob *reply) {
  struct waiter *w = arg;

  pthread_mutex_lock(&w->mtx);
  w->r.code = code;
  snprintf(w->r.text, sizeof w->r.text, "%s", text ? text : "");
  if (code == 0)
    take_reply(&w->r, w->type, reply);
  w->done = true;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->mtx);
}

static struct reply call(struct face_client *c, const char *method, struct blob *request,
                         const ProtobufCMessageDescriptor *type, int deadline_ms) {
  struct waiter w = {.type = type};

  pthread_mutex_init(&w.mtx, NULL);
  pthread_cond_init(&w.changed, NULL);
  struct rpc_call *call_ = rpc_unary(c->channel, method, request, deadline_of(deadline_ms), on_reply, &w);
  if (!call_)
    die(method, "out of memory");
  pthread_mutex_lock(&w.mtx);
  while (!w.done)
    pthread_cond_wait(&w.changed, &w.mtx);
  pthread_mutex_unlock(&w.mtx);
  rpc_call_unref(&call_);
  pthread_mutex_destroy(&w.mtx);
  pthread_cond_destroy(&w.changed);
  return w.r;
}

struct reply face_call(struct face_client *c, const char *method, const ProtobufCMessage *request,
                       const ProtobufCMessageDescriptor *reply_type, int deadline_ms) {
  return call(c, method, wire_pack(request, NULL), reply_type, deadline_ms);
}

struct reply face_call_bytes(struct face_client *c, const char *method, const void *data, size_t len,
                             const ProtobufCMessageDescriptor *reply_type) {
  return call(c, method, blob_copy(data, len), reply_type, 0);
}

void reply_fini(struct reply *r) {
  if (r->m)
    protobuf_c_message_free_unpacked(r->m, NULL);
  blob_unref(&r->payload);
  *r = (struct reply){0};
}

struct stream {
  struct rpc_call *call;
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  /* under mtx */
  bool sent, sent_ok, received, ended;
  struct blob *message;
  int code;
  char text[1100];
};

static void on_end(void *arg, int code, const char *text) {
  struct stream *s = arg;

  pthread_mutex_lock(&s->mtx);
  s->code = code;
  snprintf(s->text, sizeof s->text, "%s", text ? text : "");
  s->ended = true;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->mtx);
}

static void on_sent(void *arg, bool ok) {
  struct stream *s = arg;

  pthread_mutex_lock(&s->mtx);
  s->sent = true;
  s->sent_ok = ok;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->mtx);
}

static void on_received(void *arg, struct blob *message) {
  struct stream *s = arg;

  pthread_mutex_lock(&s->mtx);
  s->received = true;
  s->message = message ? blob_ref(message) : NULL;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->mtx);
}

static void wait_for(struct stream *s, const bool *what) {
  pthread_mutex_lock(&s->mtx);
  while (!*what)
    pthread_cond_wait(&s->changed, &s->mtx);
  pthread_mutex_unlock(&s->mtx);
}

struct stream *stream_open(struct face_client *c, const char *method, int deadline_ms) {
  struct stream *s = calloc(1, sizeof *s);

  pthread_mutex_init(&s->mtx, NULL);
  pthread_cond_init(&s->changed, NULL);
  s->call = rpc_stream_open(c->channel, method, deadline_of(deadline_ms), on_end, s);
  if (!s->call)
    die(method, "out of memory");
  return s;
}

bool stream_send(struct stream *s, const ProtobufCMessage *m, struct blob *payload) {
  s->sent = false;
  rpc_call_send(s->call, wire_pack(m, payload), on_sent, s);
  wait_for(s, &s->sent);
  return s->sent_ok;
}

void stream_close_send(struct stream *s) { rpc_call_close_send(s->call); }

struct blob *stream_recv(struct stream *s) {
  s->received = false;
  rpc_call_recv(s->call, on_received, s);
  wait_for(s, &s->received);
  return s->message;
}

void stream_cancel(struct stream *s) { rpc_call_cancel(s->call); }

int stream_end(struct stream *s, const char **text) {
  wait_for(s, &s->ended);
  if (text)
    *text = s->text;
  return s->code;
}

bool stream_ended(void *arg) {
  struct stream *s = arg;

  pthread_mutex_lock(&s->mtx);
  bool ended = s->ended;
  pthread_mutex_unlock(&s->mtx);
  return ended;
}

void stream_free(struct stream **sp) {
  struct stream *s = *sp;

  wait_for(s, &s->ended);
  rpc_call_unref(&s->call);
  pthread_mutex_destroy(&s->mtx);
  pthread_cond_destroy(&s->changed);
  free(s);
  *sp = NULL;
}
