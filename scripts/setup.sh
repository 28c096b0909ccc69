# Sourced by the other scripts: installs what is missing and sets the paths. Safe to run again.
# shellcheck shell=bash
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# Where cargo builds; the scripts find the programs there.
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")
export CARGO_TARGET_DIR=$TARGET
# The variables that a script keeps when it runs itself again under sudo.
KEEP=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR,CI
export DEBIAN_FRONTEND=noninteractive

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; return; fi
  command -v sudo >/dev/null || die "not root and no sudo: run as root, or install first: $*"
  sudo "$@"
}

# need_packages PKG...: installs with apt the packages that dpkg does not have.
need_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' ||
      missing+=("$p")
  done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || die "install these packages first: ${missing[*]}"
  say "installing: ${missing[*]}"
  # A policy that forbids service starts: the tests and demos run their own copies.
  local policy=/usr/sbin/policy-rc.d made=no
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod +x "$policy"
    made=yes
  fi
  as_root apt-get update -qq
  as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  if [ "$made" = yes ]; then as_root rm -f "$policy"; fi
}

# unpack_packages PKG...: unpacks their files below $TARGET/unpacked, for programs that Debian does
# not allow to be installed together.
unpack_packages() {
  local p dir
  for p in "$@"; do
    [ -d "$TARGET/unpacked/$p" ] && continue
    dir=$(mktemp -d)
    (cd "$dir" && apt-get download -qq "$p" 2>/dev/null && dpkg-deb -x ./*.deb new) ||
      die "cannot download $p: run apt-get update"
    mkdir -p "$TARGET/unpacked"
    mv "$dir/new" "$TARGET/unpacked/$p"
    rm -r "$dir"
  done
}

# bare_debian TAR PACKAGES [LATER]: a bare Debian of this release as a tar, made once, with these
# packages (comma between them) and those that debootstrap itself cannot install.
bare_debian() {
  [ -e "$1" ] && return
  need_packages debootstrap
  say "debootstrap (once)"
  local fresh mirror suite
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  fresh=$(mktemp -d)
  mirror=$(sed -n 's/^\(deb\|URIs:\) *\(\[[^]]*\] *\)\?\(https\?:[^ ]*\).*/\3/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1) || true
  debootstrap --variant=minbase --include="$2" "$suite" "$fresh" \
    "${mirror:-http://deb.debian.org/debian}" >"$TARGET/debootstrap.log" ||
    { tail -5 "$TARGET/debootstrap.log"; rm -rf "$fresh"; die "debootstrap failed"; }
  [ -z "${3:-}" ] || chroot "$fresh" apt-get install -y -qq --no-install-recommends "$3" \
    >/dev/null 2>&1 || { rm -rf "$fresh"; die "no $3"; }
  rm -rf "$fresh"/var/cache/apt/archives/*.deb
  tar -C "$fresh" -cf "$1.part" . && mv "$1.part" "$1"
  rm -rf "$fresh"
}

need_cargo() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  if ! command -v cargo >/dev/null; then
    if ! command -v rustup >/dev/null; then
      apt-cache show rustup >/dev/null 2>&1 ||
        die "cargo is missing. Install rustup (https://rustup.rs): rustup toolchain install $(toolchain)"
      need_packages rustup
    fi
    rustup toolchain install "$(toolchain)" --profile minimal --component rustfmt,clippy
  fi
}
toolchain() { sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml"; }

# build [--release]: builds every program and library. It is always the whole workspace, because
# with another choice of packages cargo would choose other features and compile much again.
build() { cargo build -q --workspace --bins --lib "$@"; }

# tests ARG...: cargo test with these arguments. A test that fails runs once more, alone, because on
# a loaded machine a process can be late for a moment. If it fails twice, this script fails. Tests
# that passed only at the second try are named by `tell_second_tries`.
second_tries=()
tests() {
  local out arguments=() names
  out=$(mktemp)
  if cargo test -q --workspace --no-fail-fast "$@" 2>&1 | tee "$out"; then rm "$out"; return; fi
  mapfile -t names < <(sed -n '/^failures:$/,/^test result/s/^    \([a-z0-9_:]*\)$/\1/p' "$out" |
    sort -u)
  rm "$out"
  [ ${#names[@]} -gt 0 ] || die "cargo test failed, and not by a test: see above"
  [ ${#names[@]} -le 5 ] || die "${#names[@]} tests failed"
  while [ $# -gt 0 ] && [ "$1" != -- ]; do arguments+=("$1"); shift; done
  say "once more, alone: ${names[*]}"
  cargo test -q --workspace "${arguments[@]}" -- --exact --test-threads=1 "${names[@]}" ||
    die "failed twice: ${names[*]}"
  second_tries+=("${names[@]}")
}
# twice COMMAND...: the same second try for a script that tests.
twice() {
  "$@" && return
  say "once more: $*"
  "$@" || die "failed twice: $*"
  second_tries+=("$*")
}
tell_second_tries() {
  local name
  for name in "${second_tries[@]}"; do say "passed only at its second try: $name"; done
}

# The build of the crate etcd-client runs protoc, and reads the definitions of libprotobuf-dev.
need_packages build-essential cmake pkg-config protobuf-compiler libprotobuf-dev
need_cargo
