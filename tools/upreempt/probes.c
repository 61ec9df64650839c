// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* The BPF programs of bpf/latency.bpf.c: load, attach, pin, read. */
#include "probes.h"
#include "cmd.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "latency.skel.h"

#define MAX_LINKS 4

struct probes {
	struct latency_bpf *skel;
	const char *module_mode, *signal_mode;
	struct bpf_link *links[MAX_LINKS];	/* uprobes; the skeleton owns the others */
	size_t nlinks;
};

static const struct {
	const char *key, *title;
} stages[STAGE_MAX] = {
	[STAGE_REQUEST_IPI]	= { "request_ipi",	"request → IPI" },
	[STAGE_IPI_ARM]		= { "ipi_arm",		"IPI → armed" },
	[STAGE_REQUEST_ARM]	= { "request_arm",	"request → armed" },
	[STAGE_ARM_DELIVER]	= { "arm_deliver",	"armed → delivered (hook)" },
	[STAGE_DELIVER_LANDING]	= { "deliver_landing",	"delivered → landing" },
	[STAGE_LANDING_RESUME]	= { "landing_resume",	"landing → resume (handler)" },
	[STAGE_REQUEST_LANDING]	= { "request_landing",	"request → landing" },
	[STAGE_REQUEST_OUTCOME]	= { "request_outcome",	"request → outcome" },
	[STAGE_REQUEST_RESUME]	= { "request_resume",	"request → resume, the whole" },
	[STAGE_GATE]		= { "gate",		"held at the gate" },
	[STAGE_SIGNAL_DELIVER]	= { "signal_generate_deliver", "signal generate → deliver" },
	[STAGE_SIGNAL_LANDING]	= { "signal_deliver_landing", "signal deliver → landing" },
	[STAGE_SIGNAL_RESUME]	= { "signal_landing_resume", "landing → resume (handler)" },
	[STAGE_SIGNAL_TOTAL]	= { "signal_generate_resume", "signal generate → resume" },
	[STAGE_WORLD_THREAD]	= { "world_thread",	"stop → a thread stands" },
	[STAGE_WORLD_STOPPED]	= { "world_stopped",	"stop → the world stands" },
	[STAGE_WORLD_HELD]	= { "world_held",	"stop → the world goes on" },
};

const char *stage_key(enum latency_stage stage)
{
	return stage < STAGE_MAX ? stages[stage].key : "?";
}

const char *stage_title(enum latency_stage stage)
{
	return stage < STAGE_MAX ? stages[stage].title : "?";
}

const char *probes_module_mode(const struct probes *p)
{
	return p->module_mode;
}

const char *probes_signal_mode(const struct probes *p)
{
	return p->signal_mode;
}

/* ---- load and attach ----------------------------------------------------- */

/* libbpf's last complaint, for the one sentence that the caller gets */
static char complaint[160];

static int keep_complaint(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char *p;

	if (level != LIBBPF_WARN)
		return 0;
	if (getenv("UPREEMPT_DEBUG")) {
		vfprintf(stderr, fmt, ap);
		return 0;
	}
	/* the first is the cause, what follows are its consequences */
	if (complaint[0])
		return 0;
	vsnprintf(complaint, sizeof(complaint), fmt, ap);
	p = strpbrk(complaint, "\n");
	if (p)
		*p = 0;
	if (!strncmp(complaint, "libbpf: ", 8))
		memmove(complaint, complaint + 8, strlen(complaint + 8) + 1);
	return 0;
}

enum way { WAY_BTF, WAY_PLAIN, WAY_NONE };

/* Which of a tracepoint's two programs is loaded */
static void choose(struct latency_bpf *skel, enum way module, enum way signal)
{
	struct bpf_program *prog;

	bpf_object__for_each_program(prog, skel->obj) {
		const char *section = bpf_program__section_name(prog);
		enum way way = !strncmp(section, "tp_btf/", 7) ? WAY_BTF : WAY_PLAIN;

		if (!strcmp(section, "uprobe"))
			continue;
		if (strstr(section, "signal_"))
			bpf_program__set_autoload(prog, way == signal);
		else
			bpf_program__set_autoload(prog, way == module);
	}
}

static struct latency_bpf *try_ways(const struct probes_opts *opts, enum way module,
				    enum way signal, int *err)
{
	struct latency_bpf *skel = latency_bpf__open();

	if (!skel) {
		*err = -errno;
		return NULL;
	}
	skel->rodata->filter_tgid = opts->tgid;
	skel->rodata->filter_signal = opts->signo;
	choose(skel, module, signal);
	*err = latency_bpf__load(skel);
	if (!*err)
		*err = latency_bpf__attach(skel);
	if (!*err)
		return skel;
	latency_bpf__destroy(skel);
	return NULL;
}

/* BPF programs see the numbers of the initial pid namespace */
static bool initial_pid_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) || st.st_ino == 0xeffffffcU;
}

