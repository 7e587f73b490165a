/* request.h - requests of one call: who gets each, what becomes of it when that fails, and how many are out at a time.
 *
 * A batch is run by the caller's thread. Callbacks on loop threads only put what has arrived into the batch's list and
 * wake the caller, who judges it. Rules, per request:
 *   - FB_EPEERDOWN, the deadline of one attempt, a call that the peer broke off: the next candidate, at once
 *   - FB_EBUSY: once more the same peer after a pause, then the next candidate after a pause
 *   - FB_ECRC: once more the same peer at once, then the next candidate
 *   - an answer that makes no sense (FB_EPROTO): the next candidate
 *   - when all candidates were tried: a pause, the ring again if it is older than a second, and from the start
 *   - every other code is final
 * Pauses double from 10 ms to 1 s, jittered. All within the call's deadline and its number of retries. */
#ifndef FB_CLIENT_REQUEST_H
#define FB_CLIENT_REQUEST_H

#include "client/lib/client.h"
#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"

/* A condition to wait for, with a deadline on the monotonic clock. */
struct waiter {
  pthread_mutex_t mtx;
  pthread_cond_t cond;
};
void waiter_init(struct waiter *w);
void waiter_fini(struct waiter *w);
/* With mtx held. False when the deadline has passed. */
bool waiter_wait(struct waiter *w, int64_t deadline_ns);

struct batch;

struct request {
  /* set before it goes out, zero else */
  const char *method;        /* NULL: a put of `value` */
  ProtobufCMessage *message; /* lives until the request is done */
  Forebay__V1__Route *route; /* within it, filled by us for each attempt; NULL: none */
  const ProtobufCMessageDescriptor *reply_type;
  bool want_payload;
  struct blob *value;   /* borrowed */
  struct picker picker; /* placed and hash */
  struct peer *only;    /* borrowed: ask this one, once, whatever its breaker says */
  int64_t extra_ns;     /* an attempt's time beyond peer_timeout_ms: for what is known to take long */

  /* an attempt's outcome, valid in take() and failed() */
  int code;
  char text[ERR_TEXT_MAX];
  ProtobufCMessage *reply;
  struct blob *payload;
  int64_t sent_ns, received_ns;
  struct peer *peer; /* reference: who was asked */
  bool ambiguous;    /* an earlier attempt may have been carried out */

  /* the batch's own */
  struct batch *batch;
  struct rpc_call *handle;
  struct request *next;
  enum { REQUEST_IDLE, REQUEST_OUT, REQUEST_WAITING } state;
  unsigned index; /* of `peer` among the candidates */
  unsigned attempts, pauses;
  int64_t resend_at_ns;
  bool same_peer; /* the next attempt goes to `peer` again */
  int again;      /* code for which the same peer was asked twice already */
};

struct batch {
  struct call *call;
  struct request **requests; /* slots: each carries one request after the other */
  unsigned n;
  /* Makes an idle request the next piece of work. False: there is none, or none until another reply is in. */
  bool (*next)(struct batch *b, struct request *q);
  /* Takes a reply. 0, -FB_ECRC and -FB_EPROTO (ask elsewhere), or a final code. */
  int (*take)(struct batch *b, struct request *q, struct err *e);
  /* A request has failed for good: 0 to go on with the others, else the batch ends with that. NULL: it ends. */
  int (*failed)(struct batch *b, struct request *q, int code, const struct err *e);
  void *arg;
  bool enough; /* set by take(): end well now */

  /* its own */
  struct waiter waiter;
  struct request *arrived, **arrived_tail; /* under waiter.mtx */
  unsigned out, waiting;
  struct err last; /* the last failure that another attempt followed */
};

/* Runs until nothing is left. 0, or the code that ended it with call->e set. No request is out when it returns, and
 * nothing that the requests received is held. */
int batch_run(struct batch *b);
/* A single request; take() as above. */
int request_run(struct call *k, struct request *q, int (*take)(struct batch *b, struct request *q, struct err *e),
                void *arg);

/* May another peer be asked after this code? */
bool code_moves_on(int code);

/* ---- read.c --------------------------------------------------------------------------------------------------------
 */

/* Checks what a peer sent for [offset, offset + length) against its own claims and copies it to dst.
 * 0, -FB_EPROTO or -FB_ECRC with a text. */
int read_check(const Forebay__V1__GetReply *reply, const struct blob *payload, uint64_t offset, uint64_t length,
               uint8_t *dst, struct err *e);
/* Counts bytes by where they came from. Any thread. */
void read_count(struct call *k, const Forebay__V1__GetReply *reply, struct peer *asked, uint64_t bytes);
/* CRC32C of a whole object of at most max_len bytes, and what it is. Codes as fb_get. */
int read_crc(struct call *k, uint64_t max_len, uint32_t *ret_crc, struct fb_info *ret);

/* ---- stream.c: one reply message after the other, on the caller's thread ---------------------------------------- */

struct stream {
  struct waiter waiter;
  struct peer_paced *paced;
  /* under waiter.mtx */
  ProtobufCMessage *message;
  bool over;
  int code;
  char text[ERR_TEXT_MAX];
  /* the caller's */
  ProtobufCMessage *given;
};

void stream_open(struct stream *s, struct peer *p, const char *method, const ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *reply_type, bool ignore_breaker);
/* 1 and the next message (valid until the next call here), 0 at the end, or a code with a text. */
int stream_next(struct stream *s, int64_t deadline_ns, const ProtobufCMessage **ret, struct err *e);
/* Ends it if it goes on; waits for its last callback. */
void stream_close(struct stream *s);

#endif
