#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# The oracle kills every seeded bug of the landing: a copy of landing.S is changed in one place, linked
# with the probe, and has to be found out; the unchanged landing has to pass. A change that does not apply
# is a failure, so that this list follows the landing. Prints TAP. Proves goal G2.
set -u
TOP=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${OUT:-$TOP/out}
DIR=$OUT/selftests/oracle/mutants
LANDING=$TOP/userlib/src/arch/x86_64/landing.S
CC=${CC:-gcc}
export UPREEMPT_BACKEND=signal

rm -rf "$DIR"
mkdir -p "$DIR"

# name | sed expression | needs this CPU flag
# shellcheck disable=SC2016 # the dollars are the assembler's
MUTANTS='
flags are not restored              | s/^\tpopfq$/\tleaq\t8(%rsp), %rsp/
only arithmetic flags are restored  | s/^#define FLAG_USER.*/#define FLAG_USER 0x8d5/
DF is not restored                  | s/^#define FLAG_USER.*/#define FLAG_USER 0x2440d5/
ID is not restored                  | s/^#define FLAG_USER.*/#define FLAG_USER 0x044cd5/
DF stays set in the handler         | s/^\tcall\tupreempt_landing_run$/\tstd\n&/
upper halves of ymm are lost        | s/^\txrstor64 (%rcx)$/&\n\tvzeroupper/ | avx
only x87 and xmm are restored       | s/^\txrstor64 (%rcx)$/\tmovl $3, %eax\n\txorl %edx, %edx\n&/ | avx
only xmm are restored               | s/^\txrstor64 (%rcx)$/\tmovl $2, %eax\n\txorl %edx, %edx\n&/
extended state is not restored      | s/^\txrstor64 (%rcx)$/\tnop/
one xmm register is lost            | s/^\txrstor64 (%rcx)$/&\n\tpxor %xmm9, %xmm9/
a mask register is lost             | s/^\txrstor64 (%rcx)$/&\n\tkxorq %k3, %k3, %k3/ | avx512bw
upper zmm registers are lost        | s/^\txrstor64 (%rcx)$/&\n\tvpxorq %zmm20, %zmm20, %zmm20/ | avx512bw
AVX-512 state is not restored       | s/^\txrstor64 (%rcx)$/\tmovl $7, %eax\n\txorl %edx, %edx\n&/ | avx512bw
x87 is not restored                 | s/^\txrstor64 (%rcx)$/&\n\tfninit/
one x87 register is lost            | s/^\txrstor64 (%rcx)$/&\n\tffree %st(3)/
MXCSR is not restored               | s/^\txrstor64 (%rcx)$/&\n\tldmxcsr .Lmxcsr(%rip)/
MXCSR of the program in the handler | s/^\tldmxcsr\t.Lmxcsr(%rip)$/\tnop/
x87 of the program in the handler   | s/^\tfninit$/\tnop/
the handler has an odd stack        | s/^\tcall\tupreempt_landing_run$/\tsubq $8, %rsp\n&/
rsp is off by 8                     | s/^\tret\t$RED_ZONE$/\tret\t$RED_ZONE + 8/
the red zone is popped twice        | s/^\tret\t$RED_ZONE$/\tret\t$2 * RED_ZONE/
the red zone is written to          | s/^\tret\t$RED_ZONE$/\tret/; s/^\tsubq\t$(RED_ZONE + 16), %rax/\tsubq\t$16, %rax/
one word of the red zone is lost    | s/^\tmovq\t%rcx, 8(%rax)$/&\n\tmovq\t$0, 16(%rax)/
an instruction is left out          | s/^\tmovq\t%rcx, 8(%rax)$/\taddq $4, %rcx\n&/
rcx and r11 are swapped             | s/(CTX_REGS + R_R11)(%rsp), %r11/(CTX_REGS + R_RCX)(%rsp), %r11/; s/(CTX_REGS + R_RCX)(%rsp), %rcx/(CTX_REGS + R_R11)(%rsp), %rcx/
rax has 32 bits                     | s/^\tmovq\t(CTX_REGS + R_RAX)(%rsp), %rax$/\tmovl\t(CTX_REGS + R_RAX)(%rsp), %eax/
'
for r in rax rbx rcx rdx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15; do
	MUTANTS+="$r is not restored | s/^\tmovq\t(CTX_REGS + R_${r^^})(%rsp), %$r\$/\tnop/"$'\n'
