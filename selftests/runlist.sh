#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Run the programs of tests.list that belong to one place, each with its time limit, and count their TAP results.
#
#   runlist.sh host           what runs natively, with the library's signal backend
#   runlist.sh vm SERIES      what runs in the test machine (called inside it)
#   runlist.sh live           what runs on this machine as it is: `make run_tests`
#   runlist.sh script SERIES  scripts that boot machines of their own
#
# Each program's output goes to out/check/PLACE/PROGRAM[.BACKEND].tap, all results with one running number to
# out/check/PLACE.tap, and one line for each program (name passed failed skipped seconds) to out/check/PLACE.sum.
# ONLY=REGEX picks programs by name. Exit status 1: something failed.
set -uo pipefail
. "$(dirname "$0")/../tools/build/lib.sh"

where=${1:?usage: runlist.sh host|vm|live|script [SERIES]}
series=${2:-$(uname -r | cut -d. -f1,2)}
place=$where
case $where in vm | script) place=$where-$series ;; esac
dir=$OUT/check/$place
tap=$OUT/check/$place.tap
sum=$OUT/check/$place.sum
failed_any=''
# How much more time a program may take.
slow=1
[[ $series != debug-* ]] || slow=4
verdicts=("ok  " FAIL)
# In the test machine output is a pipe: run.sh says whether a terminal is at its other end.
[ ! -t 1 ] && [ -z "${UPREEMPT_COLOR:-}" ] || verdicts[1]=$'\e[31mFAIL\e[0m'

mkdir -p "$dir"
rm -rf "${dir:?}"/*
echo "TAP version 13" >"$tap"
: >"$sum"

# Read one program's TAP. A program is believed when its plan, its results and its exit status agree; what
# does not agree becomes a failed result. Prints "passed failed skipped", appends to the common TAP.
count() { # NAME EXIT-STATUS FILE
	awk -v name="$1" -v status="$2" -v tap="$tap" -v from="$(grep -cE '^(not )?ok ' "$tap")" '
	function emit(verdict, text) { printf "%s %d %s: %s\n", verdict, ++from, name, text >>tap }
	/^1\.\.[0-9]+/ {
		plan = substr($1, 4) + 0; planned = 1
		if (plan == 0) { skip++; sub(/^1\.\.0[ #]*/, ""); emit("ok", "# SKIP " $0) }
	}
	/^ok / {
		seen++; sub(/^ok [0-9]* *(- )?/, "")
		if (tolower($0) ~ /# skip/) skip++; else pass++
		emit("ok", $0)
	}
	/^not ok / {
		seen++; fail++; sub(/^not ok [0-9]* *(- )?/, "")
		emit("not ok", $0)
	}
	END {
		if (status == 124 || status == 137) why = "stopped at its time limit"
		else if (status > 128) why = "ended by signal " status - 128
		else if (status == 126 || status == 127) why = "could not be started"
		else if (!planned) why = "printed no plan"
		else if (seen + 0 < plan) why = "printed " seen + 0 " of " plan " results"
		else if (status != 0 && status != 4 && !fail) why = "exit status " status " without a failed result"
		if (why != "") { fail++; emit("not ok", why) }
		print pass + 0, fail + 0, skip + 0
	}' "$3"
}

# The last words of a program that failed, for the person who reads the run.
explain() { # NAME FILE
	{
		grep -F " $1: " "$tap" | grep '^not ok' | sed -E 's/^not ok [0-9]+ /not ok /'
		grep -E '^# [^ ]+:[0-9]+:|Assertion|[Ss]egmentation|undefined symbol|cannot open' "$2"
	} | head -n 16 | sed 's/^/      /'
}

run_one() { # NAME LIMIT BACKEND COMMAND...
	local name=$1 limit=$2 backend=$3 status=0 began=$EPOCHREALTIME file counts took
	shift 3
	[ "$backend" = - ] || name="${name}[$backend]"
	[[ $name =~ ${ONLY:-} ]] || return 0
	file=$dir/$(tr '/[]' '._ ' <<<"$name" | tr -d ' ').tap
	(
		[ "$backend" = - ] || export UPREEMPT_BACKEND=$backend
		timeout -k 5 "$limit" "$@"
		exit $?	# not exec: what the shell says about a crash belongs into the file
	) >"$file" 2>&1 </dev/null || status=$?
	took=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
	read -ra counts < <(count "$name" $status "$file")
	echo "$name ${counts[*]} $took" >>"$sum"
	printf '  %s %-44s %4d passed %3d failed %3d skipped %7s s\n' \
		"${verdicts[counts[1] > 0]}" "$name" "${counts[@]}" "$took"
	[ "${counts[1]}" = 0 ] || { failed_any=1; explain "$name" "$file"; }
}

