/* main.c - forebayd's command line and signals. Signals are blocked in every thread and read from a descriptor here, so
 * no work is done in handlers; the drain runs beside, so that a second signal can cut it short. */
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "server/conf.h"
#include "server/daemon.h"

enum { EXIT_OK = 0, EXIT_RUNTIME = 1, EXIT_USAGE = 2, EXIT_CONFIG = 78 /* EX_CONFIG of sysexits.h */ };
#define SETS_MAX 256u
/* After the drain's deadline: for inner calls to notice, and for the workers of an origin to come back. */
#define STOP_GRACE_MS 10000

enum mode { RUN, CHECK_CONFIG, DUMP_CONFIG };

struct options {
  const char *file;
  char *sets[SETS_MAX];
  unsigned n_sets;
  int ready_fd;
  enum mode mode;
};

/* ---- the command line ------------------------------------------------------------------------------------------- */

static void print_help(void) {
  fputs("Usage: forebayd [--config FILE] [--set KEY=VALUE]...\n"
        "       forebayd --check-config [FILE] [--set KEY=VALUE]...\n"
        "       forebayd --dump-config [--config FILE] [--set KEY=VALUE]...\n"
        "\n"
        "A peer of the Forebay cluster cache.\n"
        "\n"
        "  -c, --config FILE        read settings from FILE (YAML); without it the defaults hold\n"
        "  -s, --set KEY=VALUE      set one value, over what FILE says; may be repeated\n"
        "      --check-config[=FILE] say whether the settings are good, and exit\n"
        "      --dump-config        print the settings in force as a commented file, and exit\n"
        "      --ready-fd N         write \"ready PORT\" to descriptor N when calls are served, and close it\n"
        "      --help               this text, with every setting\n"
        "      --help-config        every setting alone\n"
        "      --version            version\n"
        "\n"
        "SIGTERM and SIGINT drain and exit (a second one exits at once); SIGHUP reads FILE again.\n"
        "Exit codes: 0 good, 1 failed, 2 bad usage, 78 bad configuration.\n"
        "\n"
        "Settings:\n"
        "\n",
        stdout);
  conf_help(server_conf_rows, stdout);
}

static int usage(const char *what, const char *arg) {
  fprintf(stderr, "forebayd: %s%s; see forebayd --help\n", what, arg);
  return EXIT_USAGE;
}

