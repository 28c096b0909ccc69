# What `session via` does on the far machine: read by its sh, which may be busybox's. The client
# sets, in front of this: ACTION, NAME, KEY (that of the client's broker), PORTS.
# Answers are lines KEY=VALUE on stdout; a line error=TEXT ends it.
umask 077
d=$HOME/.local/share/session/via
# The server's keeper holds its sessions there; the process that serves writes its id there.
kept=server.kept
serves=$kept/server.lock
unit=$HOME/.config/systemd/user/session-via.service

line='
'
give_up() { echo "error=$*"; exit 0; }
short_pause() { sleep 0.1 2>/dev/null || sleep 1; }
# Whether the process whose id is in this file is one of ours.
lives() { [ -s "$1" ] && grep -q stp-server "/proc/$(cat "$1")/cmdline" 2>/dev/null; }

look() {
  echo "kernel=$(uname -s)"
  echo "machine=$(uname -m)"
  echo "connection=$SSH_CONNECTION"
  echo "now=$(date +%s)"
  [ -n "$HOME" ] && cd "$HOME" 2>/dev/null || give_up "this account has no home directory"
  # The fourth field of the last line, with a tool that every system has.
  set -- $(df -Pk . 2>/dev/null | tail -n 1)
  echo "room_kib=${4:-}"
  if [ -x "$d/stp-server" ]; then
    echo "version=$("$d/stp-server" --version 2>&1 | head -n 1)"
    echo "listen=$(sed -n 's/^listen = "\(.*\)"$/\1/p' "$d/server.toml" 2>/dev/null)"
    grep -q "\"$KEY\"" "$d/server.toml" 2>/dev/null && echo "listed=yes"
    lives "$d/$serves" && echo "running=yes"
  fi
  return 0
}

lingers() { [ "$(loginctl show-user "$(id -un)" --property=Linger --value 2>/dev/null)" = yes ]; }
# Whether systemd runs this user's services also when nobody is logged in. A file says that it does
# because of us.
can_linger() {
  command -v systemctl >/dev/null 2>&1 && command -v loginctl >/dev/null 2>&1 || return 1
  systemctl --user show-environment >/dev/null 2>&1 || return 1
  lingers && return
  loginctl enable-linger >/dev/null 2>&1
  lingers && : > "$d/made-linger"
}

# The keeper passes it on, and ends with the server.
stop() {
  systemctl --user disable --now session-via.service >/dev/null 2>&1
  for each in keeper.pid "$serves"; do
    lives "$d/$each" && kill "$(cat "$d/$each")" 2>/dev/null
    tries=0
    while lives "$d/$each" && [ $tries -lt 50 ]; do short_pause; tries=$((tries + 1)); done
    lives "$d/$each" && kill -9 "$(cat "$d/$each")" 2>/dev/null
    rm -f "$d/$each"
  done
}

# Starts it so that it outlives this login. Its keeper starts the next one when it dies, and that
# one goes on with all sessions.
start() {
  : > log
  if can_linger; then
    mkdir -p "${unit%/*}"
    cat > "$unit" <<END
[Unit]
Description=The far end of sessions, as "session via" has made it
[Service]
ExecStart=$d/stp-server --keeper $d/$kept $d/stp-server --config $d/server.toml
ExecReload=/bin/kill -USR2 \$MAINPID
KillMode=mixed
UMask=0077
StandardError=append:$d/log
Restart=always
RestartSec=200ms
[Install]
WantedBy=default.target
END
    systemctl --user daemon-reload && systemctl --user enable session-via.service >/dev/null 2>&1
    systemctl --user restart session-via.service && how=systemd && return
  fi
  how=background
  # It makes a session of its own, so that nothing of this login's end reaches it.
  ./stp-server --keeper $kept ./stp-server --config server.toml </dev/null >/dev/null 2>>log &
  echo $! > keeper.pid
}

