/* cmd_doctor.c - `forebay doctor`: the order of the checks, and how they are told. */
#include <stdarg.h>

#include "client/cli/commands.h"
#include "client/cli/doctor.h"
#include "client/cli/out.h"

void doctor_say(struct doctor *d, enum doctor_status s, const char *check, const char *todo, const char *fmt, ...) {
  static const char *const names[] = {"ok", "warn", "fail"};
  char detail[1024];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(detail, sizeof detail, fmt, ap);
  va_end(ap);
  d->counts[s]++;
  if (d->cli->json) {
    struct json *j = &d->cli->out;
    json_object(j, NULL);
    json_string(j, "status", names[s]);
    json_string(j, "check", check);
    json_string(j, "detail", detail);
    if (todo)
      json_string(j, "todo", todo);
    json_end(j);
    return;
  }
  if (d->cli->quiet && s == DOCTOR_OK)
    return;
  printf("%-4s  %-9s  ", names[s], check);
  out_text(stdout, detail);
  if (todo)
    printf("  -> %s", todo);
  putchar('\n');
  fflush(stdout); /* the next check may take seconds */
}

static int run_doctor(struct cli *cli, const struct args *a) {
  struct doctor d = {.cli = cli};

  if (cli->json) {
    json_object(&cli->out, NULL);
    json_array(&cli->out, "checks");
  }
  doctor_config(&d, args_text(a, "forebayd", NULL), args_text(a, "daemon-config", NULL));
  doctor_host(&d);
  doctor_cluster(&d);
  if (cli->json) {
    json_end(&cli->out);
    json_uint(&cli->out, "ok", d.counts[DOCTOR_OK]);
    json_uint(&cli->out, "warn", d.counts[DOCTOR_WARN]);
    json_uint(&cli->out, "fail", d.counts[DOCTOR_FAIL]);
  } else {
    printf("%u ok, %u warnings, %u failures\n", d.counts[DOCTOR_OK], d.counts[DOCTOR_WARN], d.counts[DOCTOR_FAIL]);
  }
  return d.counts[DOCTOR_FAIL] ? CLI_FAILED : CLI_OK;
}

static const struct arg_row doctor_rows[] = {
    {"daemon-config", 0, ARG_STRING, "FILE", 1, 0, NULL,
     "configuration of this machine's forebayd; default: /etc/forebay/forebayd.yaml if it is there"},
    {"forebayd", 0, ARG_STRING, "PATH", 1, 0, NULL,
     "program that checks it; default: the one beside this program, else the one in $PATH"},
    {0},
};

const struct command cmd_doctor = {
    .name = "doctor",
    .words = "",
    .summary = "check this machine and the cluster",
    .details = "Checks configuration, ports, limits, io_uring, memory, free space, peers, ring and clocks. Each line "
               "is ok, warn "
               "or fail, the check, what was found, and after an arrow what to do. Exits with 1 if a check failed; "
               "warnings do "
               "not count. With --quiet only what is not ok.\n",
    .rows = doctor_rows,
    .run = run_doctor,
};
