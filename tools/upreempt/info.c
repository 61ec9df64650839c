// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* upreempt info: what this machine offers. */
#include "cmd.h"
#include "out.h"

#include <cpuid.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <upreempt/upreempt.h>

static const char usage[] =
	"usage: upreempt info [--json]\n"
	"\n"
	"Says which backend programs get here and why, what the module can do, and what\n"
	"else matters: the device's permissions, limits, extended state, BTF.\n"
	"\n"
	"Examples:\n"
	"  upreempt info\n"
	"  UPREEMPT_BACKEND=signal upreempt info    as a program started so would see it\n"
	"  upreempt info --json | jq -r .backend.chosen\n";

struct bit_name {
	unsigned int bit;
	const char *name;
};

static size_t bit_names(uint64_t bits, const struct bit_name *names, size_t n, const char **v)
{
	size_t i, k = 0;

	for (i = 0; i < n; i++)
		if (bits >> names[i].bit & 1)
			v[k++] = names[i].name;
	return k;
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ---- machine ------------------------------------------------------------- */

/* The hypervisor's name from CPUID, "" on bare metal */
void machine_hypervisor(char *name, size_t size)
{
	static const struct { const char *id, *name; } known[] = {
		{ "KVMKVMKVM", "KVM" }, { "TCGTCGTCGTCG", "QEMU emulation (TCG)" },
		{ "VMwareVMware", "VMware" }, { "Microsoft Hv", "Hyper-V" },
		{ "XenVMMXenVMM", "Xen" }, { "ACRNACRNACRN", "ACRN" },
	};
	unsigned int a, b, c, d;
	char id[13] = "";
	size_t i;

	*name = 0;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1U << 31)))
		return;
	__cpuid(0x40000000, a, b, c, d);
	memcpy(id, &b, 4);
	memcpy(id + 4, &c, 4);
	memcpy(id + 8, &d, 4);
	snprintf(name, size, "%s", *id ? id : "unknown hypervisor");
	for (i = 0; i < COUNT(known); i++)
		if (!strcmp(id, known[i].id))
			snprintf(name, size, "%s", known[i].name);
}

static void cpu_model(char *name, size_t size)
{
	unsigned int r[12], i;
	char brand[49] = "";

	for (i = 0; i < 3; i++)
		if (!__get_cpuid(0x80000002 + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2],
				 &r[4 * i + 3]))
			memset(&r[4 * i], 0, 16);
	memcpy(brand, r, 48);
	snprintf(name, size, "%s", brand + strspn(brand, " "));
	for (i = strlen(name); i && name[i - 1] == ' '; i--)
		name[i - 1] = 0;
}

static void show_machine(const struct upreempt_info *info)
{
	static const struct bit_name xfeatures[] = {
		{ 0, "x87" }, { 1, "SSE" }, { 2, "AVX" }, { 5, "AVX-512-mask" },
		{ 6, "AVX-512-ZMM-high" }, { 7, "AVX-512-ZMM16-31" }, { 9, "PKRU" },
		{ 11, "CET-user" }, { 17, "AMX-config" }, { 18, "AMX-tiles" },
	};
	const char *names[COUNT(xfeatures)];
	char hv[64], model[64];
	struct utsname u;

	uname(&u);
	machine_hypervisor(hv, sizeof(hv));
	cpu_model(model, sizeof(model));
	out_section("machine", "Machine");
	out_str("kernel", "kernel", "%s", u.release);
	out_str("arch", NULL, "%s", u.machine);
	out_str("cpu", "processor", "%s", *model ? model : "unknown");
	out_u64("cpus", "CPUs", sysconf(_SC_NPROCESSORS_ONLN));
	out_bool("virtual", NULL, *hv, NULL, NULL);
	out_str("hypervisor", "runs on", "%s", *hv ? hv : "bare metal");
	out_list("xfeatures", "extended state", names,
		 bit_names(info->xfeatures, xfeatures, COUNT(xfeatures), names));
	out_u64("xsave_bytes", NULL, info->xsave_size);
	out_str(NULL, "saved at landing", "up to %u bytes of the thread's stack", info->xsave_size);
	out_bool("shadow_stack", "shadow stack", info->shadow_stack,
		 "on: threads resume through the kernel", "off: threads resume without a system call");
	out_bool("kernel_btf", "kernel BTF", !access("/sys/kernel/btf/vmlinux", R_OK),
		 "yes: upreempt latency works for signals", "no: upreempt latency uses classic tracepoints");
	out_section_end();
}