/* -1: go on; else an exit code. */
static int parse_options(int argc, char **argv, struct options *o) {
  enum { CHECK = 256, DUMP, READY, HELP, HELP_CONFIG, VERSION };
  static const struct option longs[] = {
      {"config", required_argument, NULL, 'c'},
      {"set", required_argument, NULL, 's'},
      {"check-config", optional_argument, NULL, CHECK},
      {"dump-config", no_argument, NULL, DUMP},
      {"ready-fd", required_argument, NULL, READY},
      {"help", no_argument, NULL, HELP},
      {"help-config", no_argument, NULL, HELP_CONFIG},
      {"version", no_argument, NULL, VERSION},
      {NULL, 0, NULL, 0},
  };
  char *end;
  int c;

  while ((c = getopt_long(argc, argv, "c:s:", longs, NULL)) != -1) {
    switch (c) {
    case 'c':
      o->file = optarg;
      break;
    case 's':
      if (o->n_sets == SETS_MAX)
        return usage("too many --set", "");
      o->sets[o->n_sets++] = optarg;
      break;
    case CHECK:
      o->mode = CHECK_CONFIG;
      if (!optarg && optind < argc && argv[optind][0] != '-')
        optarg = argv[optind++];
      if (optarg)
        o->file = optarg;
      break;
    case DUMP:
      o->mode = DUMP_CONFIG;
      break;
    case READY:
      assert(optarg); /* getopt has seen to it */
      errno = 0;
      long fd = strtol(optarg, &end, 10);
      if (errno || *end || end == optarg || fd < 0 || fd > INT_MAX)
        return usage("--ready-fd wants the number of an open descriptor, not ", optarg);
      o->ready_fd = (int)fd;
      break;
    case HELP:
      print_help();
      return EXIT_OK;
    case HELP_CONFIG:
      conf_help(server_conf_rows, stdout);
      return EXIT_OK;
    case VERSION:
      puts("forebayd " FOREBAY_VERSION);
      return EXIT_OK;
    default:
      return EXIT_USAGE; /* getopt has said why */
    }
  }
  return optind < argc ? usage("unexpected argument ", argv[optind]) : -1;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

struct running {
  const struct options *options;
  struct server_conf conf; /* in force */
  struct daemon *daemon_;  /* the drain's once that has begun */
  int64_t drain_deadline_ns;
  int signals, stopped; /* signalfd; eventfd that tells the end of the drain */
  unsigned cancelled;
};

static void log_changed(const char *key, bool reloadable, void *arg) {
  (void)arg;
  if (reloadable)
    log_event(LOG_INFO, "setting changed", LOGF_S("key", key));
  else
    log_event(LOG_WARN, "setting needs a restart", LOGF_S("key", key));
}

static void reload(struct running *r) {
  const struct options *o = r->options;
  struct server_conf next;
  struct err e;

  if (!o->file) {
    log_event(LOG_WARN, "reload refused", LOGF_S("text", "this peer was started without --config FILE"));
    return;
  }
  if (server_conf_load(&next, o->file, o->sets, o->n_sets, &e) < 0) {
    log_event(LOG_ERROR, "reload refused", LOGF_S("text", e.text));
    return;
  }
  uint64_t ram = r->conf.ram_max_bytes;
  server_conf_apply(&r->conf, &next, log_changed, NULL);
  server_conf_fini(&next);
  if (daemon_reload(r->daemon_, &r->conf, &e) < 0) {
    r->conf.ram_max_bytes = ram;
    log_event(LOG_ERROR, "reload incomplete", LOGF_S("text", e.text));
  }
  /* Last, so that what was said above is seen at the level that was in force. */
  log_event(LOG_INFO, "reloaded", LOGF_S("file", o->file));
  log_setup((enum log_level)r->conf.log_level, (enum log_format)r->conf.log_format, STDERR_FILENO);
}

/* The whole end of the daemon, beside the main thread, which goes on looking at signals and at the clock. */
static void *drain(void *arg) {
  struct running *r = arg;
  uint64_t one = 1;

  r->cancelled = daemon_stop(r->daemon_, r->drain_deadline_ns);
  daemon_free(&r->daemon_);
  if (write(r->stopped, &one, sizeof one) < 0)
    log_event(LOG_ERROR, "cannot tell the end of the drain", LOGF_S("text", strerror(errno)));
  return NULL;
}

enum { STOPPED = 0, STUCK = -1 };

/* Waits for the next signal, the end of the drain (STOPPED), or until that should have come (STUCK). */
static int next_event(const struct running *r, bool draining) {
  struct pollfd fds[] = {{.fd = r->stopped, .events = POLLIN}, {.fd = r->signals, .events = POLLIN}};
  struct signalfd_siginfo info;

  for (;;) {
    int64_t left_ms = (r->drain_deadline_ns - clock_mono_ns()) / NS_PER_MS + STOP_GRACE_MS;
    if (draining && left_ms <= 0)
      return STUCK;
    if (poll(fds, 2, draining ? (int)left_ms : -1) < 0)
      continue; /* EINTR, as by a debugger */
    if (fds[0].revents)
      return STOPPED;
    if (fds[1].revents && read(r->signals, &info, sizeof info) == sizeof info)
      return (int)info.ssi_signo;
  }
}

/* Until a signal ends it. Returns the exit code. */
static int serve(struct running *r) {
  pthread_t drainer = 0;
  bool draining = false;

  for (;;) {
    int signal_ = next_event(r, draining);
    if (signal_ == STOPPED) {
      pthread_join(drainer, NULL);
      log_event(LOG_INFO, "stopped", LOGF_U("cancelled_calls", r->cancelled));
      return EXIT_OK;
    }
    if (signal_ == STUCK) {
      /* Clients have had their answer or lost their connection; state on disk is whole at any time. */
      log_event(LOG_WARN, "stopped without waiting for an origin or a peer that does not answer");
      _exit(EXIT_OK);
    }
    if (signal_ == SIGHUP) {
      if (!draining)
        reload(r);
      continue;
    }
    if (draining) {
      log_event(LOG_WARN, "exiting at once", LOGF_S("signal", strsignal(signal_)));
      _exit(EXIT_RUNTIME);
    }
    log_event(LOG_INFO, "draining", LOGF_S("signal", strsignal(signal_)),
              LOGF_U("drain_ms", r->conf.shutdown_drain_ms));
    r->drain_deadline_ns = clock_mono_ns() + (int64_t)r->conf.shutdown_drain_ms * NS_PER_MS;
    int err = pthread_create(&drainer, NULL, drain, r);
    if (err) {
      log_event(LOG_ERROR, "cannot start the drain", LOGF_S("text", strerror(err)));
      return EXIT_RUNTIME;
    }
    draining = true;
  }
}

/* The whole mask is set before the first thread exists: they all inherit it. */
static int take_signals(struct running *r) {
  sigset_t set;

  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  r->signals = signalfd(-1, &set, SFD_CLOEXEC);
  r->stopped = eventfd(0, EFD_CLOEXEC);
  return r->signals < 0 || r->stopped < 0 ? -errno : 0;
}

static void tell_ready(int fd, uint16_t port) {
  char line[32];
  int n = snprintf(line, sizeof line, "ready %u\n", port);

  if (fd < 0)
    return;
  if (write(fd, line, (size_t)n) != n)
    log_event(LOG_WARN, "nobody reads --ready-fd", LOGF_S("text", strerror(errno)));
  if (fd > STDERR_FILENO)
    close(fd);
}

static int run(const struct options *o, struct running *r) {
  struct err e;

  r->options = o;
  log_setup((enum log_level)r->conf.log_level, (enum log_format)r->conf.log_format, STDERR_FILENO);
  int err = take_signals(r);
  if (err < 0) {
    log_event(LOG_ERROR, "cannot take signals", LOGF_S("text", strerror(-err)));
    return EXIT_RUNTIME;
  }
  int started = daemon_start(&r->daemon_, &r->conf, &e);
  if (started < 0) {
    log_event(LOG_ERROR, "cannot start", LOGF_S("code", err_name(started)), LOGF_S("text", e.text));
    return EXIT_RUNTIME;
  }
  log_event(LOG_INFO, "listening", LOGF_S("address", r->conf.peer_listen), LOGF_U("port", daemon_port(r->daemon_)),
            LOGF_S("version", FOREBAY_VERSION), LOGF_I("pid", getpid()));
  tell_ready(o->ready_fd, daemon_port(r->daemon_));
  int code = serve(r);
  daemon_free(&r->daemon_);
  return code;
}

int main(int argc, char **argv) {
  struct options o = {.ready_fd = -1};
  struct running r = {.signals = -1, .stopped = -1};
  struct err e;

  int code = parse_options(argc, argv, &o);
  if (code >= 0)
    return fflush(stdout) == 0 ? code : EXIT_RUNTIME;
  if (server_conf_load(&r.conf, o.file, o.sets, o.n_sets, &e) < 0) {
    fprintf(stderr, "forebayd: %s\n", e.text);
    return EXIT_CONFIG;
  }
  if (o.mode == CHECK_CONFIG)
    printf("%s: good\n", o.file ? o.file : "defaults and --set");
  else if (o.mode == DUMP_CONFIG)
    conf_dump(server_conf_rows, &r.conf, true, stdout);
  else
    code = run(&o, &r);
  if (o.mode != RUN)
    code = fflush(stdout) == 0 ? EXIT_OK : EXIT_RUNTIME;
  if (r.signals >= 0)
    close(r.signals);
  if (r.stopped >= 0)
    close(r.stopped);
  server_conf_fini(&r.conf);
  return code;
}
