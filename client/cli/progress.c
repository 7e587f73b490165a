/* progress.c - the progress line: bytes, files, rate, time left. */
#include "client/cli/progress.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/out.h"

#define REDRAW_NS INT64_C(100000000)
#define LINE_NS INT64_C(5000000000)
#define BAR_MIN 10
#define BAR_MAX 30

static int64_t now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Share that is done, 0..1; by files when there are no bytes to count. */
static double share(const struct progress_state *s) {
  double part = s->bytes_total   ? (double)s->bytes / (double)s->bytes_total
                : s->files_total ? (double)s->files / (double)s->files_total
                                 : (s->total_final ? 1 : 0);
  return part > 1 ? 1 : part;
}

size_t progress_render(char *buf, size_t cap, unsigned width, const char *label, const struct progress_state *s,
                       double rate) {
  char done[OUT_BYTES_CAP], total[OUT_BYTES_CAP], speed[OUT_BYTES_CAP], left[OUT_BYTES_CAP] = "-:--";
  char figures[160], percent[8] = "  ?%", bar[BAR_MAX + 1] = "";
  const char *more = s->total_final ? "" : "+";

  if (s->total_final) {
    /* 100 % is said when all is there, not when it rounds to it. */
    unsigned whole = (unsigned)(share(s) * 100);
    snprintf(percent, sizeof percent, "%3u%%", whole > 100 ? 100 : whole);
    if (rate > 0 && s->bytes <= s->bytes_total) {
      double seconds = (double)(s->bytes_total - s->bytes) / rate;
      out_duration(left, seconds < 1e9 ? (uint64_t)(seconds * 1e9) : UINT64_C(1000000000) * 1000000000);
    }
  }
  out_rate(speed, rate > 0 ? (uint64_t)rate : 0, 1000000000);
  snprintf(figures, sizeof figures, "%s/%s%s  %" PRIu64 "/%" PRIu64 "%s files  %s  ETA %s", out_bytes(done, s->bytes),
           out_bytes(total, s->bytes_total), more, s->files, s->files_total, more, speed, left);

  size_t used = strlen(label) + 1 + 4 + 2 + strlen(figures);
  if (width >= used + 2 + BAR_MIN + 1) {
    unsigned n = width - (unsigned)used - 3 > BAR_MAX ? BAR_MAX : width - (unsigned)used - 3;
    unsigned full = (unsigned)(share(s) * n);
    memset(bar, '=', full);
    memset(bar + full, ' ', n - full);
    bar[n] = '\0';
  }
  int n = *bar ? snprintf(buf, cap, "%s %s [%s] %s", label, percent, bar, figures)
               : snprintf(buf, cap, "%s %s  %s", label, percent, figures);
  size_t len = n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1;
  /* A line that wraps could not be redrawn. */
  if (width && len > width)
    len = width;
  buf[len] = '\0';
  return len;
}

void progress_init(struct progress *p, FILE *out, const char *label, bool quiet) {
  *p = (struct progress){.out = out, .label = label, .off = quiet, .terminal = isatty(fileno(out)) == 1};
  const char *term = getenv("TERM");
  if (p->terminal && term && strcmp(term, "dumb") == 0)
    p->terminal = false;
  p->started_ns = now_ns();
}

static unsigned terminal_width(const struct progress *p) {
  struct winsize w;
  if (ioctl(fileno(p->out), TIOCGWINSZ, &w) == 0 && w.ws_col > 0)
    return w.ws_col - 1u;
  return 79;
}

static void show(struct progress *p, const struct progress_state *s, int64_t now) {
  char line[512];

  /* Smoothed over the last few updates: a raw rate jumps, a mean over all hides a stall. */
  if (p->shown_ns) {
    double seconds = (double)(now - p->shown_ns) / 1e9;
    double current = seconds > 0 && s->bytes >= p->shown_bytes ? (double)(s->bytes - p->shown_bytes) / seconds : 0;
    double weight = seconds > 3 ? 1 : seconds / 3;
    p->rate = p->rate > 0 ? p->rate + (current - p->rate) * weight : current;
  }
  p->shown_ns = now;
  p->shown_bytes = s->bytes;
  progress_render(line, sizeof line, p->terminal ? terminal_width(p) : 0, p->label, s, p->rate);
  if (p->terminal)
    fprintf(p->out, "\r%s\033[K", line);
  else
    fprintf(p->out, "%s\n", line);
  fflush(p->out);
  p->drawn = true;
}

void progress_update(struct progress *p, const struct progress_state *s) {
  int64_t now = now_ns();

  if (p->off || (p->shown_ns && now - p->shown_ns < (p->terminal ? REDRAW_NS : LINE_NS)))
    return;
  show(p, s, now);
}

void progress_clear(struct progress *p) {
  if (p->off || !p->terminal || !p->drawn)
    return;
  fputs("\r\033[K", p->out);
  fflush(p->out);
  p->drawn = false;
}

void progress_end(struct progress *p, const struct progress_state *s) {
  int64_t now = now_ns();

  if (p->off)
    return;
  /* The last line tells the mean of the whole run. */
  double seconds = (double)(now - p->started_ns) / 1e9;
  p->shown_ns = 0;
  p->rate = seconds > 0 ? (double)s->bytes / seconds : 0;
  show(p, s, now);
  if (p->terminal)
    fputc('\n', p->out);
  fflush(p->out);
}
