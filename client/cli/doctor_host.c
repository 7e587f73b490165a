/* doctor_host.c - what this machine offers to a peer: its port, limits, io_uring, memory, disk. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/cli/doctor.h"
#include "client/cli/out.h"

#define NOFILE_CLIENT 1024
#define NOFILE_RESERVE 512 /* origin files, logs, gRPC's own */
#define MEMLOCK_WANTED (UINT64_C(8) << 20)
#define SPACE_WANTED (UINT64_C(1) << 30)

/* ---- the listen port ---- */

/* Inode of a socket that listens on `port`, 0 = none. */
static uint64_t listener_inode(unsigned port) {
  static const char *const tables[] = {"/proc/net/tcp", "/proc/net/tcp6"};
  uint64_t found = 0;
  char line[512];

  for (size_t i = 0; i < 2 && !found; i++) {
    FILE *f = fopen(tables[i], "re");
    if (!f)
      continue;
    while (!found && fgets(line, sizeof line, f)) {
      unsigned local, state;
      uint64_t inode;
      /* sl local:port remote:port state tx:rx tr:when retrnsmt uid timeout inode */
      if (sscanf(line, " %*u: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*x:%*x %*x:%*x %*x %*u %*u %" SCNu64, &local,
                 &state, &inode) == 3 &&
          local == port && state == 0x0a)
        found = inode;
    }
    fclose(f);
  }
  return found;
}

static bool holds_socket(const char *pid, const char *socket) {
  char path[300], link[64];
  bool found = false;

  snprintf(path, sizeof path, "/proc/%.20s/fd", pid);
  DIR *dir = opendir(path);
  if (!dir)
    return false;
  for (struct dirent *e; !found && (e = readdir(dir));) {
    ssize_t n = readlinkat(dirfd(dir), e->d_name, link, sizeof link - 1);
    if (n > 0) {
      link[n] = '\0';
      found = strcmp(link, socket) == 0;
    }
  }
  closedir(dir);
  return found;
}

/* The process that holds the socket, with its name; 0 when it cannot be seen (another user's). */
static pid_t socket_owner(uint64_t inode, char *name, size_t cap) {
  char socket[40], path[300];
  pid_t pid = 0;
  DIR *dir = opendir("/proc");

  snprintf(socket, sizeof socket, "socket:[%" PRIu64 "]", inode);
  for (struct dirent *e; dir && !pid && (e = readdir(dir));) {
    if (e->d_name[0] < '1' || e->d_name[0] > '9' || !holds_socket(e->d_name, socket))
      continue;
    pid = (pid_t)strtol(e->d_name, NULL, 10);
    snprintf(path, sizeof path, "/proc/%.20s/comm", e->d_name);
    FILE *f = fopen(path, "re");
    if (!f || !fgets(name, (int)cap, f))
      snprintf(name, cap, "?");
    name[strcspn(name, "\n")] = '\0';
    if (f)
      fclose(f);
  }
  if (dir)
    closedir(dir);
  return pid;
}

/* 0 when the address could be bound, else a negative errno. The socket never listens. */
static int try_bind(const char *host, const char *port) {
  struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *list;
  int one = 1, rc = -EADDRNOTAVAIL;

  if (getaddrinfo(*host ? host : NULL, port, &hints, &list) != 0)
    return -EADDRNOTAVAIL;
  for (struct addrinfo *a = list; a; a = a->ai_next) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
      continue;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    rc = bind(fd, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
    close(fd);
    break;
  }
  freeaddrinfo(list);
  return rc;
}

static void check_port(struct doctor *d) {
  char host[300], name[64] = "";
  const char *listen = d->daemon.listen;
  const char *colon = strrchr(listen, ':');

  if (!d->daemon.configured || !colon)
    return;
  size_t n = (size_t)(colon - listen);
  bool brackets = n >= 2 && listen[0] == '[' && listen[n - 1] == ']';
  snprintf(host, sizeof host, "%.*s", (int)(n - 2 * brackets), listen + brackets);
  unsigned port = (unsigned)strtoul(colon + 1, NULL, 10);
  if (port == 0) {
    doctor_say(d, DOCTOR_OK, "port", NULL, "%s takes a free port", listen);
    return;
  }
  int rc = try_bind(host, colon + 1);
  if (rc == 0) {
    doctor_say(d, DOCTOR_OK, "port", NULL, "%s is free: forebayd is not running", listen);
  } else if (rc == -EADDRINUSE) {
    uint64_t inode = listener_inode(port);
    pid_t pid = inode ? socket_owner(inode, name, sizeof name) : 0;
    if (pid && strcmp(name, "forebayd") == 0) {
      d->daemon.pid = pid;
      doctor_say(d, DOCTOR_OK, "port", NULL, "forebayd (process %d) listens on %s", (int)pid, listen);
    } else if (pid) {
      doctor_say(d, DOCTOR_FAIL, "port", "end that program, or set another peer.listen",
                 "%s is taken by %s (process %d)", listen, name, (int)pid);
    } else {
      doctor_say(d, DOCTOR_WARN, "port", "run doctor as root to see whose it is",
                 "%s is in use by a process of another user", listen);
    }
  } else if (rc == -EACCES) {
    doctor_say(d, DOCTOR_WARN, "port", "run doctor as the user that forebayd runs as", "%s: this user may not bind it",
               listen);
  } else {
    doctor_say(d, DOCTOR_FAIL, "port", "set peer.listen to an address of this machine", "%s: %s", listen,
               strerror(-rc));
  }
}