struct probes *probes_open(const struct probes_opts *opts, char *why, size_t size)
{
	static const enum way ways[][2] = {	/* module, signal: the best first */
		{ WAY_BTF, WAY_BTF }, { WAY_PLAIN, WAY_BTF }, { WAY_PLAIN, WAY_PLAIN },
	};
	bool module = opts->module && module_loaded();
	bool signal = opts->signal;
	const char *force = getenv("UPREEMPT_PROBES");
	bool plain = force && !strcmp(force, "plain");
	struct probes *p;
	int err = -ENOENT;
	size_t i;

	if (force && *force && !plain) {
		snprintf(why, size, "UPREEMPT_PROBES=%s: only plain is known", force);
		return NULL;
	}
	if (geteuid()) {
		snprintf(why, size, "BPF programs need root (or sudo)");
		return NULL;
	}
	if (!module && !signal) {
		snprintf(why, size, "the module is not loaded: its tracepoints do not exist");
		return NULL;
	}
	if (opts->tgid && !initial_pid_namespace()) {
		snprintf(why, size, "this runs in a pid namespace (a container), where a process "
			 "cannot be told by its number");
		return NULL;
	}
	p = calloc(1, sizeof(*p));
	if (!p) {
		snprintf(why, size, "out of memory");
		return NULL;
	}
	complaint[0] = 0;
	libbpf_set_print(keep_complaint);
	for (i = 0; i < sizeof(ways) / sizeof(ways[0]) && !p->skel; i++) {
		enum way m = module ? ways[i][0] : WAY_NONE;
		enum way s = signal ? ways[i][1] : WAY_NONE;

		if (plain && (m == WAY_BTF || s == WAY_BTF))
			continue;
		/* the module's BTF is what makes tp_btf possible; do not try what cannot be */
		if (m == WAY_BTF && access("/sys/kernel/btf/upreempt", R_OK))
			continue;
		p->skel = try_ways(opts, m, s, &err);
		if (p->skel) {
			p->module_mode = m == WAY_BTF ? "tp_btf" : m == WAY_PLAIN ? "raw_tp" : NULL;
			p->signal_mode = s == WAY_BTF ? "tp_btf" : s == WAY_PLAIN ? "tp" : NULL;
		}
	}
	if (!p->skel) {
		snprintf(why, size, "the kernel refused the BPF programs: %s%s%s", strerror(-err),
			 complaint[0] ? ": " : "", complaint);
		free(p);
		return NULL;
	}
	return p;
}

void probes_close(struct probes *p)
{
	if (!p)
		return;
	while (p->nlinks)
		bpf_link__destroy(p->links[--p->nlinks]);
	latency_bpf__destroy(p->skel);
	free(p);
}

/* ---- uprobes ------------------------------------------------------------- */

/* The file offset of a function, from .symtab or .dynsym; 0: this file has none */
static size_t function_offset(Elf *elf, const char *name)
{
	Elf_Scn *scn = NULL;
	size_t i, nph;

	while ((scn = elf_nextscn(elf, scn))) {
		Elf_Data *data;
		GElf_Shdr sh;
		GElf_Sym sym;

		if (!gelf_getshdr(scn, &sh) || !sh.sh_entsize ||
		    (sh.sh_type != SHT_SYMTAB && sh.sh_type != SHT_DYNSYM))
			continue;
		data = elf_getdata(scn, NULL);
		for (i = 0; data && i < sh.sh_size / sh.sh_entsize; i++) {
			const char *s;

			if (!gelf_getsym(data, i, &sym) || GELF_ST_TYPE(sym.st_info) != STT_FUNC ||
			    sym.st_shndx == SHN_UNDEF)
				continue;
			s = elf_strptr(elf, sh.sh_link, sym.st_name);
			if (s && !strcmp(s, name))
				goto found;
		}
		continue;
found:
		for (i = 0; !elf_getphdrnum(elf, &nph) && i < nph; i++) {
			GElf_Phdr ph;

			if (gelf_getphdr(elf, i, &ph) && ph.p_type == PT_LOAD &&
			    sym.st_value >= ph.p_vaddr && sym.st_value < ph.p_vaddr + ph.p_filesz)
				return sym.st_value - ph.p_vaddr + ph.p_offset;
		}
		return 0;
	}
	return 0;
}