# A result that belongs to no program: the module goes in and out, the machine came up.
result() { # NAME STATUS TEXT
	local file=$dir/${1//\//.}.tap
	if [ "$2" = 0 ]; then echo "ok 1 $3"; else echo "not ok 1 $3 (status $2)"; fi >"$file"
	echo "1..1" >>"$file"
	read -ra counts < <(count "$1" 0 "$file")
	echo "$1 ${counts[*]} 0" >>"$sum"
	[ "$2" = 0 ] || { failed_any=1; echo "  FAIL $1: $3"; }
}

# Does this line of the list belong here, and with which backends?
backends_here() { # PLACEMENT BACKENDS KERNELS
	case $where in
	host) [[ $1 =~ ^(host|both)$ ]] || return 1 ;;
	vm) [[ $1 =~ ^(vm|both)$ ]] || return 1 ;;
	live) [[ $1 =~ ^(host|vm|both)$ ]] || return 1 ;;
	script) [ "$1" = script ] || return 1 ;;
	esac
	case $where:$series in
	host:*) ;;
	*:debug-*) [[ ,$3, =~ ,(debug|$series), ]] || return 1 ;;
	*) [[ ,$3, =~ ,(all|-|$series), ]] || return 1 ;;
	esac
	if [ "$2" = - ]; then
		echo -
	elif [[ $series == debug-* ]]; then
		# They look at the module: the other backend is none of its business.
		[[ ,$2, == *,kmod,* ]] || return 1
		echo kmod
	elif [ "$where" = host ]; then
		[[ ,$2, == *,signal,* ]] || return 1
		echo signal
	elif [ "$where" = live ] && { [ "$1" = host ] || [ ! -e /dev/upreempt ]; }; then
		[[ ,$2, == *,signal,* ]] || return 1
		echo signal
	else
		tr ',' ' ' <<<"$2"
	fi
}

run_list() {
	local path placement limit backends kernels rest here backend
	while read -r path placement limit backends kernels rest; do
		[[ -n $path && $path != \#* ]] || continue
		[ -z "$rest" ] || { result "tests.list" 1 "too many words for $path"; continue; }
		here=$(backends_here "$placement" "${backends:--}" "${kernels:-all}") || continue
		if [ "$where" = live ] && [ "$placement" = vm ] && [ ! -e /dev/upreempt ]; then
			printf '  skip %s: the module is not loaded\n' "$path"
			continue
		fi
		limit=$((limit * slow))
		for backend in $here; do
			if [[ $path == *.sh ]]; then
				run_one "$path" "$limit" "$backend" env KERNEL="$series" "$TOP/selftests/$path" "$series"
			else
				run_one "$path" "$limit" "$backend" "$OUT/selftests/$path"
			fi
		done
	done <"$TOP/selftests/tests.list"
}

# What a debug kernel knows when all is over.
detectors() {
	local fired=''
	if [ -e /proc/lockdep_stats ]; then
		grep -q 'debug_locks: *1' /proc/lockdep_stats
		result module/lockdep $? "lockdep was on until the end"
	fi
	if [ -e /sys/kernel/debug/kmemleak ]; then
		selftests/canary/kmemleak.sh >"$dir/kmemleak.log" 2>&1 || fired=$?
		result module/kmemleak "${fired:-0}" "nothing that the module allocated is left over ($dir/kmemleak.log)"
	fi
}

load() { insmod "$OUT/kmod/$series/inject/upreempt.ko" 2>>"$dir/insmod.log"; }

# In braces, so that the shell has read it all before a long run starts: the file may change meanwhile.
{
cd "$TOP" || exit 125
case $where in
vm)
	load
	result module/insmod $? "the test build loads ($(tail -n 1 "$dir/insmod.log"))"
	run_list
	rmmod upreempt 2>>"$dir/insmod.log"
	result module/rmmod $? "the module unloads after all tests ($(tail -n 1 "$dir/insmod.log"))"
	[[ $series != debug-* ]] || detectors
	load && rmmod upreempt
	result module/again $? "and loads and unloads again"
	;;
*)
	run_list
	;;
esac
echo "1..$(grep -cE '^(not )?ok ' "$tap")" >>"$tap"

if [ "$where" = live ]; then
	awk '{ p += $2; f += $3; s += $4 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$sum"
fi
[ -z "$failed_any" ]
exit
}
