/* doctor_daemon.c - lets forebayd judge its own configuration: it alone knows the keys and their ranges. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/doctor.h"

#define DEFAULT_CONFIG "/etc/forebay/forebayd.yaml"
#define RUN_MS 5000
#define OUTPUT_MAX (256u << 10)

static int64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Reads until the end, the deadline or a full buffer. */
static void read_all(int fd, char *buf, size_t cap, int64_t deadline_ms) {
  size_t len = 0;

  while (len + 1 < cap) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t left = deadline_ms - now_ms();
    if (left <= 0 || poll(&p, 1, (int)left) <= 0)
      break;
    ssize_t n = read(fd, buf + len, cap - 1 - len);
    if (n <= 0)
      break;
    len += (size_t)n;
  }
  buf[len] = '\0';
}

/* Runs a program and collects stdout and stderr. Its exit status, or a negative errno: -ETIMEDOUT when it had to be
 * killed, -ENOENT when it is not there. */
static int run(char *const argv[], char *buf, size_t cap) {
  posix_spawn_file_actions_t actions;
  int64_t deadline_ms = now_ms() + RUN_MS;
  int pipes[2], status = 0;
  pid_t pid;

  if (pipe2(pipes, O_CLOEXEC) < 0)
    return -errno;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, pipes[1], STDERR_FILENO);
  int rc = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pipes[1]);
  if (rc != 0) {
    close(pipes[0]);
    return -rc;
  }
  read_all(pipes[0], buf, cap, deadline_ms);
  close(pipes[0]);
  for (;;) {
    pid_t got = waitpid(pid, &status, WNOHANG);
    if (got == pid)
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (got < 0 && errno != EINTR)
      return -errno;
    if (now_ms() >= deadline_ms) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      return -ETIMEDOUT;
    }
    poll(NULL, 0, 10); /* its output is closed: it is about to end */
  }
}

/* Finds "section.key" in the YAML that --dump-config writes: sections at the left margin, their keys indented. Values
 * may be quoted. This reads our own writer's form, not any YAML. */
static bool dumped(const char *yaml, const char *section, const char *key, char *ret, size_t cap) {
  bool inside = false;

  while (*yaml) {
    size_t n = strcspn(yaml, "\n");
    const char *line = yaml, *end = yaml + n;
    yaml = end + (*end == '\n');
    if (n == 0 || *line == '#')
      continue;
    if (*line != ' ') {
      size_t s = strlen(section);
      inside = n > s && strncmp(line, section, s) == 0 && line[s] == ':';
      continue;
    }
    while (line < end && *line == ' ')
      line++;
    size_t k = strlen(key);
    if (!inside || (size_t)(end - line) <= k || strncmp(line, key, k) != 0 || line[k] != ':')
      continue;
    line += k + 1;
    while (line < end && (*line == ' ' || *line == '"' || *line == '\''))
      line++;
    const char *stop = line;
    while (stop < end && *stop != '"' && *stop != '\'' && *stop != ' ')
      stop++;
    snprintf(ret, cap, "%.*s", (int)(stop - line), line);
    return true;
  }
  return false;
}

static uint64_t bytes_of(const char *text) {
  static const char units[] = "KMGT";
  char *end;
  unsigned long long n = strtoull(text, &end, 10);
  const char *unit = *end ? strchr(units, *end) : NULL;

  return unit ? (uint64_t)n << (10 * (unit - units + 1)) : n;
}

static void take_dump(struct doctor *d, const char *yaml) {
  char text[64];

  if (!dumped(yaml, "peer", "listen", d->daemon.listen, sizeof d->daemon.listen))
    return;
  d->daemon.configured = true;
  dumped(yaml, "peer", "state_dir", d->daemon.state_dir, sizeof d->daemon.state_dir);
  if (dumped(yaml, "ram", "max_bytes", text, sizeof text))
    d->daemon.ram_max_bytes = bytes_of(text);
  if (dumped(yaml, "rpc", "max_connections", text, sizeof text))
    d->daemon.max_connections = strtoull(text, NULL, 10);
}

static void find_forebayd(char *buf, size_t cap) {
  ssize_t n = readlink("/proc/self/exe", buf, cap - 1);

  if (n > 0) {
    buf[n] = '\0';
    char *slash = strrchr(buf, '/');
    if (slash && (size_t)(slash + 1 - buf) + sizeof "forebayd" <= cap) {
      strcpy(slash + 1, "forebayd");
      if (access(buf, X_OK) == 0)
        return;
    }
  }
  snprintf(buf, cap, "forebayd");
}

void doctor_config(struct doctor *d, const char *forebayd, const char *config) {
  char path[PATH_MAX], *output;

  if (!config && access(DEFAULT_CONFIG, F_OK) < 0) {
    doctor_say(d, DOCTOR_OK, "config", NULL, "no %s here: this machine is a client only", DEFAULT_CONFIG);
    return;
  }
  config = config ? config : DEFAULT_CONFIG;
  if (forebayd)
    snprintf(path, sizeof path, "%s", forebayd);
  else
    find_forebayd(path, sizeof path);
  if (!(output = malloc(OUTPUT_MAX)))
    return;
  int rc = run((char *[]){path, "--check-config", (char *)config, NULL}, output, OUTPUT_MAX);
  output[strcspn(output, "\n")] = '\0'; /* the first line names file, line and key */
  if (rc == 0) {
    doctor_say(d, DOCTOR_OK, "config", NULL, "%s is accepted by %s", config, path);
    if (run((char *[]){path, "--config", (char *)config, "--dump-config", NULL}, output, OUTPUT_MAX) == 0)
      take_dump(d, output);
  } else if (rc == -ENOENT || rc == -EACCES) {
    doctor_say(d, DOCTOR_WARN, "config", "install forebayd, or name it with --forebayd PATH",
               "%s was not checked: cannot run %s: %s", config, path, strerror(-rc));
  } else if (rc < 0) {
    doctor_say(d, DOCTOR_FAIL, "config", "run forebayd --check-config by hand", "%s --check-config %s: %s", path,
               config, strerror(-rc));
  } else {
    doctor_say(d, DOCTOR_FAIL, "config", "correct the file as it says", "%s", *output ? output : "forebayd refused it");
  }
  free(output);
}
