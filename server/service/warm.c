/* warm.c - making chunks resident on this peer, or counting what is: the peers' part of a prestage.
 *
 * Every block goes the way of a reader's miss (block.c), so warming and reading share fetches and limits. A request's
 * items go on side by side, WINDOW blocks at a time over all of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/names.h"
#include "common/utf8.h"
#include "server/service/internal.h"

#define WINDOW 8u

struct warm_op {
  struct service *s;
  struct ns *ns; /* reference, once found */
  bool check_only;
  int64_t deadline_ns;
  warm_done_fn done;
  void *arg;
  char *ns_name;
  unsigned n;
  struct warm_item *items; /* keys are owned */
  struct warm_result *results;

  pthread_mutex_t mtx; /* the rest */
  unsigned item;       /* the next block to begin is `block` of `item` */
  uint64_t block;
  unsigned in_flight;
  bool starting; /* somebody is in go_on */
};

struct leg {
  struct warm_op *op;
  unsigned item;
};

static void op_free(struct warm_op *op) {
  for (unsigned i = 0; op->items && i < op->n; i++)
    free((char *)op->items[i].key);
  free(op->items);
  free(op->results);
  free(op->ns_name);
  ns_unref(&op->ns);
  pthread_mutex_destroy(&op->mtx);
  free(op);
}

static void finish(struct warm_op *op, int code, const char *text) {
  struct err e;

  ns_unref(&op->ns);
  if (code < 0) {
    fail_object(&e, code, op->ns_name, NULL, text);
    op->done(op->arg, code, e.text, NULL, 0);
  } else {
    op->done(op->arg, 0, "", op->results, op->n);
  }
  op_free(op);
}

/* Blocks [first, end) of an item's chunk. False when the file has no such chunk. */
static bool blocks_of(const struct warm_op *op, const struct warm_item *it, uint64_t *first, uint64_t *end) {
  uint32_t bs = op->ns->r.block_bytes;

  if (it->chunk > (UINT64_MAX / CHUNK_BYTES) - 1 || it->chunk * CHUNK_BYTES >= it->size)
    return false;
  *first = it->chunk * CHUNK_BYTES / bs;
  *end = (min_u64(it->size, (it->chunk + 1) * CHUNK_BYTES) + bs - 1) / bs;
  return true;
}

static void go_on(struct warm_op *op, unsigned ended);

static void got_block(void *arg, int code, const char *text, const struct block_result *r) {
  struct leg *leg = arg;
  struct warm_op *op = leg->op;
  struct warm_result *res = &op->results[leg->item];

  pthread_mutex_lock(&op->mtx);
  if (code < 0) {
    if (res->code == 0) {
      res->code = code;
      snprintf(res->text, sizeof res->text, "%s", text);
      utf8_trim(res->text);
    }
  } else {
    /* What was served past a full tier is not resident: the last pass tells. Here it counts as read. */
    res->resident_bytes += r->data->len;
    if (r->source == SOURCE_ORIGIN)
      res->origin_bytes += r->data->len;
  }
  pthread_mutex_unlock(&op->mtx);
  free(leg);
  go_on(op, 1);
}

/* Takes `ended` blocks off, and begins others until the window is full or none is left; whoever then finds nothing in
 * flight ends the operation. Both under one lock: after the last block is off, another thread may end it. */
static void go_on(struct warm_op *op, unsigned ended) {
  pthread_mutex_lock(&op->mtx);
  op->in_flight -= ended;
  if (op->starting) { /* the one inside sees that the window has room */
    pthread_mutex_unlock(&op->mtx);
    return;
  }
  op->starting = true;
  while (op->item < op->n && op->in_flight < WINDOW) {
    const struct warm_item *it = &op->items[op->item];
    uint64_t first, end;
    if (!blocks_of(op, it, &first, &end) || first + op->block >= end || op->results[op->item].code < 0) {
      op->item++;
      op->block = 0;
      continue;
    }
    unsigned item = op->item;
    uint64_t index = first + op->block++;
    struct leg *leg = malloc(sizeof *leg);
    if (!leg) {
      op->results[item].code = -ENOMEM;
      snprintf(op->results[item].text, sizeof op->results[item].text, "out of memory");
      continue;
    }
    *leg = (struct leg){.op = op, .item = item};
    op->in_flight++;
    pthread_mutex_unlock(&op->mtx);
    struct attr a = {.size = it->size, .etag = it->etag};
    block_get(op->s, op->ns, it->key, &a, index, op->deadline_ns, got_block, leg);
    pthread_mutex_lock(&op->mtx);
  }
  op->starting = false;
  bool over = op->item == op->n && op->in_flight == 0;
  pthread_mutex_unlock(&op->mtx);
  if (over)
    finish(op, 0, "");
}

/* Counting touches every resident byte (the checksum), so it runs on a scan thread. */
struct check_job {
  struct pool_job job; /* first */
  struct warm_op *op;
};

static void check_run(struct pool_job *job) {
  struct warm_op *op = ((struct check_job *)job)->op;

  free(job);
  for (unsigned i = 0; i < op->n; i++) {
    const struct warm_item *it = &op->items[i];
    uint64_t first, end;
    if (!blocks_of(op, it, &first, &end))
      continue;
    for (uint64_t b = first; b < end; b++)
      if (block_resident(op->s, op->ns, it->key, it->etag, b, true))
        op->results[i].resident_bytes += block_len(op->ns, it->size, b);
  }
  finish(op, 0, "");
}

static void found(void *arg, int code, const char *text, struct ns *ns) {
  struct warm_op *op = arg;

  if (code < 0) {
    finish(op, code, text);
    return;
  }
  op->ns = ns;
  if (!op->check_only) {
    go_on(op, 0);
    return;
  }
  struct check_job *j = malloc(sizeof *j);
  int r = -ENOMEM;
  if (j) {
    *j = (struct check_job){.job = {.fn = check_run}, .op = op};
    r = pool_submit(op->s->scan_pool, &j->job);
  }
  if (r < 0) {
    free(j);
    finish(op, r, "too many listings and checks wait: try again");
  }
}

void service_warm(struct service *s, const struct warm_req *q, warm_done_fn done, void *arg) {
  struct warm_op *op = calloc(1, sizeof *op);
  struct err e = {0};
  bool oom = !op;

  if (op) {
    *op = (struct warm_op){
        .s = s, .check_only = q->check_only, .deadline_ns = q->deadline_ns, .done = done, .arg = arg, .n = q->n};
    pthread_mutex_init(&op->mtx, NULL);
    op->ns_name = strdup(q->ns);
    op->items = calloc(q->n ? q->n : 1, sizeof *op->items);
    op->results = calloc(q->n ? q->n : 1, sizeof *op->results);
    oom = !op->ns_name || !op->items || !op->results;
  }
  for (unsigned i = 0; !oom && i < q->n; i++) {
    op->items[i] = q->items[i];
    op->items[i].key = strdup(q->items[i].key);
    oom = !op->items[i].key;
  }
  if (oom) {
    if (op)
      op_free(op);
    done(arg, -ENOMEM, "out of memory", NULL, 0);
    return;
  }
  for (unsigned i = 0; i < q->n; i++)
    if (name_check_key(q->items[i].key, strlen(q->items[i].key), &e) < 0) {
      finish(op, e.code, e.text);
      return;
    }
  ns_find(s, op->ns_name, &q->route, found, op);
}
