#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Take the few files that the build and the tests borrow from the kernel source out of Debian's linux-source
# package, into out/source (as in the kernel tree) and out/kselftest/include. Nothing of it is kept in this tree.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

name=linux-source-6.1
files=(
	scripts/extract-vmlinux scripts/checkpatch.pl scripts/spelling.txt scripts/const_structs.checkpatch
	tools/testing/selftests/kselftest.h tools/testing/selftests/kselftest_harness.h
)
stamp=$OUT/source/.complete
[ -e "$stamp" ] && exit 0

say "taking kselftest, checkpatch and extract-vmlinux from $name"
mkdir -p "$OUT/source" "$OUT/kselftest/include" "$OUT/cache" "$OUT/log"
members=("${files[@]/#/$name/}")
unpack() { tar -C "$OUT/source" --strip-components=1 -xJf - "${members[@]}"; }

if [ -e "/usr/src/$name.tar.xz" ]; then
	unpack <"/usr/src/$name.tar.xz"
else
	apt-cache show $name >/dev/null 2>&1 || apt_update_once
	apt_fetch "$OUT/cache/deb-source" $name || die "cannot fetch $name: is there a Debian package source?"
	dpkg-deb --fsys-tarfile "$OUT"/cache/deb-source/$name*.deb | tar -xO "./usr/src/$name.tar.xz" | unpack
	rm -rf "$OUT/cache/deb-source"
fi
cp "$OUT"/source/tools/testing/selftests/kselftest*.h "$OUT/kselftest/include/"
touch "$stamp"
