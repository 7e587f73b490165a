/* cmd_verify.c - `forebay verify`: every byte through the cache against the origin.
 *
 * The main thread lists and feeds a bounded queue of keys; workers compare. Memory is bounded by the queue and two
 * pieces per worker, whatever the size of the data set. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/commands.h"
#include "client/cli/compare.h"
#include "client/cli/out.h"
#include "client/cli/progress.h"

#define QUEUE_MAX_BYTES ((size_t)64 << 20)
#define WORKERS_MAX 32
#define WORKERS_DEFAULT 4
#define PROBLEMS_TOLD_MAX 1000
/* So many files that fail because no peer answers are enough to know. */
#define UNREACHABLE_MAX 16

struct item {
  struct item *next;
  size_t bytes;
  char key[];
};

struct verify {
  /* set before the workers start */
  struct cli *cli;
  struct fb_ns ns;
  int origin_fd;
  const char *pattern; /* NULL: all that is listed */

  pthread_mutex_t mtx;
  pthread_cond_t more, room;
  /* under mtx */
  struct item *head, **tail;
  size_t queued_bytes;
  bool listed, stop;
  uint64_t files_total, bytes_total, bytes_read;
  uint64_t files[COMPARE_FAILED + 1], bytes_same;
  unsigned told, unreachable;
  int first_code;
  char first_text[400];
  struct progress bar;
};

static struct progress_state state_of(const struct verify *v) {
  uint64_t done = 0;
  for (int i = 0; i <= COMPARE_FAILED; i++)
    done += v->files[i];
  return (struct progress_state){v->bytes_read, v->bytes_total, done, v->files_total, v->listed};
}

static void on_bytes(void *arg, int64_t bytes) {
  struct verify *v = arg;

  pthread_mutex_lock(&v->mtx);
  v->bytes_read += (uint64_t)bytes;
  struct progress_state s = state_of(v);
  progress_update(&v->bar, &s);
  pthread_mutex_unlock(&v->mtx);
}

/* Under mtx. */
static void tell(struct verify *v, const char *key, const struct compare_report *r) {
  static const char *const names[] = {"same", "differs", "changed", "vanished", "failed"};

  if (v->told++ >= PROBLEMS_TOLD_MAX)
    return;
  if (v->cli->json) {
    struct json *j = &v->cli->out;
    json_object(j, NULL);
    json_string(j, "key", key);
    json_string(j, "outcome", names[r->outcome]);
    if (r->outcome == COMPARE_DIFFERS)
      json_uint(j, "offset", r->offset);
    if (r->outcome == COMPARE_FAILED)
      json_string(j, "name", fb_error_name(r->code));
    json_string(j, "text", r->text);
    json_end(j);
    return;
  }
  progress_clear(&v->bar);
  printf("%-8s  ", names[r->outcome]);
  out_text(stdout, key);
  fputs(": ", stdout);
  out_text(stdout, r->text);
  putchar('\n');
  fflush(stdout);
}

static void account(struct verify *v, const char *key, const struct compare_report *r) {
  pthread_mutex_lock(&v->mtx);
  v->files[r->outcome]++;
  if (r->outcome == COMPARE_SAME)
    v->bytes_same += r->bytes;
  else
    tell(v, key, r);
  if (r->outcome == COMPARE_FAILED) {
    if (!v->first_code) {
      v->first_code = r->code;
      snprintf(v->first_text, sizeof v->first_text, "%.180s: %.200s", key, r->text);
    }
    if (cli_exit_of(r->code) == CLI_UNREACHABLE && ++v->unreachable >= UNREACHABLE_MAX) {
      v->stop = true;
      pthread_cond_broadcast(&v->room);
      pthread_cond_broadcast(&v->more);
    }
  }
  struct progress_state s = state_of(v);
  progress_update(&v->bar, &s);
  pthread_mutex_unlock(&v->mtx);
}

/* The next key, or NULL when there will be none. The caller frees it. */
static struct item *take(struct verify *v) {
  pthread_mutex_lock(&v->mtx);
  while (!v->head && !v->listed && !v->stop)
    pthread_cond_wait(&v->more, &v->mtx);
  struct item *i = v->stop ? NULL : v->head;
  if (i) {
    v->head = i->next;
    if (!v->head)
      v->tail = &v->head;
    v->queued_bytes -= i->bytes;
    pthread_cond_signal(&v->room);
  }
  pthread_mutex_unlock(&v->mtx);
  return i;
}