/* 1 attached, 0 the file lacks the functions, -errno */
static int attach_file(struct probes *p, const char *path)
{
	const struct {
		const char *name;
		struct bpf_program *prog;
	} functions[] = {
		{ "upreempt_trace_landing", p->skel->progs.landing_enter },
		{ "upreempt_trace_resume", p->skel->progs.landing_leave },
	};
	size_t i, offset[2] = {};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf *elf;

	if (fd < 0)
		return 0;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	if (elf) {
		for (i = 0; i < 2; i++)
			offset[i] = function_offset(elf, functions[i].name);
		elf_end(elf);
	}
	close(fd);
	if (!offset[0] || !offset[1])
		return 0;
	for (i = 0; i < 2; i++) {
		/* every process with this file: the programs filter, exec'ed children are included */
		struct bpf_link *link = bpf_program__attach_uprobe(functions[i].prog, false, -1,
								   path, offset[i]);

		if (!link)
			return -errno;
		p->links[p->nlinks++] = link;
	}
	return 1;
}

int probes_attach_library(struct probes *p, pid_t pid)
{
	char path[64], line[4600], last[4200] = "";
	unsigned int done = 0;
	FILE *f;
	int ret = 0;

	if (p->nlinks)
		return 1;
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (!ret && done < 256 && fgets(line, sizeof(line), f)) {
		char perms[8], file[4200], *name = strchr(line, '/');

		if (sscanf(line, "%*s %7s", perms) != 1 || perms[2] != 'x' || !name)
			continue;
		name[strcspn(name, "\n")] = 0;
		if (!strcmp(name, last))
			continue;
		snprintf(last, sizeof(last), "%s", name);
		/* as the process sees it: it may live in another mount namespace */
		snprintf(file, sizeof(file), "/proc/%d/root%s", pid, name);
		ret = attach_file(p, file);
		done++;
	}
	fclose(f);
	return ret;
}

/* ---- results ------------------------------------------------------------- */

static int pin_one(struct bpf_map *map, const char *dir, const char *name)
{
	char path[4200];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);	/* of an earlier run */
	return bpf_map__pin(map, path);
}

#define BPFFS "/sys/fs/bpf"

/* Minimal systems do not mount it; bpftool does the same */
static void mount_bpffs(const char *dir)
{
	struct statfs fs;

	if (!strncmp(dir, BPFFS, strlen(BPFFS)) && !statfs(BPFFS, &fs) &&
	    (unsigned long)fs.f_type != BPF_FS_MAGIC)
		mount("bpf", BPFFS, "bpf", 0, "mode=0700");
}

int probes_pin(struct probes *p, const char *dir, char *why, size_t size)
{
	bool made;
	int err;

	mount_bpffs(dir);
	made = !mkdir(dir, 0700);
	if (!made && errno != EEXIST) {
		snprintf(why, size, "cannot make %s: %s", dir, strerror(errno));
		return -errno;
	}
	complaint[0] = 0;
	err = pin_one(p->skel->maps.latency, dir, "upreempt_latency");
	if (!err)
		err = pin_one(p->skel->maps.deferrals, dir, "upreempt_deferrals");
	if (err) {
		snprintf(why, size, "cannot pin in %s: %s; it must lie in a bpf file system, "
			 "as " BPFFS "/NAME does", dir, strerror(-err));
		if (made)
			rmdir(dir);
	}
	return err;
}

void probes_reset(struct probes *p)
{
	int fd = bpf_map__fd(p->skel->maps.latency);
	struct latency_key key;
	enum upreempt_reason r;

	while (!bpf_map_get_next_key(fd, NULL, &key))
		if (bpf_map_delete_elem(fd, &key))
			break;
	for (r = 0; r < UPREEMPT_REASON_MAX; r++)
		bpf_map_delete_elem(bpf_map__fd(p->skel->maps.deferrals), &r);
}

static int compare(const void *a, const void *b)
{
	const struct latency_key *x = &((const struct probes_entry *)a)->key;
	const struct latency_key *y = &((const struct probes_entry *)b)->key;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	if (x->outcome != y->outcome)
		return x->outcome < y->outcome ? -1 : 1;
	return x->stage < y->stage ? -1 : x->stage > y->stage;
}

struct probes_entry *probes_read(struct probes *p, size_t *n)
{
	int fd = bpf_map__fd(p->skel->maps.latency);
	struct probes_entry *all = calloc(LATENCY_MAX_HISTS, sizeof(*all));
	struct latency_key *prev = NULL, key;

	*n = 0;
	while (all && *n < LATENCY_MAX_HISTS && !bpf_map_get_next_key(fd, prev, &key)) {
		struct probes_entry *e = &all[*n];

		e->key = key;
		prev = &e->key;
		if (!bpf_map_lookup_elem(fd, &key, &e->hist) && e->hist.count)
			prev = &all[(*n)++].key;
	}
	if (all)
		qsort(all, *n, sizeof(*all), compare);
	return all;
}

void probes_deferrals(struct probes *p, __u64 *n)
{
	int fd = bpf_map__fd(p->skel->maps.deferrals);
	enum upreempt_reason r;

	for (r = 0; r < UPREEMPT_REASON_MAX; r++)
		if (bpf_map_lookup_elem(fd, &r, &n[r]))
			n[r] = 0;
}
