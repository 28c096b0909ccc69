#!/usr/bin/env bash
# What scripts/package-test does inside a bare Debian: install, quick start, upgrade, purge.
set -euo pipefail
export XDG_RUNTIME_DIR=/run/user/0
mkdir -p "$XDG_RUNTIME_DIR" && chmod 700 "$XDG_RUNTIME_DIR"

die() {
  echo "error: $*" >&2
  tail -n 5 /tmp/*.log "$XDG_RUNTIME_DIR"/session/broker.log 2>/dev/null >&2 || true
  exit 1
}
until_true() { # until_true WHAT COMMAND...
  local what=$1 k
  shift
  for ((k = 0; k < 200; k++)); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  die "$what: not after 20 s"
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
files() {
  local away=(-path /proc -o -path /dev -o -path /packages -o -path /tmp -o -path /run)
  find / -xdev \( "${away[@]}" \) -prune -o -print |
    grep -v -e '^/var/lib/dpkg' -e '^/var/log' -e '^/root' -e '^/var/cache' | LC_ALL=C sort
}

files > /tmp/files.before
begun=$(date +%s%N)

echo "== install"
dpkg -i /packages/old/*.deb >/tmp/install.log 2>&1 || die "dpkg -i"
for each in session stp-broker stp-server stp-sns; do
  "$each" --version
done
for each in man1/session.1 man1/session-run.1 man8/stp-server.8 man8/stp-broker.8 man3/session.3; do
  [ -s "/usr/share/man/$each.gz" ] || die "no manual $each"
done
bash -n /usr/share/bash-completion/completions/session
[ "$(stat -c %a /etc/session/cluster.key)" = 600 ] || die "the cluster key is for others to read"

echo "== the server, as its unit would start it"
mkdir -p /var/lib/session-server /var/lib/session-sns /run/session-sns
for unit in server sns; do
  mkdir -p "/run/credentials/session-$unit.service"
  install -m 400 /etc/session/cluster.key "/run/credentials/session-$unit.service/cluster.key"
done
stp-server --config /etc/session/server.toml --check
stp-sns --config /etc/session/sns.toml --check
head -c 50000000 /dev/urandom > /var/www/html/big.iso
nginx
until_true "nginx listens" listens 80
key=$(stp-server --config /etc/session/server.toml --print-key)
server=
start_server() {
  # Without its keeper, which would start it again by itself.
  SESSION_NO_KEEPER=1 stp-server --config /etc/session/server.toml >> /tmp/server.log 2>&1 &
  server=$!
  until_true "the server listens" listens 4433
}
start_server

echo "== the quick start"
# Without a configuration first: http is asked for from this machine itself.
ip address add 192.0.2.1/32 dev lo
session run -- curl -sS --fail -o /tmp/direct.iso http://192.0.2.1/big.iso || die "without a far end"
cmp /tmp/direct.iso /var/www/html/big.iso || die "the bytes are wrong"
session status --json | grep -q '192.0.2.1:80' || die "it went past the broker"
mkdir -p ~/.config/session
cat > ~/.config/session/broker.toml <<END
[[service]]
name = "www.mirror@example.org"
[[service.server]]
address = "127.0.0.1:4433"
key = "$key"
[[route]]
to = "mirror.example.org:80"
service = "www.mirror@example.org"
END
# The broker of before still runs.
session doctor curl http://mirror.example.org/big.iso > /tmp/doctor.log || true
grep -q 'session reload' /tmp/doctor.log || die "doctor does not say how the file comes into use"
session run -- true 2>&1 | grep -q 'is used from now on' || die "the new file is not used"
session doctor curl http://mirror.example.org/big.iso || die "doctor"
# 10 MB a second, so that the server can be taken away in the middle.
session run -- curl -sS --fail --limit-rate 10M -o /tmp/big.iso http://mirror.example.org/big.iso &
client=$!
until_true "a part has come" test -s /tmp/big.iso
kill -9 "$server" && wait "$server" 2>/dev/null || true
sleep 0.5
start_server
wait "$client" || die "curl did not survive its server"
cmp /tmp/big.iso /var/www/html/big.iso || die "the bytes are wrong"
session status --json | grep -q '"reason"' || die "the status does not tell of it"
now=$(date +%s%N)
echo "from dpkg -i to a download that survived its server: $(((now - begun) / 1000000)) ms"

echo "== upgrade while a session runs"
session run -- curl -sS --fail --limit-rate 8M -o /tmp/again.iso http://mirror.example.org/big.iso &
client=$!
until_true "a part has come" test -s /tmp/again.iso
echo '# a change of the administrator' >> /etc/session/server.toml
dpkg -i /packages/new/*.deb >/tmp/upgrade.log 2>&1 < /dev/null || die "the upgrade"
# What the maintainer script asks systemd for: the server is started again as the new one.
kill -TERM "$server" && wait "$server" 2>/dev/null || true
start_server
wait "$client" || die "curl did not survive the upgrade"
cmp /tmp/again.iso /var/www/html/big.iso || die "the bytes are wrong after the upgrade"
grep -q 'change of the administrator' /etc/session/server.toml || die "a change is gone"

echo "== purge"
kill -TERM "$server" $(pidof stp-broker) && wait "$server" 2>/dev/null || true
mv /var/www/html/big.iso /tmp/kept.iso
packages="libsession-dev session session-server session-sns"
# shellcheck disable=SC2086
dpkg --purge $packages >/tmp/purge.log 2>&1 || die "the purge"
files > /tmp/files.after
left=$(comm -13 /tmp/files.before /tmp/files.after | grep -v nginx || true)
[ -z "$left" ] || die "the purge leaves: $left"

echo "== the tarball, without any package"
mv /tmp/kept.iso /var/www/html/big.iso
mkdir /tmp/tarball
tar -C /tmp/tarball --strip-components=1 -xf /packages/new/session-*.tar.gz
for each in session stp-broker stp-server stp-sns; do
  "/tmp/tarball/bin/$each" --version
done
rm -rf ~/.config/session "$XDG_RUNTIME_DIR"/session
# By a name, which a program that is linked statically looks up in files and DNS alone.
echo "192.0.2.1 mirror.example.org" >> /etc/hosts
/tmp/tarball/bin/session run -- curl -sS --fail -o /tmp/tar.iso http://mirror.example.org/big.iso ||
  die "curl, with the tarball"
cmp /tmp/tar.iso /var/www/html/big.iso || die "the bytes are wrong"
/tmp/tarball/bin/session status --json | grep -q '"mirror.example.org:80"\|192.0.2.1:80' ||
  die "it went past the broker of the tarball"
/tmp/tarball/bin/session stop --force > /dev/null
nginx -s stop
echo "== all good"