static void *work(void *arg) {
  struct verify *v = arg;
  struct compare_report r;
  struct item *i;
  char *buf = malloc(2 * COMPARE_PIECE_BYTES);

  while (buf && (i = take(v))) {
    compare_file(v->cli->client, &v->ns, v->origin_fd, i->key, buf, on_bytes, v, &r);
    account(v, i->key, &r);
    free(i);
  }
  free(buf);
  return NULL;
}

static int enqueue(void *arg, const char *key, const struct fb_info *info) {
  struct verify *v = arg;
  size_t len = strlen(key) + 1;

  if (info->directory || !fb_glob_match(v->pattern, key))
    return 0;
  struct item *i = malloc(sizeof *i + len);
  if (!i)
    return -ENOMEM;
  i->next = NULL;
  i->bytes = sizeof *i + len;
  memcpy(i->key, key, len);
  pthread_mutex_lock(&v->mtx);
  while (v->queued_bytes + i->bytes > QUEUE_MAX_BYTES && !v->stop)
    pthread_cond_wait(&v->room, &v->mtx);
  bool stop = v->stop;
  if (!stop) {
    *v->tail = i;
    v->tail = &i->next;
    v->queued_bytes += i->bytes;
    v->files_total++;
    v->bytes_total += info->size;
    pthread_cond_signal(&v->more);
  }
  pthread_mutex_unlock(&v->mtx);
  if (stop)
    free(i);
  return stop ? -ECANCELED : 0;
}

/* Lists what `rest` names: nothing or a directory, a single file, or a glob. */
static int list(struct verify *v, const char *rest) {
  struct fb_info info;
  char base[2048] = "";
  bool glob = rest && strpbrk(rest, "*?[\\");

  if (rest && *rest && fb_stat(v->cli->client, v->ns.name, rest, &info, NULL) == 0 && !info.directory)
    return enqueue(v, rest, &info);
  if (glob) {
    /* No need to list more than the directory before the first wildcard. */
    size_t n = strcspn(rest, "*?[\\");
    while (n > 0 && rest[n] != '/')
      n--;
    snprintf(base, sizeof base, "%.*s", (int)n, rest);
    v->pattern = rest;
  } else if (rest) {
    snprintf(base, sizeof base, "%s", rest);
    size_t n = strlen(base);
    if (n > 0 && base[n - 1] == '/')
      base[n - 1] = '\0';
  }
  return fb_list(v->cli->client, v->ns.name, base, true, 0, enqueue, v, &v->cli->err);
}

static int run_workers(struct verify *v, const char *rest, unsigned n) {
  pthread_t threads[WORKERS_MAX];
  unsigned started = 0;
  int rc = 0;

  while (started < n && pthread_create(&threads[started], NULL, work, v) == 0)
    started++;
  if (started == 0)
    return cli_fail(v->cli, -EAGAIN, "cannot start a thread");
  rc = list(v, rest);
  pthread_mutex_lock(&v->mtx);
  v->listed = true;
  pthread_cond_broadcast(&v->more);
  pthread_mutex_unlock(&v->mtx);
  for (unsigned i = 0; i < started; i++)
    pthread_join(threads[i], NULL);
  while (v->head) {
    struct item *i = v->head;
    v->head = i->next;
    free(i);
  }
  return v->stop ? 0 : rc; /* a listing that we stopped is not what went wrong */
}

static void summary_json(struct verify *v, uint64_t elapsed_ns) {
  struct json *j = &v->cli->out;
  struct fb_client_stats st;

  fb_client_stats(v->cli->client, &st);
  json_end(j); /* problems */
  json_uint(j, "problems_omitted", v->told > PROBLEMS_TOLD_MAX ? v->told - PROBLEMS_TOLD_MAX : 0);
  json_uint(j, "files", v->files_total);
  json_uint(j, "bytes", v->bytes_same);
  json_uint(j, "same", v->files[COMPARE_SAME]);
  json_uint(j, "differ", v->files[COMPARE_DIFFERS]);
  json_uint(j, "changed", v->files[COMPARE_CHANGED]);
  json_uint(j, "vanished", v->files[COMPARE_VANISHED]);
  json_uint(j, "failed", v->files[COMPARE_FAILED]);
  json_uint(j, "elapsed_ns", elapsed_ns);
  json_object(j, "sources");
  json_uint(j, "ram", st.bytes_ram);
  json_uint(j, "nvme", st.bytes_nvme);
  json_uint(j, "origin", st.bytes_origin);
  json_uint(j, "forwarded", st.bytes_forwarded);
  json_end(j);
}

