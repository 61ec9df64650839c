// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * First process of the test machine: makes the host's tree visible, runs one command, reports, powers off.
 *
 * It is linked statically and started from a small initramfs. What to do stands in /job, a list of
 * NUL-terminated KEY=VALUE entries written by run.sh:
 *	insmod=FILE	load this module from the initramfs (in the order given)
 *	top=DIR		the source tree: visible even where a fresh /tmp would hide it
 *	out=DIR		mount the host's build directory there, writable
 *	modules=DIR	bind this over /lib/modules, so that modprobe works
 *	ko=FILE		load this module before the command and unload it after it
 *	tty=ROWSxCOLS	give the command a terminal instead of pipes
 *	input=1		with tty: pass on what comes in
 *	pause=SECONDS	before the command: the host changes how it emulates
 *	cwd=DIR env=K=V arg=WORD	the command
 *	probe=1		stop after the first report: only shows that this machine boots
 *
 * Output goes over virtio ports named "out" and "err", reports over "result". The kernel log has the serial
 * line for itself. QEMU's exit status says nothing, not even after a panic, so the report is the only verdict.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define ROOT	"/root"
#define PORTS	"/sys/class/virtio-ports"
#define MAX	256

static int result_fd = -1;
static char job[65536];
static size_t job_len;

static void report(const char *fmt, ...)
{
	char line[256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(line))
		n = sizeof(line) - 1;
	if (write(result_fd < 0 ? 2 : result_fd, line, n) != n)
		perror("report");
}

static void power_off(void)
{
	sync();
	reboot(RB_AUTOBOOT);	/* QEMU runs with -no-reboot: this ends it at once */
	for (;;)
		pause();
}

static void fail(const char *what)
{
	report("fail %s: %s\n", what, strerror(errno));
	power_off();
}

/* A line in the kernel log: the host only believes a log that has both of them. */
static void mark(const char *text)
{
	int fd = open("/dev/kmsg", O_WRONLY);
	char line[64];
	int n = snprintf(line, sizeof(line), "<5>upreempt-vm: %s\n", text);

	/* One plain write: each write is a record, and stdio would try to seek. A lost mark shows on the host. */
	(void)!write(fd, line, n);
	close(fd);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	/* A knob that this kernel lacks or refuses is not worth a failure. */
	(void)!write(fd, text, strlen(text));
	close(fd);
}

/* The next entry KEY=... after @from (NULL: the first); returns its value. */
static const char *next(const char *key, const char *from)
{
	const char *p = from ? from + strlen(from) + 1 : job;
	size_t n = strlen(key);

	for (; p < job + job_len; p += strlen(p) + 1)
		if (!strncmp(p, key, n) && p[n] == '=')
			return p + n + 1;
	return NULL;
}

static void read_job(void)
{
	int fd = open("/job", O_RDONLY);
	ssize_t n;

	while (fd >= 0 && (n = read(fd, job + job_len, sizeof(job) - 1 - job_len)) > 0)
		job_len += n;
	if (!job_len)
		fail("job");
	close(fd);
}

static int load(const char *file)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	int ret = fd < 0 ? -1 : (int)syscall(SYS_finit_module, fd, "", 0);
	int err = errno;

	close(fd);
	errno = err;
	return ret && errno != EEXIST ? -1 : 0;
}

/* Ports appear some time after the driver: their names come over a control queue. */
static int open_port(const char *want)
{
	char path[300], name[64];
	struct dirent *d;
	DIR *dir;
	int fd, i;

	for (i = 0; i < 1000; i++, usleep(10000)) {
		dir = opendir(PORTS);
		while (dir && (d = readdir(dir))) {
			ssize_t n = -1;

			snprintf(path, sizeof(path), PORTS "/%s/name", d->d_name);
			fd = open(path, O_RDONLY);
			if (fd >= 0) {
				n = read(fd, name, sizeof(name) - 1);
				close(fd);
			}
			if (n <= 0)
				continue;
			name[n] = 0;
			name[strcspn(name, "\n")] = 0;
			if (strcmp(name, want))
				continue;
			snprintf(path, sizeof(path), "/dev/%s", d->d_name);
			closedir(dir);
			return open(path, O_RDWR | O_CLOEXEC);
		}
		if (dir)
			closedir(dir);
	}
	errno = ENODEV;
	return -1;
}

static void must_mount(const char *from, const char *to, const char *type, unsigned long flags, const char *opt)
{
	if (mount(from, to, type, flags, opt))
		fail(to);
}

static void may_mount(const char *from, const char *to, const char *type)
{
	mkdir(to, 0755);
	(void)mount(from, to, type, 0, NULL);
}

static void make_path(char *path)
{
	char *p;

	for (p = path + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = 0;
		mkdir(path, 0755);
	}
	mkdir(path, 0755);
}

