/* rpc_cache.c - forebay.v1.Cache: the calls that are one question and one answer. Here the session is all that a call
 * needs: the service copies what it keeps, and the answer is packed from what it hands over, payload uncopied. */
#include "server/net/convert.h"
#include "server/net/face.h"

static void get_done(void *arg, int code, const char *text, const struct get_reply *r) {
  struct rpc_session *s = arg;
  Forebay__V1__GetReply m = FOREBAY__V1__GET_REPLY__INIT;

  if (code < 0) {
    face_refuse(s, CACHE_PATH "Get", code, text);
    return;
  }
  get_to_pb(r, &m);
  face_reply(s, CACHE_PATH "Get", &m.base, r->data);
}

static void serve_get(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__GetRequest *q = (const void *)*request;

  service_get(f->service,
              &(struct get_req){.ns = q->ns,
                                .key = q->key,
                                .offset = q->offset,
                                .length = q->length,
                                .etag = q->etag,
                                .route = route_from_pb(q->route),
                                .deadline_ns = face_deadline(f, s)},
              get_done, s);
}

static void stat_done(void *arg, int code, const char *text, const struct object_info *info, const char *peer) {
  struct rpc_session *s = arg;
  Forebay__V1__StatReply m = FOREBAY__V1__STAT_REPLY__INIT;
  Forebay__V1__ObjectInfo object;

  if (code < 0) {
    face_refuse(s, CACHE_PATH "Stat", code, text);
    return;
  }
  object_to_pb(info, NULL, &object); /* the caller knows the key */
  m.info = &object;
  m.peer = pb_str(peer);
  face_reply(s, CACHE_PATH "Stat", &m.base, NULL);
}

static void serve_stat(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__StatRequest *q = (const void *)*request;

  service_stat(f->service,
               &(struct stat_req){.ns = q->ns,
                                  .key = q->key,
                                  .fresh = q->fresh,
                                  .route = route_from_pb(q->route),
                                  .deadline_ns = face_deadline(f, s)},
               stat_done, s);
}

static void invalidate_done(void *arg, int code, const char *text, uint64_t blocks, uint64_t bytes,
                            const struct name_list *unreachable) {
  struct rpc_session *s = arg;
  Forebay__V1__InvalidateReply m = FOREBAY__V1__INVALIDATE_REPLY__INIT;

  if (code < 0) {
    face_refuse(s, CACHE_PATH "Invalidate", code, text);
    return;
  }
  m.blocks = blocks;
  m.bytes = bytes;
  m.unreachable = names_to_pb(unreachable, &m.n_unreachable);
  face_reply(s, CACHE_PATH "Invalidate", &m.base, NULL);
}

static void serve_invalidate(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__InvalidateRequest *q = (const void *)*request;

  service_invalidate(
      f->service,
      &(struct invalidate_req){
          .ns = q->ns, .pattern = q->pattern, .route = route_from_pb(q->route), .deadline_ns = face_deadline(f, s)},
      invalidate_done, s);
}

const struct face_method cache_methods[] = {
    {CACHE_PATH "Get", &forebay__v1__get_request__descriptor, serve_get},
    {CACHE_PATH "MultiGet", &forebay__v1__multi_get_request__descriptor, serve_multi_get},
    {CACHE_PATH "Put", NULL, serve_put},
    {CACHE_PATH "Stat", &forebay__v1__stat_request__descriptor, serve_stat},
    {CACHE_PATH "List", &forebay__v1__list_request__descriptor, serve_list},
    {CACHE_PATH "Invalidate", &forebay__v1__invalidate_request__descriptor, serve_invalidate},
    {.path = NULL},
};
