/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* Names for addresses of this process, from its ELF symbols and DWARF lines (libdwfl) */
#ifndef SYM_H
#define SYM_H

#include <stddef.h>
#include <stdint.h>

/* "symbol+0x12", or "file+0x1234", or the bare address */
void sym_name(uint64_t addr, char *buf, size_t size);
/* The same in another process, as far as we may look into it. */
void sym_name_of(int pid, uint64_t addr, char *buf, size_t size);
void sym_close(void);

#endif
