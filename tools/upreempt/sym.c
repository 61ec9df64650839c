// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Names for addresses of this process, or of another one. */
#include "sym.h"

#include <elfutils/libdwfl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static Dwfl *dwfl;
static int of_pid;

static Dwfl *open_process(int pid)
{
	static char *no_debuginfo;	/* no separate files, no debuginfod: symbols are enough */
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_linux_proc_find_elf,
		.find_debuginfo = dwfl_standard_find_debuginfo,
		.debuginfo_path = &no_debuginfo,
	};

	if (dwfl && of_pid == pid)
		return dwfl;
	sym_close();
	dwfl = dwfl_begin(&callbacks);
	if (!dwfl)
		return NULL;
	of_pid = pid;
	if (dwfl_linux_proc_report(dwfl, pid) || dwfl_report_end(dwfl, NULL, NULL))
		sym_close();
	return dwfl;
}

void sym_name_of(int pid, uint64_t addr, char *buf, size_t size)
{
	Dwfl_Module *mod = open_process(pid) ? dwfl_addrmodule(dwfl, addr) : NULL;
	GElf_Off offset;
	GElf_Sym sym;
	const char *name, *slash;
	Dwarf_Addr start;

	if (!mod) {
		snprintf(buf, size, "%#llx", (unsigned long long)addr);
		return;
	}
	name = dwfl_module_addrinfo(mod, addr, &offset, &sym, NULL, NULL, NULL);
	if (name) {
		snprintf(buf, size, "%s+%#llx", name, (unsigned long long)offset);
		if (!offset)
			snprintf(buf, size, "%s+0x0", name);
		return;
	}
	name = dwfl_module_info(mod, NULL, &start, NULL, NULL, NULL, NULL, NULL);
	if (!name)
		name = "?";
	slash = strrchr(name, '/');
	snprintf(buf, size, "%s+%#llx", slash ? slash + 1 : name,
		 (unsigned long long)(addr - start));
}

void sym_name(uint64_t addr, char *buf, size_t size)
{
	sym_name_of(getpid(), addr, buf, size);
}

void sym_close(void)
{
	if (dwfl)
		dwfl_end(dwfl);
	dwfl = NULL;
}
