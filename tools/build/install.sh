#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make install`: put the built files under $DESTDIR$PREFIX.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

PREFIX=${PREFIX:-/usr/local}
root=${DESTDIR:-}$PREFIX
put() { # MODE DIRECTORY FILE...
	install -d "$root/$2"
	install -m "$1" -t "$root/$2" "${@:3}"
}

put 644 lib "$OUT/lib/libupreempt.a"
for so in "$OUT"/lib/libupreempt.so*; do
	if [ -L "$so" ]; then
		cp -P --remove-destination "$so" "$root/lib/"
	else
		put 755 lib "$so"
	fi
done
put 644 include/upreempt "$TOP"/userlib/include/upreempt/*.h
put 644 include/linux "$TOP/include/uapi/linux/upreempt.h"
put 755 bin "$OUT/bin/upreempt"

# The library's .pc file names the prefix that is installed to, not the one of the build.
install -d "$root/lib/pkgconfig"
sed -E "s|^prefix=.*|prefix=$PREFIX|; s|^libdir=.*|libdir=\${prefix}/lib|; s|^includedir=.*|includedir=\${prefix}/include|" \
	"$OUT/lib/pkgconfig/upreempt.pc" >"$root/lib/pkgconfig/upreempt.pc"

for page in "$TOP"/Documentation/man/*.[1-8]; do
	[ -e "$page" ] || continue
	put 644 "share/man/man${page##*.}" "$page"
done
if [ -z "${DESTDIR:-}" ] && [ "$(id -u)" = 0 ]; then
	ldconfig
fi
echo "installed under $root"
