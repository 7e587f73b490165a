/* face_client.h - a client for tests of the gRPC face: protobuf messages in, protobuf messages out, everything waited
 * for. Streams are driven step by step, so that a test can stall where a client must not. */
#ifndef FB_TESTS_LIB_FACE_CLIENT_H
#define FB_TESTS_LIB_FACE_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/rpc.h"

struct face_client {
  struct rpc_loop *loop;
  struct rpc_channel *channel;
};
/* 127.0.0.1:port. Aborts when it cannot. */
void face_client_up(struct face_client *c, uint16_t port);
void face_client_down(struct face_client *c);

struct reply {
  int code;
  char text[1100];
  ProtobufCMessage *m; /* NULL on failure */
  struct blob *payload;
};
void reply_fini(struct reply *r);

/* A unary call; payload of field 15 is cut off when the type has one. Deadline: 30 s, or deadline_ms if not 0. */
struct reply face_call(struct face_client *c, const char *method, const ProtobufCMessage *request,
                       const ProtobufCMessageDescriptor *reply_type, int deadline_ms);
/* The same with bytes as the request. */
struct reply face_call_bytes(struct face_client *c, const char *method, const void *data, size_t len,
                             const ProtobufCMessageDescriptor *reply_type);

/* A stream. deadline_ms: 0 = 30 s, negative = none. */
struct stream;
struct stream *stream_open(struct face_client *c, const char *method, int deadline_ms);
/* Waits until it is sent. False: the call has ended. */
bool stream_send(struct stream *s, const ProtobufCMessage *m, struct blob *payload);
void stream_close_send(struct stream *s);
/* The next message, to be unref'd; NULL at the end. */
struct blob *stream_recv(struct stream *s);
void stream_cancel(struct stream *s);
/* The end. Waits for it; its code, with the text in *text (valid until stream_free). */
int stream_end(struct stream *s, const char **text);
bool stream_ended(void *s); /* for test_wait */
void stream_free(struct stream **s);

#endif
