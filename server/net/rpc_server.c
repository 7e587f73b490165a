/* rpc_server.c - the method table of a peer, and how calls come in and go out whatever the method. */
#include "server/net/rpc_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/status.h"
#include "server/net/face.h"
#include "server/net/wire_check.h"

struct face_bound {
  struct face *face;
  const struct face_method *method;
};

/* ---- the ways out ----------------------------------------------------------------------------------------------- */

/* gRPC's statuses that say "not your fault": UNKNOWN, INTERNAL, DATA_LOSS. */
static bool worth_a_warning(int code) {
  int status = status_from_code(code);

  return (status == 2 || status == 13 || status == 15) && code != -FB_EPROTO;
}

/* A failing origin can fail every request: at most WARNINGS lines a second, and the number of those left out. */
#define WARNINGS 10
static bool may_warn(uint64_t *ret_left_out) {
  static _Atomic int64_t second;
  static atomic_uint written;
  static _Atomic uint64_t left_out;
  int64_t now = clock_mono_ns() / NS_PER_S, old = atomic_load_explicit(&second, memory_order_relaxed);

  if (now != old &&
      atomic_compare_exchange_strong_explicit(&second, &old, now, memory_order_relaxed, memory_order_relaxed))
    atomic_store_explicit(&written, 0, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&written, 1, memory_order_relaxed) >= WARNINGS) {
    atomic_fetch_add_explicit(&left_out, 1, memory_order_relaxed);
    return false;
  }
  *ret_left_out = atomic_exchange_explicit(&left_out, 0, memory_order_relaxed);
  return true;
}

void face_log_failure(struct rpc_session *s, const char *method, int code, const char *text) {
  enum log_level level = worth_a_warning(code) && !rpc_cancelled(s) ? LOG_WARN : LOG_DEBUG;
  uint64_t left_out = 0;

  if (!log_enabled(level) || (level == LOG_WARN && !may_warn(&left_out)))
    return;
  log_event(level, "call failed", LOGF_S("method", method), LOGF_S("client", rpc_peer(s)),
            LOGF_S("code", err_name(code)), LOGF_S("text", text ? text : err_describe(code)),
            LOGF_U("left_out", left_out));
}

void face_refuse(struct rpc_session *s, const char *method, int code, const char *text) {
  face_log_failure(s, method, code, text);
  rpc_finish(s, NULL, code, text);
}

void face_reply(struct rpc_session *s, const char *method, const ProtobufCMessage *m, struct blob *payload) {
  struct blob *b = wire_pack(m, payload);

  if (b)
    rpc_finish(s, b, 0, NULL);
  else
    face_refuse(s, method, -ENOMEM, "this peer has no memory for the reply: try again later");
}

/* ---- the ways in ------------------------------------------------------------------------------------------------ */

int64_t face_deadline(const struct face *f, const struct rpc_session *s) {
  int64_t deadline_ns = rpc_deadline_ns(s);

  return deadline_ns == DEADLINE_NONE ? clock_mono_ns() + f->default_deadline_ns : deadline_ns;
}

int face_unpack(const ProtobufCMessageDescriptor *type, struct blob *message, ProtobufCMessage **ret,
                struct blob **ret_payload, struct err *e) {
  int r = wire_check_strings(type, message, e);

  if (r < 0)
    return r;
  r = wire_unpack(type, message, ret, ret_payload);
  if (r == -ENOMEM)
    return err_set(e, r, "this peer has no memory for the request: try again later");
  if (r < 0)
    return err_set(e, r, "the request is no %s; accepted: messages of proto/forebay/v1", type->name);
  return 0;
}

static void on_request(struct rpc_session *s, struct blob *message, void *arg) {
  const struct face_bound *b = arg;
  ProtobufCMessage *request = NULL;
  struct err e;

  if (!message) {
    face_refuse(s, b->method->path, rpc_cancelled(s) ? -ECANCELED : -FB_EPROTO,
                "the call ended without a request message");
    return;
  }
  int r = face_unpack(b->method->type, message, &request, NULL, &e);
  if (r < 0) {
    face_refuse(s, b->method->path, r, e.text);
    return;
  }
  b->method->serve(b->face, s, &request);
  if (request)
    protobuf_c_message_free_unpacked(request, NULL);
}

static void enter(struct rpc_session *s, void *arg) {
  struct face_bound *b = arg;

  if (b->method->type)
    rpc_recv(s, on_request, b);
  else
    b->method->serve(b->face, s, NULL);
}

/* ---- the face --------------------------------------------------------------------------------------------------- */

static int bind_methods(struct face *f) {
  static const struct face_method *const tables[] = {cache_methods, admin_methods, health_methods};
  size_t n = 0;

  for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
    for (const struct face_method *m = tables[t]; m->path; m++)
      n++;
  f->bound = calloc(n, sizeof *f->bound);
  f->table = calloc(n + 1, sizeof *f->table);
  if (!f->bound || !f->table)
    return -ENOMEM;
  n = 0;
  for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
    for (const struct face_method *m = tables[t]; m->path; m++, n++) {
      f->bound[n] = (struct face_bound){.face = f, .method = m};
      f->table[n] = (struct rpc_method){.path = m->path, .start = enter, .arg = &f->bound[n]};
    }
  return 0;
}

int face_new(struct face **ret, const struct face_conf *conf, struct err *e) {
  struct face *f = calloc(1, sizeof *f);

  if (!f)
    return err_set(e, -ENOMEM, "out of memory for the gRPC face");
  f->limits = conf->limits;
  f->default_deadline_ns = conf->default_deadline_ms * NS_PER_MS;
  int r = bind_methods(f);
  if (r < 0)
    err_set(e, r, "out of memory for the method table");
  if (r == 0)
    r = alarms_new(&f->alarms, e);
  if (r == 0)
    r = health_new(&f->health, f->alarms, e);
  if (r == 0)
    r = rpc_server_new(&f->server, conf->loop, conf->listen, &f->limits, f->table, e);
  if (r < 0) {
    face_free(&f);
    return r;
  }
  *ret = f;
  return 0;
}

uint16_t face_port(const struct face *f) { return rpc_server_port(f->server); }

int face_start(struct face *f, struct service *s, struct err *e) {
  f->service = s;
  return rpc_server_start(f->server, e);
}

void face_drain(struct face *f) {
  atomic_store(&f->draining, true);
  health_drain(f->health);
}

unsigned face_stop(struct face *f, int64_t deadline_ns) {
  face_drain(f);
  return rpc_server_stop(f->server, deadline_ns);
}

void face_free(struct face **fp) {
  struct face *f = *fp;

  if (!f)
    return;
  rpc_server_free(&f->server);
  health_free(&f->health);
  alarms_free(&f->alarms);
  free(f->table);
  free(f->bound);
  free(f);
  *fp = NULL;
}
