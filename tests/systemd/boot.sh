#!/bin/bash
# What tests/systemd.rs has a real systemd do with samplechat, inside a container: one line for each thing that holds,
# "ok WHAT", or "not ok WHAT: ...", and "done" at the end.
set -u

check() { if [[ $2 == "$3" ]]; then echo "ok $1"; else echo "not ok $1: $2 instead of $3"; fi; }
get() { systemctl show -P "$1" samplechat; }

# A client, on descriptor C, that has been served a line.
client() {
    exec {C}<>/dev/tcp/127.0.0.1/20203
    check "$1, a new client" "$(ask "$1")" "$1"
}

# Says a line and gives what comes back of it.
ask() {
    local line
    echo "$1" >&"$C"
    while IFS= read -t 20 -r line <&"$C"; do
        line=${line%$'\r'}
        if [[ $line == *"] $1" ]]; then echo "${line#*] }"; return; fi
    done
}

# Kills the server with SIGKILL, and waits for the next one; who comes in between must not be refused.
crash() {
    local before now
    before=$(get MainPID)
    kill -9 "$before"
    (exec 9<>/dev/tcp/127.0.0.1/20203) || echo "not ok a connection after SIGKILL: it is refused"
    for _ in $(seq 400); do
        now=$(get MainPID)
        [[ $now != 0 && $now != "$before" && $(get SubState) == running ]] && return
        sleep 0.05
    done
    echo 'not ok the next server: it does not come'
}

# Nothing that systemd or the server warn of; about control groups it does where it shares them with another container.
quiet() {
    local warnings
    warnings=$(journalctl --no-pager -q -p warning -o cat -u samplechat --since "$since" | grep -v ' compat systemd cgroup ')
    check "$1, no warning" "$warnings" ''
}

since=$(date '+%Y-%m-%d %H:%M:%S')
systemctl start samplechat
check 'start, active' "$(get ActiveState)" active
check 'start, status' "$(get StatusText)" serving
check 'start, kept listeners' "$(get NFileDescriptorStore)" 1
client start
pid=$(get MainPID)
for _ in $(seq 50); do systemctl reload samplechat || echo 'not ok reload: it fails'; done
for _ in $(seq 50); do kill -HUP "$pid"; sleep 0.05; done
check 'reload, same process' "$(get MainPID)" "$pid"
check 'reload, same client' "$(ask still)" still
client reload
quiet reload
for _ in $(seq 20); do crash; done
check 'crashes, started anew' "$(get NRestarts)" 20
client crashes
systemctl restart samplechat
client restart
echo 'nonsense = 1' >>/out/samplechat.toml
systemctl reload samplechat 2>/dev/null
sed -i '$d' /out/samplechat.toml
check 'wrong configuration, goes on' "$(get ActiveState)" active
check 'wrong configuration, same client' "$(ask goes-on)" goes-on
systemctl stop samplechat
check 'stop' "$(get ActiveState) $(get Result)" 'inactive success'

cp /out/samplechat.toml /out/plain.toml
echo 'port = ["127.0.0.1:20203", "/run/samplechat.sock|unix"]' >/out/samplechat.toml
# The journal is asked by seconds.
sleep 1
since=$(date '+%Y-%m-%d %H:%M:%S')
systemctl start samplechat.socket
check 'socket unit, not started yet' "$(get ActiveState)" inactive
client activation
check 'socket unit, started' "$(get ActiveState)" active
systemctl reload samplechat
client activation-reload
quiet activation
crash
client activation-crash
systemctl stop samplechat 2>/dev/null
check 'socket unit, its path' "$(stat -c %F /run/samplechat.sock)" socket
systemctl stop samplechat.socket

cp /out/plain.toml /out/samplechat.toml
mkdir -p /run/systemd/system/samplechat.service.d
printf '[Service]\nWatchdogSec=1\n' >/run/systemd/system/samplechat.service.d/watchdog.conf
systemctl daemon-reload
systemctl start samplechat
# Three times as long as the watchdog waits.
sleep 3
check 'watchdog, alive' "$(get ActiveState) $(get NRestarts)" 'active 0'
kill -STOP "$(get MainPID)"
for _ in $(seq 400); do [[ $(get NRestarts) == 1 && $(get SubState) == running ]] && break; sleep 0.05; done
check 'watchdog, bites' "$(get NRestarts)" 1
client watchdog
systemctl stop samplechat
echo done
