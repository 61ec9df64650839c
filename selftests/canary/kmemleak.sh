#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Scan for memory that nobody points to any more, and print what a module allocated of it. Run it when the module is
# unloaded: what its own lists would still hold shows then, too. Exit status 1: there is some, 2: could not look.
set -uo pipefail

file=/sys/kernel/debug/kmemleak
# The first scan finds candidates; one that has not changed at the second, 5 s or more after its allocation, is a leak.
echo scan >"$file" || exit 2
sleep 6
echo scan >"$file" || exit 2
report=$(cat "$file") || exit 2
echo "$(grep -c '^unreferenced object' <<<"$report") objects that nobody points to, anywhere in the kernel"

# Drivers are built in: an address without a name belonged to a module that is unloaded.
awk 'function settle() { if (ours && n++ < 10) printf "%s", block; block = ""; ours = 0 }
	/^unreferenced object/ { settle() }
	{ block = block $0 "\n" }
	/ \[[a-z_]+\]$/ || /\] 0xffffffff[0-9a-f]+$/ { ours = 1 }
	END { settle(); printf "%d of a module\n", n; exit n > 0 }' <<<"$report"
