/* face.h - what the files of net/ share: the face itself, how a method is entered, and how a call ends. */
#ifndef FB_SERVER_NET_FACE_H
#define FB_SERVER_NET_FACE_H

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/blob.h"
#include "proto/rpc.h"
#include "proto/wire.h"
#include "server/net/alarm.h"
#include "server/net/rpc_server.h"
#include "server/service/service.h"

struct health;

/* One method. `serve` runs once per call on a loop thread and sees to it that the session is finished once. */
struct face_method {
  const char *path;
  /* Type of the one request, which was received, checked for NUL bytes and unpacked; serve takes it by nulling
   * *request, else it is freed after. NULL: serve receives for itself, and request is NULL. */
  const ProtobufCMessageDescriptor *type;
  void (*serve)(struct face *f, struct rpc_session *s, ProtobufCMessage **request);
};
/* Tables end with a NULL path. */
extern const struct face_method cache_methods[], admin_methods[], health_methods[];

struct face {
  /* constant once started */
  struct service *service;
  struct rpc_server *server;
  struct alarms *alarms;
  struct health *health;
  struct rpc_server_limits limits;
  int64_t default_deadline_ns;
  struct face_bound *bound; /* a method with its face, per row of `table` */
  struct rpc_method *table;

  atomic_bool draining;
};

/* The call's own deadline, or the default from now on. */
int64_t face_deadline(const struct face *f, const struct rpc_session *s);

/* Unpacks a message that came from a client, after the look for NUL bytes. 0, or a code with a text. */
int face_unpack(const ProtobufCMessageDescriptor *type, struct blob *message, ProtobufCMessage **ret,
                struct blob **ret_payload, struct err *e);

/* Ends of a call. `reply` packs and sends; `refuse` logs the failure where the request is known, once: as a warning
 * when it is our fault or the origin's, as debug when it is the caller's. */
void face_reply(struct rpc_session *s, const char *method, const ProtobufCMessage *m, struct blob *payload);
void face_refuse(struct rpc_session *s, const char *method, int code, const char *text);
void face_log_failure(struct rpc_session *s, const char *method, int code, const char *text);

/* Calls of several messages, each with a file of its own. */
void serve_multi_get(struct face *f, struct rpc_session *s, ProtobufCMessage **request);
void serve_put(struct face *f, struct rpc_session *s, ProtobufCMessage **request);
void serve_list(struct face *f, struct rpc_session *s, ProtobufCMessage **request);
void serve_prestage(struct face *f, struct rpc_session *s, ProtobufCMessage **request);
#define CACHE_PATH "/forebay.v1.Cache/"
#define PRESTAGE_PATH "/forebay.v1.Prestage/"

/* rpc_health.c */
int health_new(struct health **ret, struct alarms *alarms, struct err *e);
/* Ends the watches. */
void health_drain(struct health *h);
void health_free(struct health **h);

#endif