static void summary_text(struct verify *v, uint64_t elapsed_ns) {
  char bytes[OUT_BYTES_CAP], rate[OUT_BYTES_CAP];

  printf("%" PRIu64 " files: %" PRIu64 " same (%s, %s)", v->files_total, v->files[COMPARE_SAME],
         out_bytes(bytes, v->bytes_same), out_rate(rate, v->bytes_same, elapsed_ns));
  printf(", %" PRIu64 " differ, %" PRIu64 " changed, %" PRIu64 " vanished, %" PRIu64 " failed\n",
         v->files[COMPARE_DIFFERS], v->files[COMPARE_CHANGED], v->files[COMPARE_VANISHED], v->files[COMPARE_FAILED]);
}

static int verdict(struct verify *v, const char *rest) {
  if (v->files[COMPARE_DIFFERS])
    return cli_fail(v->cli, -FB_EDIFFERS, "%" PRIu64 " of %" PRIu64 " files differ from their origin",
                    v->files[COMPARE_DIFFERS], v->files_total);
  if (v->files[COMPARE_FAILED])
    return cli_fail(v->cli, v->first_code, "%" PRIu64 " of %" PRIu64 " files could not be compared%s; the first: %s",
                    v->files[COMPARE_FAILED], v->files_total, v->stop ? " and verify gave up" : "", v->first_text);
  if (!v->files_total && v->pattern)
    return cli_fail(v->cli, -ENOENT, "no file of namespace %s matches '%.200s'", v->ns.name, rest);
  return 0;
}

static int run_verify(struct cli *cli, const struct args *a) {
  struct verify v = {.cli = cli,
                     .origin_fd = -1,
                     .mtx = PTHREAD_MUTEX_INITIALIZER,
                     .more = PTHREAD_COND_INITIALIZER,
                     .room = PTHREAD_COND_INITIALIZER};
  struct timespec t0, t1;
  struct target t;
  int rc = target_parse(cli, a->words[0], &t);

  v.tail = &v.head;
  if (rc == 0)
    rc = cli_open(cli);
  if (rc == 0)
    rc = fb_ns_show(cli->client, t.ns, &v.ns, &cli->err);
  if (rc != 0)
    return rc;
  if (!*v.ns.origin)
    return cli_fail(cli, -EINVAL, "namespace %s has no origin to compare with", t.ns);
  v.origin_fd = open(v.ns.origin, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (v.origin_fd < 0)
    return cli_fail(cli, -errno,
                    "the origin %.300s of namespace %s cannot be opened here: %s; run verify on a machine "
                    "that has it mounted",
                    v.ns.origin, t.ns, strerror(errno));

  if (cli->json) {
    json_object(&cli->out, NULL);
    json_string(&cli->out, "namespace", t.ns);
    json_string(&cli->out, "pattern", t.rest ? t.rest : "");
    json_string(&cli->out, "origin", v.ns.origin);
    json_array(&cli->out, "problems");
  }
  clock_gettime(CLOCK_MONOTONIC, &t0);
  progress_init(&v.bar, stderr, t.ns, cli->quiet);
  rc = run_workers(&v, t.rest, (unsigned)args_number(a, "parallel", WORKERS_DEFAULT));
  clock_gettime(CLOCK_MONOTONIC, &t1);
  close(v.origin_fd);
  uint64_t elapsed_ns = (uint64_t)((t1.tv_sec - t0.tv_sec) * INT64_C(1000000000) + (t1.tv_nsec - t0.tv_nsec));
  struct progress_state s = state_of(&v);
  if (rc == 0)
    progress_end(&v.bar, &s);
  else
    progress_clear(&v.bar);
  if (cli->json)
    summary_json(&v, elapsed_ns);
  else if (rc == 0 || v.files_total)
    summary_text(&v, elapsed_ns);
  return rc < 0 ? rc : verdict(&v, t.rest);
}

static const struct arg_row verify_rows[] = {
    {"parallel", 0, ARG_UINT, "N", 1, WORKERS_MAX, NULL, "files compared at once, 8 MiB of memory each; default: 4"},
    {0},
};

const struct command cmd_verify = {
    .name = "verify",
    .words = "NS[/PREFIX|/GLOB]",
    .summary = "compare what the cache serves with the origin",
    .details =
        "Reads every byte of a namespace, of what is below a directory, of one file, or of the files that match a "
        "glob, "
        "through the cache, and compares it with the same file at the origin, which has to be mounted here. Prints "
        "each "
        "file that differs with the offset of its first difference. Files that were rewritten or removed meanwhile are "
        "told apart and do not fail the command; bytes that differ in one and the same version exit with 6.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_KEY},
    .rows = verify_rows,
    .run = run_verify,
};
