#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Install the Debian packages that the kit needs and that are not there yet.
#
#	setup.sh [run|check|report] [x86_64|arm64]
#
# run: what make run needs for guests of the architecture (ARCH, the host's);
# check: what make check needs, all architectures; report: what make report needs.
# As root, or with sudo. On a system without apt it only says what is missing.
set -u

case "${1:-run}" in
-h|--help)
	sed -n '3,10s/^# \{0,1\}//p' "$0"
	exit 0 ;;
run|check|report) what=${1:-run} ;;
*)
	echo "setup.sh: unknown word '$1' - use run, check or report" >&2
	exit 2 ;;
esac

# command (or file, if it has a slash), and the package that brings it
needs="python3 python3
gcc gcc
make make
ld binutils
flex flex
bison bison
bc bc
perl perl
git git
xz xz-utils
/usr/include/gelf.h libelf-dev
/usr/include/stdio.h libc6-dev"
host=$(uname -m)
[ "$host" = aarch64 ] && host=arm64
arches=${2:-${ARCH:-$host}}
if [ "$what" = check ]; then
	arches="x86_64 arm64"
	needs="$needs
shellcheck shellcheck
sparse sparse
gnuplot gnuplot-nox"
elif [ "$what" = report ]; then
	arches=
	needs="python3 python3
gnuplot gnuplot-nox"
fi

# For guests of another architecture a cross compiler, with a C library
for arch in $arches; do
	case "$arch" in
	x86_64)
		qemu="qemu-system-x86_64 qemu-system-x86"
		cross="x86_64-linux-gnu-gcc gcc-x86-64-linux-gnu
/usr/x86_64-linux-gnu/include/stdio.h libc6-dev-amd64-cross" ;;
	arm64)
		qemu="qemu-system-aarch64 qemu-system-arm"
		cross="aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
/usr/aarch64-linux-gnu/include/stdio.h libc6-dev-arm64-cross" ;;
	*) continue ;;		# the verb knows which there are
	esac
	needs="$needs
$qemu"
	[ "$arch" = "$host" ] || needs="$needs
$cross"
done

missing=$(printf '%s\n' "$needs" | while read -r thing package; do
	case "$thing" in
	*/*) [ -e "$thing" ] || printf ' %s' "$package" ;;
	*) command -v "$thing" >/dev/null 2>&1 || printf ' %s' "$package" ;;
	esac
done)
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "setup.sh: missing:$missing (Debian names) - install them with your package manager" >&2
	exit 2
fi
become=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null 2>&1; then
		echo "setup.sh: missing:$missing - run this as root, or install sudo" >&2
		exit 2
	fi
	become=sudo
fi

log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT
echo "setup: installing$missing"
install() {
	# shellcheck disable=SC2086 # a list of words
	$become env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		-o Dpkg::Use-Pty=0 $missing >"$log" 2>&1
}
# The package lists may be missing or old: then get them, and try once more.
if ! install; then
	$become apt-get -q update >"$log" 2>&1
	if ! install; then
		why=$(grep -m1 '^E:' "$log")
		echo "setup.sh: cannot install$missing (${why:-see apt-get}) - check the network and apt's sources" >&2
		exit 2
	fi
fi