/* The mounts that cover parts of the host's tree; a source tree below one of them is carried over. */
static void cover(void)
{
	const char *top = next("top", NULL);
	char path[4096];

	mkdir("/tree", 0755);
	snprintf(path, sizeof(path), ROOT "%s", top);
	must_mount(path, "/tree", NULL, MS_BIND, NULL);
	must_mount("dev", ROOT "/dev", "devtmpfs", 0, "mode=755");
	must_mount("proc", ROOT "/proc", "proc", 0, NULL);
	must_mount("sys", ROOT "/sys", "sysfs", 0, NULL);
	must_mount("tmp", ROOT "/tmp", "tmpfs", 0, "mode=1777");
	must_mount("run", ROOT "/run", "tmpfs", 0, "mode=755");
	if (!access(path, F_OK))
		return;
	make_path(path);
	must_mount("/tree", path, NULL, MS_BIND, NULL);
}

static void enter_host_tree(void)
{
	static const char p9[] = "trans=virtio,version=9p2000.L,msize=512000";
	const char *out = next("out", NULL), *modules = next("modules", NULL);
	char path[4096], opt[128];

	mkdir(ROOT, 0755);
	snprintf(opt, sizeof(opt), "%s,cache=loose", p9);
	must_mount("root", ROOT, "9p", MS_RDONLY, opt);
	cover();
	snprintf(path, sizeof(path), ROOT "%s", out);
	/* Not cached: the host looks at results while the guest runs. cache=mmap allows shared mappings. */
	snprintf(opt, sizeof(opt), "%s,cache=mmap", p9);
	must_mount("out", path, "9p", 0, opt);
	if (modules && mount(modules, ROOT "/lib/modules", NULL, MS_BIND, NULL)) {
		snprintf(path, sizeof(path), ROOT "%s", modules);
		(void)mount(path, ROOT "/lib/modules", NULL, MS_BIND, NULL);
	}
	if (chroot(ROOT) || chdir("/"))
		fail("chroot");

	mkdir("/dev/pts", 0755);
	mkdir("/dev/shm", 01777);
	must_mount("pts", "/dev/pts", "devpts", 0, "ptmxmode=666,mode=620");
	may_mount("shm", "/dev/shm", "tmpfs");
	may_mount("debugfs", "/sys/kernel/debug", "debugfs");
	may_mount("tracefs", "/sys/kernel/tracing", "tracefs");
	may_mount("bpf", "/sys/fs/bpf", "bpf");
	may_mount("cgroup2", "/sys/fs/cgroup", "cgroup2");
	(void)!symlink("/proc/self/fd", "/dev/fd");
	(void)!symlink("/proc/self/fd/0", "/dev/stdin");
	(void)!symlink("/proc/self/fd/1", "/dev/stdout");
	(void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

static void set_up_machine(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	struct rlimit core = { 0, RLIM_INFINITY }, all = { RLIM_INFINITY, RLIM_INFINITY };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	ioctl(s, SIOCSIFFLAGS, &ifr);
	close(s);
	(void)!sethostname("upreempt-vm", 11);
	setrlimit(RLIMIT_CORE, &core);
	setrlimit(RLIMIT_MEMLOCK, &all);
	put("/proc/sys/kernel/core_pattern", "core");
	put("/proc/sys/kernel/yama/ptrace_scope", "0");
	put("/proc/sys/kernel/printk", "8");
	/* Emulated CPUs share a busy host: what looks like a lock-up after 20 s is often only a slow machine. */
	put("/proc/sys/kernel/watchdog_thresh", "30");
}

static pid_t start(int in, int out, int err, int tty)
{
	const char *v, *argv[MAX] = { NULL };
	sigset_t none;
	int n = 0;
	pid_t pid = fork();

	if (pid)
		return pid;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (tty)
		ioctl(in, TIOCSCTTY, 0);
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/tmp", 1);
	for (v = next("env", NULL); v; v = next("env", v))
		putenv((char *)v);
	for (v = next("arg", NULL); v && n < MAX - 1; v = next("arg", v))
		argv[n++] = v;
	v = next("cwd", NULL);
	if (v && chdir(v))
		fprintf(stderr, "vm: %s: %s\n", v, strerror(errno));
	execvp(argv[0], (char **)argv);
	fprintf(stderr, "vm: %s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* Move what is there; returns false at the end of the stream. */
static int forward(int from, int to)
{
	char buf[65536], *p = buf;
	ssize_t n = read(from, buf, sizeof(buf)), w;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	while (n > 0 && (w = write(to, p, n)) > 0) {
		p += w;
		n -= w;
	}
	return p > buf;
}

/* Wait for @child while its output flows; then end whatever it left behind. Returns its wait status. */
static int supervise(pid_t child, struct pollfd *p, int n, const int *to, const sigset_t *chld)
{
	int sfd = signalfd(-1, chld, SFD_CLOEXEC | SFD_NONBLOCK), status = -1, st, i, open_ends = 2;
	struct signalfd_siginfo si;
	pid_t pid;

	p[n] = (struct pollfd){ .fd = sfd, .events = POLLIN };
	while (open_ends > 0) {
		poll(p, n + 1, -1);
		for (i = 0; i < n; i++) {
			if (!p[i].revents || forward(p[i].fd, to[i]))
				continue;
			p[i].fd = -1;
			if (i < 2)
				open_ends--;
		}
		if (!p[n].revents)
			continue;
		(void)!read(sfd, &si, sizeof(si));
		while ((pid = waitpid(-1, &st, WNOHANG)) > 0) {
			if (pid != child)
				continue;
			status = st;
			kill(-1, SIGKILL);	/* closes the other ends: the pipes then run dry */
		}
	}
	while ((pid = waitpid(-1, &st, 0)) > 0)
		if (pid == child)
			status = st;
	close(sfd);
	return status;
}

static int run_piped(const int *port, const sigset_t *chld)
{
	struct pollfd p[3];
	int out[2], err[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		fail("pipe");
	pid = start(null, out[1], err[1], 0);
	close(out[1]);
	close(err[1]);
	p[0] = (struct pollfd){ .fd = out[0], .events = POLLIN };
	p[1] = (struct pollfd){ .fd = err[0], .events = POLLIN };
	return supervise(pid, p, 2, port, chld);
}

static int run_on_tty(const int *port, const char *size, const sigset_t *chld)
{
	struct winsize ws;
	struct pollfd p[4];
	int master, slave, to[3] = { port[0], port[1], -1 }, err[2], n = 2;
	struct termios t;
	pid_t pid;

	if (sscanf(size, "%hux%hu", &ws.ws_row, &ws.ws_col) != 2 || !ws.ws_row || !ws.ws_col)
		ws = (struct winsize){ .ws_row = 24, .ws_col = 80 };
	if (openpty(&master, &slave, NULL, NULL, &ws) || pipe2(err, O_CLOEXEC))
		fail("pty");
	fcntl(master, F_SETFD, FD_CLOEXEC);
	if (next("input", NULL)) {
		p[2] = (struct pollfd){ .fd = port[0], .events = POLLIN };
		to[2] = master;
		n = 3;
	} else {
		/* The terminal at the host end translates line ends itself. */
		tcgetattr(slave, &t);
		t.c_oflag &= ~OPOST;
		tcsetattr(slave, TCSANOW, &t);
	}
	pid = start(slave, slave, slave, 1);
	close(slave);
	close(err[1]);
	p[0] = (struct pollfd){ .fd = master, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = err[0], .events = POLLIN };
	return supervise(pid, p, n, to, chld);
}

/* Threads that were killed a moment ago may still hold the module: give their exit two seconds. */
static void unload(const char *name)
{
	int i, ret = -1;

	for (i = 0; i < 200; i++, usleep(10000)) {
		ret = syscall(SYS_delete_module, name, O_NONBLOCK);
		if (!ret || (errno != EAGAIN && errno != EBUSY))
			break;
	}
	if (!ret || errno == ENOENT)
		report("rmmod ok\n");
	else
		report("rmmod %s\n", strerror(errno));
}

static void run_job(void)
{
	const char *ko = next("ko", NULL), *tty = next("tty", NULL);
	int port[2] = { open_port("out"), open_port("err") }, status;
	sigset_t chld;

	if (port[0] < 0 || port[1] < 0)
		fail("output ports");
	enter_host_tree();
	set_up_machine();
	mark("start");
	if (ko && load(ko))
		fail(ko);

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	report("start\n");
	if (next("pause", NULL))
		sleep(atoi(next("pause", NULL)));
	status = tty ? run_on_tty(port, tty, &chld) : run_piped(port, &chld);
	report("exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	if (ko)
		unload("upreempt");
	mark("done");
}

/*
 * QEMU may leave a stale int3 where the kernel has patched code: a CPU that comes by dies of it.
 * __schedule() is patched when the last program's perf event is closed, a second later, in the
 * middle of whatever runs then. With one event that stays open, a disabled one, it never is.
 */
static void keep_the_scheduler_unpatched(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY, .disabled = 1,
	};

	syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

int main(void)
{
	const char *v;

	mkdir("/dev", 0755);
	mkdir("/sys", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	read_job();
	for (v = next("insmod", NULL); v; v = next("insmod", v))
		if (load(v))
			fail(v);
	result_fd = open_port("result");
	if (result_fd < 0)
		fail("result port");
	keep_the_scheduler_unpatched();
	report("up\n");
	if (!next("probe", NULL))
		run_job();
	report("end\n");
	/* The last bytes must have left the port before the machine goes away. */
	fsync(result_fd);
	usleep(50000);
	power_off();
}