done

n=0
failed=0
say() { # STATUS TEXT
	n=$((n + 1))
	if [ "$1" = 0 ]; then echo "ok $n $2"; else echo "not ok $n $2"; failed=1; fi
}

# link NAME: the probe with the landing in $DIR/NAME
link() {
	$CC -g -I"$DIR/$1" -c -o "$DIR/$1/landing.o" "$DIR/$1/landing.S" 2>"$DIR/$1/log" &&
		cp "$OUT/lib/libupreempt.a" "$DIR/$1/lib.a" &&
		ar r "$DIR/$1/lib.a" "$DIR/$1/landing.o" 2>>"$DIR/$1/log" &&
		$CC -o "$DIR/$1/probe" "$DIR/probe.o" "$DIR/$1/lib.a" -lpthread 2>>"$DIR/$1/log"
}

copy() {
	mkdir -p "$DIR/$1"
	cp "$TOP"/userlib/src/arch/x86_64/*.[hS] "$DIR/$1/"
}

echo "TAP version 13"
if ! $CC -std=gnu11 -O2 -D_GNU_SOURCE -I"$TOP/include/uapi" -I"$TOP/userlib/include" -c \
	-o "$DIR/probe.o" "$TOP/selftests/oracle/probe.c" || [ ! -e "$OUT/lib/libupreempt.a" ]; then
	echo "Bail out! the probe or the library is not built"
	exit 1
fi

copy original
if link original && timeout 20 "$DIR/original/probe" >"$DIR/original/out" 2>&1; then
	say 0 "the landing as it is passes:$(sed -n 's/^ok 1//p' "$DIR/original/out")"
else
	say 1 "the landing as it is passes"
	sed 's/^/# /' "$DIR/original/log" "$DIR/original/out" | tail -n 10
fi

i=0
while IFS='|' read -r name expression needs; do
	name=$(sed 's/^ *//;s/ *$//' <<<"$name")
	[ -n "$name" ] || continue
	needs=${needs// /}
	if [ -n "$needs" ] && ! grep -qw "$needs" /proc/cpuinfo; then
		say 0 "killed: $name # SKIP this CPU has no $needs"
		continue
	fi
	i=$((i + 1))
	dir=m$i
	copy $dir
	sed -i "$expression" "$DIR/$dir/landing.S" "$DIR/$dir/frame.h"
	if cmp -s "$LANDING" "$DIR/$dir/landing.S" &&
		cmp -s "${LANDING%/*}/frame.h" "$DIR/$dir/frame.h"; then
		say 1 "killed: $name (the change does not apply any more)"
		continue
	fi
	if ! link $dir; then
		say 1 "killed: $name (does not build)"
		sed 's/^/# /' "$DIR/$dir/log"
		continue
	fi
	{ timeout 12 "$DIR/$dir/probe" >"$DIR/$dir/out" 2>&1 </dev/null; } 2>/dev/null
	status=$?
	# 1: found out; above 123: it hung or crashed, which is being found out, too
	case $status in
	1) say 0 "killed: $name ($(sed -n 's/^not ok 1 //p' "$DIR/$dir/out"))" ;;
	124) say 0 "killed: $name (hung)" ;;
	12[89] | 1[3-9]?) say 0 "killed: $name (signal $((status - 128)))" ;;
	*) say 1 "killed: $name (survived, status $status)"; sed 's/^/# /' "$DIR/$dir/out" ;;
	esac
	rm -f "$DIR/$dir/lib.a" "$DIR/$dir/probe"
done <<<"$MUTANTS"
echo "1..$n"
exit $failed
