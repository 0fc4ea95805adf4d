# Sourced by tests/size/run, tests/handover/machine and benches/tunnel/counted: runs a job in a virtual machine whose clock counts
# instructions.
#
# The machine has a kernel of Debian, one processor and no disk: its root is an initramfs with busybox and the given programs, its
# network is its own loopback. Its clock counts instructions, one a nanosecond (QEMU's -icount), those of the kernel too: the times
# are those of a slow processor without cache misses, and what else the host does changes none of them. It needs no root and
# changes nothing of the host. Never skips what it cannot run.
#
# machine_check, then machine_root, machine_install for each program, and machine_boot. The sourcing script sets `program`, its
# name in messages, and `work`, a folder for the machine's files; it may change MACHINE_PROCESSOR and MACHINE_KERNEL_OPTIONS.
# shellcheck shell=bash disable=SC2154 # variables of the sourcing script

MACHINE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The end of a usage text.
machine_usage() { # memory
  cat <<TEXT
  MACHINE_KERNEL   the kernel's image, boot/vmlinuz-* beside lib/modules; default: the newest in /boot
  MACHINE_MEMORY   of the machine; default: $1
Needs Debian's packages qemu-system-x86, busybox-static, cpio and xz-utils, and the kernel of linux-image-amd64.
TEXT
}

# Ends the script unless everything is there that the machine needs.
machine_check() {
  has qemu-system-x86_64 qemu-system-x86
  has busybox busybox-static
  has cpio cpio
  has xz xz-utils
  local newest
  newest=$(find /boot -name 'vmlinuz-*' 2>/dev/null | sort -V | tail -n 1)
  image=${MACHINE_KERNEL:-$newest}
  modules=$(dirname "$image")/../lib/modules/${image##*/vmlinuz-}/kernel
  [ -r "$image" ] && [ -d "$modules" ] && return
  die "there is no kernel image '$image' that can be read: install Debian's linux-image-amd64, or unpack that package" \
    "(apt-get download, dpkg-deb -x) and name its boot/vmlinuz-* in MACHINE_KERNEL; lib/modules has to lie beside boot"
}

has() { # program, Debian's package
  command -v "$1" >/dev/null || die "there is no $1: install Debian's package $2"
}

# Begins the machine's root, the folder $work/root. The job is a script for busybox.
machine_root() { # job
  local root=$work/root module
  mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp}
  install "$(command -v busybox)" "$root/bin/busybox"
  install "$MACHINE/init" "$root/init"
  install "$1" "$root/job"
  : >"$root/etc/resolv.conf"
  # The daemon asks the kernel for its sockets: sock_diag(7).
  for module in inet_diag tcp_diag; do
    unpacked "$modules/net/ipv4/$module.ko" >"$root/$module.ko"
  done
}

unpacked() { # a kernel module, which some packages compress
  if [ -e "$1" ]; then cat "$1"; else xz -dc "$1.xz"; fi
}

# A program with its libraries.
machine_install() { # program, its path in the machine
  local root=$work/root library
  install -D "$1" "$root$2"
  ldd "$1" | sed -n "s|.*[[:space:]]\(/[^ ]*\) (0x.*|\1|p" | while read -r library; do
    install -D "$library" "$root$library"
  done
}

# Prints the machine's console, which is in $work/console too. Ends the script if the job fails.
machine_boot() { # memory
  (cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/initramfs"
  timeout "$MACHINE_PATIENCE_S" qemu-system-x86_64 -accel tcg,thread=single -icount shift=0,sleep=off -cpu "$MACHINE_PROCESSOR" \
    -machine q35 -smp 1 -m "${MACHINE_MEMORY:-$1}" -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$image" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable $MACHINE_KERNEL_OPTIONS" </dev/null 2>&1 \
    | sed -u 's/\r$//' | tee "$work/console"
  grep -q '^the job has ended: 0$' "$work/console" || die "the job in the machine has failed"
}

die() {
  echo "$program: $*" >&2
  exit 1
}

MACHINE_PATIENCE_S=7200
MACHINE_PROCESSOR=max,la57=off
MACHINE_KERNEL_OPTIONS=
