/* cmd_prestage.c - `forebay prestage`: filling the cache before a job starts. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "client/cli/commands.h"
#include "client/cli/out.h"
#include "client/cli/progress.h"

struct watch {
  struct progress bar;
  struct fb_prestage_progress last;
};

static volatile sig_atomic_t interrupted;

/* The second one ends the program. (Not SA_RESETHAND: ThreadSanitizer loses a signal with it.) */
static void on_interrupt(int signo) {
  interrupted = signo;
  signal(signo, SIG_DFL);
}

static struct progress_state state_of(const struct fb_prestage_progress *p) {
  return (struct progress_state){p->bytes_resident, p->bytes_total, p->files_resident, p->files_total, p->listed};
}

static int watch_step(void *arg, const struct fb_prestage_progress *p, const char *failed_key, const char *failure) {
  struct watch *w = arg;
  struct progress_state s = state_of(p);

  w->last = *p;
  if (failed_key) {
    progress_clear(&w->bar);
    out_text(stderr, failed_key);
    fputs(": ", stderr);
    out_text(stderr, failure ? failure : "failed");
    putc('\n', stderr);
  }
  if (!p->done)
    progress_update(&w->bar, &s);
  return interrupted ? 1 : 0;
}

static double percent_of(const struct fb_prestage_progress *p) {
  if (p->bytes_total)
    return 100.0 * (double)p->bytes_resident / (double)p->bytes_total;
  return p->files_total ? 100.0 * (double)p->files_resident / (double)p->files_total : 100;
}

/* Whole files count as well as bytes when all is wanted: an empty file that failed would show in no byte. */
static bool below(const struct fb_prestage_progress *p, double target) {
  return percent_of(p) < target || (target >= 100 && (p->files_resident < p->files_total || p->files_failed));
}

static void prestage_json(struct json *j, const struct target *t, const struct fb_prestage_progress *p, bool background,
                          double target) {
  json_object(j, NULL);
  json_string(j, "namespace", t->ns);
  json_string(j, "pattern", t->rest ? t->rest : "");
  json_bool(j, "background", background);
  if (background)
    return;
  json_bool(j, "done", p->done);
  json_real(j, "target_percent", target);
  json_real(j, "resident_percent", percent_of(p));
  json_uint(j, "files_total", p->files_total);
  json_uint(j, "bytes_total", p->bytes_total);
  json_uint(j, "files_resident", p->files_resident);
  json_uint(j, "bytes_resident", p->bytes_resident);
  json_uint(j, "bytes_from_origin", p->bytes_from_origin);
  json_uint(j, "files_failed", p->files_failed);
  json_uint(j, "elapsed_ns", p->elapsed_ns);
}

static void summary(const struct fb_prestage_progress *p) {
  char resident[OUT_BYTES_CAP], total[OUT_BYTES_CAP], origin[OUT_BYTES_CAP], rate[OUT_BYTES_CAP];

  printf("%s: %s of %s resident%s (%.2f%%), %" PRIu64 " of %" PRIu64 " files; %s from the origin, %s\n",
         p->done ? "prestaged" : "stopped", out_bytes(resident, p->bytes_resident), out_bytes(total, p->bytes_total),
         p->done ? " and verified" : "", percent_of(p), p->files_resident, p->files_total,
         out_bytes(origin, p->bytes_from_origin), out_rate(rate, p->bytes_from_origin, p->elapsed_ns));
}

static int run_prestage(struct cli *cli, const struct args *a) {
  struct fb_prestage_options options = {.parallel = (uint32_t)args_number(a, "parallel", 0),
                                        .background = !args_set(a, "wait")};
  double target = args_percent(a, "target", 100);
  struct fb_prestage_progress p = {0};
  struct watch w = {0};
  struct target t;
  int rc = target_parse(cli, a->words[0], &t);

  if (rc != 0)
    return rc;
  if (options.background && args_set(a, "target"))
    return cli_fail(cli, -EINVAL, "--target is judged at the end of the run: it wants --wait");
  if ((rc = cli_open(cli)) < 0)
    return rc;
  if (options.background) {
    rc = fb_prestage(cli->client, t.ns, t.rest, &options, NULL, NULL, &p, &cli->err);
    if (rc != 0)
      return rc;
    if (cli->json)
      prestage_json(&cli->out, &t, &p, true, target);
    else if (!cli->quiet)
      puts("the cluster has begun and goes on by itself; 'forebay prestage --wait' of the same tells how far it is");
    return 0;
  }

  /* The first Ctrl-C stops the run in order and tells what is resident. */
  struct sigaction act = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &act, NULL);
  progress_init(&w.bar, stderr, t.ns, cli->quiet);
  rc = fb_prestage(cli->client, t.ns, t.rest, &options, watch_step, &w, &p, &cli->err);
  if (rc < 0)
    p = w.last;
  struct progress_state s = state_of(&p);
  if (rc == 0)
    progress_end(&w.bar, &s);
  else
    progress_clear(&w.bar);
  if (rc == 0 && !p.files_total && t.rest && *t.rest)
    return cli_fail(cli, -ENOENT, "no file of namespace %s matches '%.200s'", t.ns, t.rest);
  if (rc == 0 || p.listed || p.files_total) {
    if (cli->json)
      prestage_json(&cli->out, &t, &p, false, target);
    else
      summary(&p);
  }
  if (interrupted)
    return cli_fail(cli, -ECANCELED, "interrupted; what is resident stays");
  if (rc != 0)
    return rc;
  if (below(&p, target))
    return cli_fail(cli, -FB_EBELOWTARGET,
                    "%.2f%% of the bytes and %" PRIu64 " of %" PRIu64
                    " files are resident, the target was %g%%; %" PRIu64 " files failed%s",
                    percent_of(&p), p.files_resident, p.files_total, target, p.files_failed,
                    p.files_failed ? "" : ": the peers' memory may be too small for all of it");
  return 0;
}

static const struct arg_row prestage_rows[] = {
    {"wait", 'w', ARG_FLAG, NULL, 0, 0, NULL,
     "follow the run to its end and judge it; without, return once it has begun"},
    {"target", 't', ARG_PERCENT, "PERCENT", 0, 100, NULL,
     "with --wait: succeed if so much of the bytes is resident at the end; default: 100"},
    {"parallel", 0, ARG_UINT, "N", 1, 64, NULL, "chunks of 16 MiB in flight per peer; default: the peer's own"},
    {0},
};

const struct command cmd_prestage = {
    .name = "prestage",
    .words = "NS[/GLOB]",
    .summary = "fill the cache ahead of a job",
    .details =
        "Fills all files of a namespace, or those that match. Without --wait a peer takes the run over and the command "
        "returns; it goes on by itself. With --wait progress is shown, and at the end every peer is asked what is "
        "resident with a matching checksum: that is the number told, and below --target the exit status is 5. Ctrl-C "
        "stops a run that is waited for; what is resident stays. Running it again reads only what is missing.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_KEY},
    .rows = prestage_rows,
    .run = run_prestage,
};
