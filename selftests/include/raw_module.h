/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* Loading and unloading the module from a test, and switching CPUs off and on. */
#ifndef SELFTESTS_RAW_MODULE_H
#define SELFTESTS_RAW_MODULE_H

#include "raw.h"

/*
 * The file of the module that is loaded now: UPREEMPT_KO, or in the test machine the build
 * for its kernel, of the same kind (with or without inject points). NULL when not known.
 */
RAW_FN const char *raw_module_file(void)
{
	static char path[512];
	const char *ko = getenv("UPREEMPT_KO"), *out = getenv("OUT");
	const char *series = getenv("UPREEMPT_VM");

	if (ko)
		return ko;
	if (!out || !series)
		return NULL;
	snprintf(path, sizeof(path), "%s/kmod/%s/%supreempt.ko", out, series,
		 access("/sys/module/upreempt/parameters/guards", F_OK) ? "" : "inject/");
	return access(path, R_OK) ? NULL : path;
}

/* -EWOULDBLOCK: it is in use */
RAW_FN int raw_module_unload(void)
{
	return syscall(SYS_delete_module, "upreempt", O_NONBLOCK) ? -errno : 0;
}

/* With parameters */
RAW_FN int raw_module_load_with(const char *path, const char *params)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (syscall(SYS_finit_module, fd, params, 0) && errno != EEXIST)
		ret = -errno;
	close(fd);
	/* the device node comes with devtmpfs, a moment later */
	if (!ret && !RAW_UNTIL(!access(UPREEMPT_DEVICE, R_OK | W_OK)))
		ret = -ENODEV;
	return ret;
}

RAW_FN int raw_module_load(const char *path)
{
	return raw_module_load_with(path, "");
}

RAW_FN int raw_cpu_online(int cpu, bool online)
{
	char path[80];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, online ? "1" : "0", 1) != 1)
		ret = -errno;
	close(fd);
	return ret;
}

/*
 * A thread: CPU 1 goes off line and comes back until *arg is not 0. Returns how often, -1 when
 * that failed.
 */
RAW_FN void *raw_cpu1_cycle(void *arg)
{
	volatile int *stop = arg;
	long cycles = 0;

	while (!*stop) {
		if (raw_cpu_online(1, false) || raw_cpu_online(1, true))
			return (void *)-1L;
		cycles++;
	}
	return (void *)cycles;
}

#endif /* SELFTESTS_RAW_MODULE_H */