# Has the program and the configuration that are there now go on with all sessions.
go_on() {
  lives "$serves" || return 1
  how=background
  systemctl --user --quiet is-active session-via.service 2>/dev/null && how=systemd
  before=$(cat "$serves")
  : > log
  kill -USR2 "$before" 2>/dev/null || return 1
  tries=0
  while [ "$(cat "$serves" 2>/dev/null)" = "$before" ]; do
    [ $tries -lt 50 ] || return 1
    short_pause
    tries=$((tries + 1))
  done
  is_up
}

# Whether it came up: 0; 1: its port is somebody else's; 2: something else is wrong.
is_up() {
  tries=0
  while [ $tries -lt 50 ]; do
    case $line$(cat log) in
      *' ready '*) return 0 ;;
      *'cannot listen'*) return 1 ;;
      *"${line}stp-server: "*) return 2 ;;
    esac
    short_pause
    tries=$((tries + 1))
  done
  return 2
}

# A port for it: the one that it has, or the first that nobody has. By IPv6 as well, if there is.
settle() {
  have=$(sed -n 's/^listen = "\(.*\)"$/\1/p' server.toml)
  set --
  [ "$have" = "@LISTEN@" ] || set -- "$have"
  for port in $PORTS; do set -- "$@" "[::]:$port" "0.0.0.0:$port"; done
  for listen; do
    sed "s/^listen = .*/listen = \"$listen\"/" server.toml > server.toml.new
    mv -f server.toml.new server.toml
    start
    is_up
    case $? in
      0) return ;;
      1) stop ;;
      *) stop; give_up "the server did not start: $(tail -n 1 log)" ;;
    esac
  done
  give_up "the ports $PORTS are all taken: try another one with --port"
}

# The new program is beside the old one; what it says of itself shows that it runs here.
install() {
  cd "$d" || give_up "there is no $d"
  new=$(./stp-server.new --version 2>&1) ||
    give_up "the program does not run there: $(echo "$new" | head -n 1)"
  mv -f stp-server.new stp-server
  if [ ! -f server.toml ]; then
    random=$(od -An -N5 -tx1 /dev/urandom | tr -d ' \n')
    [ -n "$random" ] || give_up "there is no od"
    [ -f cluster.key ] || ./stp-server --new-cluster-key cluster.key || give_up "no cluster key"
    cat > server.toml <<END
# Made by "session via add". It leads its owners anywhere from here: [[service]] may have allow,
# deny, clients and more (docs/via.md).
name = "$NAME"
listen = "@LISTEN@"
key_file = "server.key"
cluster = "via"
cluster_key_file = "cluster.key"
status = "off"

[[service]]
name = "egress.$NAME-$random@via"
kind = "egress"
owner = ["$KEY"]
END
  elif ! grep -q "\"$KEY\"" server.toml; then
    sed "s|^owner = \[|owner = [\"$KEY\", |" server.toml > server.toml.new
    mv -f server.toml.new server.toml
  fi
  go_on || { stop; settle; }
  echo "key=$(./stp-server --config server.toml --print-key)"
  echo "service=$(sed -n 's/^name = "\(egress\..*\)"$/\1/p' server.toml | head -n 1)"
  echo "listen=$(sed -n 's/^listen = "\(.*\)"$/\1/p' server.toml)"
  echo "how=$how"
}

# Takes the client out; the server as well, if it was the last one.
remove() {
  cd "$d" 2>/dev/null || return 0
  sed "s|\"$KEY\", ||; s|, \"$KEY\"||; s|\"$KEY\"||" server.toml > server.toml.new
  if grep -q '^owner = \["' server.toml.new; then
    mv -f server.toml.new server.toml
    go_on || { stop; start; }
    echo "left=yes"
  else
    stop
    [ ! -e "$d/made-linger" ] || loginctl disable-linger >/dev/null 2>&1
    cd "$HOME" && rm -rf "$d" "$unit"
    rmdir "${d%/*}" 2>/dev/null
  fi
  return 0
}

"$ACTION"
echo "end=yes"
