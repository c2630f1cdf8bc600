#!/bin/sh
# A demonstration on 127.0.0.1: accounts demo and demo2, password secret. Everything it makes is under build/demo/, and
# the mail stays from one call to the next. Ctrl-C ends it.
set -eu
cd "$(dirname "$0")/.."

trireme=${TRIREME:-build/trireme}
demo=$(pwd)/build/demo
imap=${DEMO_IMAP_PORT:-1143} imaps=${DEMO_IMAPS_PORT:-1993} lmtp=${DEMO_LMTP_PORT:-1024} admin=${DEMO_ADMIN_PORT:-1080}

umask 077
mkdir -p "$demo/data"
if [ ! -s "$demo/cert.pem" ] || ! openssl x509 -in "$demo/cert.pem" -noout -checkend 86400 >/dev/null; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
        -keyout "$demo/key.pem" -out "$demo/cert.pem" 2>/dev/null
fi
if [ ! -s "$demo/users" ]; then
    for user in demo demo2; do
        printf '%s:%s\n' "$user" "$(printf 'secret\n' | "$trireme" hash-password)"
    done >"$demo/users.new"
    mv "$demo/users.new" "$demo/users"
fi
cat >"$demo/trireme.yml" <<EOF
role: all
data: $demo/data
node: localhost
imap: {listen: "127.0.0.1:$imap"}
imaps: {listen: "127.0.0.1:$imaps"}
lmtp: {listen: "127.0.0.1:$lmtp"}
tls: {cert: $demo/cert.pem, key: $demo/key.pem}
auth: {passwd_file: $demo/users}
admin: {listen: "127.0.0.1:$admin"}
EOF

hints() {
    cat <<EOF

Paste these into another terminal, in $(pwd):

# Log in over TLS and list the folders.
curl --silent --show-error --cacert build/demo/cert.pem --user demo:secret imaps://127.0.0.1:$imaps/

# A client that idles: leave it running, and watch EXISTS arrive.
(printf 'a LOGIN demo secret\r\nb SELECT INBOX\r\nc IDLE\r\n'; cat) | openssl s_client -quiet -verify_quiet -CAfile build/demo/cert.pem -connect 127.0.0.1:$imaps

# Deliver a message over LMTP.
python3 -c 'import smtplib; smtplib.LMTP("127.0.0.1", $lmtp).sendmail("you@example.com", ["demo"], "Subject: Hello\r\n\r\nHello, demo.\r\n")'

# Read it.
curl --silent --show-error --cacert build/demo/cert.pem --user demo:secret 'imaps://127.0.0.1:$imaps/INBOX;MAILINDEX=1'

# What the server says of itself.
$trireme ctl --config build/demo/trireme.yml status

# Its metrics.
curl --silent --show-error http://127.0.0.1:$admin/metrics

EOF
}

# The server's standard output comes through a pipe, so that the hints follow its 'ready'. In a session of its own it
# does not see Ctrl-C itself, which becomes one TERM here (a second signal would mean: now), and ends in its own time.
pipe=$demo/ready.$$
mkfifo "$pipe"
(
    trap '' INT TERM HUP
    while IFS= read -r line; do
        echo "$line"
        case "$line" in 'trireme: ready'*) hints ;; esac
    done <"$pipe"
) &
setsid setpriv --pdeathsig TERM "$trireme" --role=all --config "$demo/trireme.yml" >"$pipe" &
server=$!
trap 'kill -TERM $server 2>/dev/null || true' INT TERM HUP
while :; do
    status=0
    wait $server || status=$?
    kill -0 $server 2>/dev/null || break
done
rm -f "$pipe"
wait
exit $status