/* ---- limits ---- */

/* A soft limit of the running daemon, else of this process. */
static uint64_t soft_limit(const struct doctor *d, int resource, const char *name, const char **ret_whose) {
  struct rlimit r;

  if (d->daemon.pid && prlimit(d->daemon.pid, (enum __rlimit_resource)resource, NULL, &r) == 0) {
    *ret_whose = "of forebayd";
    return r.rlim_cur;
  }
  char path[64], line[256], value[32];
  snprintf(path, sizeof path, "/proc/%d/limits", (int)d->daemon.pid);
  FILE *f = d->daemon.pid ? fopen(path, "re") : NULL;
  while (f && fgets(line, sizeof line, f))
    if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), " %31s", value) == 1) {
      fclose(f);
      *ret_whose = "of forebayd";
      return strcmp(value, "unlimited") == 0 ? RLIM_INFINITY : strtoull(value, NULL, 10);
    }
  if (f)
    fclose(f);
  *ret_whose = "of this shell";
  return getrlimit((__rlimit_resource_t)resource, &r) == 0 ? r.rlim_cur : RLIM_INFINITY;
}

static void check_limits(struct doctor *d) {
  const char *whose;
  uint64_t files = soft_limit(d, RLIMIT_NOFILE, "Max open files", &whose);
  uint64_t need = d->daemon.max_connections ? 2 * d->daemon.max_connections + NOFILE_RESERVE : NOFILE_CLIENT;
  char have[OUT_BYTES_CAP];

  if (files == RLIM_INFINITY || files >= need)
    doctor_say(d, DOCTOR_OK, "limits", NULL, "%" PRIu64 " open files %s, %" PRIu64 " are enough", files, whose, need);
  else if (d->daemon.pid)
    doctor_say(d, DOCTOR_FAIL, "limits", "raise LimitNOFILE= of the service, or lower rpc.max_connections",
               "%" PRIu64 " open files %s; rpc.max_connections wants %" PRIu64, files, whose, need);
  else
    doctor_say(d, DOCTOR_WARN, "limits", "start forebayd with a higher limit (ulimit -n, LimitNOFILE=)",
               "%" PRIu64 " open files %s; %" PRIu64 " are wanted", files, whose, need);

  uint64_t locked = soft_limit(d, RLIMIT_MEMLOCK, "Max locked memory", &whose);
  if (locked == RLIM_INFINITY || locked >= MEMLOCK_WANTED)
    doctor_say(d, DOCTOR_OK, "limits", NULL, "locked memory %s: %s", whose,
               locked == RLIM_INFINITY ? "unlimited" : out_bytes(have, locked));
  else
    doctor_say(d, DOCTOR_WARN, "limits", "raise it (ulimit -l, LimitMEMLOCK=): io_uring registers buffers",
               "locked memory %s: %s", whose, out_bytes(have, locked));
}

static void check_io_uring(struct doctor *d) {
  struct io_uring_params p = {0};
  long fd = syscall(SYS_io_uring_setup, 2, &p);

  if (fd >= 0) {
    close((int)fd);
    doctor_say(d, DOCTOR_OK, "io_uring", NULL, "allowed");
  } else {
    int code = errno;
    doctor_say(d, DOCTOR_WARN, "io_uring",
               code == ENOSYS
                   ? "none needed: threads are used instead, slower"
                   : "allow io_uring_setup (seccomp profile of the container, sysctl kernel.io_uring_disabled); "
                     "until then threads are used, slower",
               "denied here: %s", strerror(code));
  }
}

static void check_memory(struct doctor *d) {
  uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
  char want[OUT_BYTES_CAP], have[OUT_BYTES_CAP];

  if (!d->daemon.ram_max_bytes)
    return;
  out_bytes(want, d->daemon.ram_max_bytes);
  out_bytes(have, total);
  if (d->daemon.ram_max_bytes > total)
    doctor_say(d, DOCTOR_FAIL, "memory", "lower ram.max_bytes", "ram.max_bytes is %s, the machine has %s", want, have);
  else if (d->daemon.ram_max_bytes > total / 10 * 9)
    doctor_say(d, DOCTOR_WARN, "memory", "leave a tenth to the system and the job",
               "ram.max_bytes is %s of the machine's %s", want, have);
  else
    doctor_say(d, DOCTOR_OK, "memory", NULL, "ram.max_bytes is %s of the machine's %s", want, have);
}

void doctor_space(struct doctor *d, const char *what, const char *path, bool written) {
  struct statvfs s;
  char avail[OUT_BYTES_CAP];

  if (statvfs(path, &s) < 0) {
    doctor_say(d, DOCTOR_WARN, "space", "mount it here if this machine shall use it", "%s %s: %s", what, path,
               strerror(errno));
    return;
  }
  uint64_t bytes = (uint64_t)s.f_bavail * s.f_frsize;
  bool low = bytes < SPACE_WANTED || (s.f_files && s.f_favail == 0);
  out_bytes(avail, bytes);
  if (written && low)
    doctor_say(d, DOCTOR_WARN, "space", "make room: puts will fail with ENOSPC", "%s %s: %s free", what, path, avail);
  else
    doctor_say(d, DOCTOR_OK, "space", NULL, "%s %s: %s free", what, path, avail);
}

void doctor_host(struct doctor *d) {
  check_port(d);
  check_limits(d);
  check_io_uring(d);
  check_memory(d);
  if (d->daemon.configured && *d->daemon.state_dir)
    doctor_space(d, "state directory", d->daemon.state_dir, true);
}