/* ---- module -------------------------------------------------------------- */

static void device_line(char *line, size_t size, bool *usable)
{
	struct stat st;
	const struct passwd *pw;
	const struct group *gr;

	*usable = false;
	if (stat(UPREEMPT_DEVICE, &st)) {
		snprintf(line, size, errno == ENOENT ? "absent" : "%s", strerror(errno));
		return;
	}
	if (!S_ISCHR(st.st_mode)) {
		snprintf(line, size, "not a character device");
		return;
	}
	*usable = !access(UPREEMPT_DEVICE, R_OK | W_OK);
	pw = getpwuid(st.st_uid);
	gr = getgrgid(st.st_gid);
	snprintf(line, size, "mode %04o, %s:%s, %s", st.st_mode & 07777, pw ? pw->pw_name : "?",
		 gr ? gr->gr_name : "?",
		 *usable ? "this user may open it" : "this user may not open it");
}

static void show_module(const struct upreempt_info *info)
{
	static const struct bit_name features[] = {
		{ 0, "SAMPLE" }, { 1, "STOP" }, { 2, "REDIRECT" }, { 3, "RESUME" },
		{ 4, "RING" }, { 5, "RSEQ" }, { 6, "BTF" }, { 7, "INJECT" },
		{ 8, "WORLD" }, { 9, "GRACE" }, { 10, "XSTATE" }, { 11, "TABLE" },
		{ 12, "STEP" }, { 13, "RETURN" },
	};
	const char *names[COUNT(features)];
	char line[160], version[64] = "";
	bool usable;

	out_section("module", "Module");
	out_bool("loaded", "loaded", module_loaded(), "yes",
		 "no: insmod upreempt.ko (programs use the signal backend meanwhile)");
	device_line(line, sizeof(line), &usable);
	out_str("device", UPREEMPT_DEVICE, "%s", line);
	out_bool("device_usable", NULL, usable, NULL, NULL);
	if (module_loaded() && read_line("/sys/module/upreempt/version", version, sizeof(version)))
		out_str("version", "version", "%s", version);
	if (info->kmod_abi) {
		out_u64("abi", NULL, info->kmod_abi);
		out_str(NULL, "ABI", "%u (this command: %u)%s", info->kmod_abi, UPREEMPT_ABI_VERSION,
			info->kmod_abi == UPREEMPT_ABI_VERSION ? "" : ", they do not match");
		out_list("features", "features", names,
			 bit_names(info->kmod_features, features, COUNT(features), names));
		out_bool("btf", "module BTF", !access("/sys/kernel/btf/upreempt", R_OK),
			 "yes: tp_btf programs work", "no: raw tracepoints are used instead");
	}
	out_section_end();
}

static void show_backend(const struct upreempt_info *info)
{
	const char *env = getenv("UPREEMPT_BACKEND");

	out_section("backend", "Backend");
	out_str("chosen", "chosen", "%s%s%s", out_bold(), upreempt_backend_name(info->backend),
		out_plain());
	out_str("why", "because", "%s", info->why);
	if (env)
		out_str("environment", "UPREEMPT_BACKEND", "%s", env);
	out_bool("kmod_usable", NULL, info->kmod_usable, NULL, NULL);
	out_u64("signal", NULL, info->signo);
	out_str(NULL, "signal", "%d (SIG%s), used by the signal backend", info->signo,
		sigabbrev_np(info->signo) ?: "RT");
	out_u64("max_threads", "threads", info->max_slots);
	out_u64("max_events", "ring records", info->max_events);
	out_u64("max_requests", "requests", info->max_requests);
	out_section_end();
}

int cmd_info(int argc, char **argv)
{
	struct upreempt_info info = { .size = sizeof(info) };
	bool json = false;
	const struct cmd_option options[] = { { "json", .flag = &json }, {} };
	int err = parse_options(argc, argv, usage, options, NULL);

	if (err >= 0)
		return err;
	err = upreempt_get_info(&info);
	if (err) {
		fprintf(stderr, "upreempt info: the library failed: %s\n", strerror(-err));
		return 1;
	}
	out_start(json, false);
	out_str("version", NULL, "%s", UPREEMPT_VERSION);
	show_backend(&info);
	show_module(&info);
	show_machine(&info);
	out_finish();
	return 0;
}
