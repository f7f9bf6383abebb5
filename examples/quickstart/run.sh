#!/bin/sh
# The whole loop on this machine: validate, plan, apply, a few requests, status.
set -eu
cd "$(dirname "$0")"
PATH="$(cd ../.. && pwd)/.venv/bin:$PATH"
enova=$(command -v enova) || { echo "enova is not installed: run make demo" >&2; exit 1; }
spec=chat.enova.yaml

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

say enova validate $spec
"$enova" validate $spec

say enova plan $spec
"$enova" plan $spec

say enova apply $spec --yes
"$enova" apply $spec --yes

# The reconciler stays until the stack is destroyed.
say "enova reconcile $spec &"
nohup "$enova" reconcile $spec </dev/null >reconcile.log 2>&1 &
echo "its log: $(pwd)/reconcile.log"

for question in "What is a KV cache?" "Why batch requests?" "What is TTFT?" \
    "What is TPOT?" "Why drain?" "What does a gateway do?"; do
    say "curl http://127.0.0.1:9199/v1/chat/completions  ($question)"
    curl --silent --show-error --fail --no-buffer --max-time 30 \
        http://127.0.0.1:9199/v1/chat/completions \
        --header 'Content-Type: application/json' \
        --data "{\"model\": \"chat\", \"stream\": true, \"max_tokens\": 12,
                 \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}" |
        sed -n 's/.*"content":"\([^"]*\)".*/\1/p' | tr -d '\n'
    echo
    sleep 1
done

say enova status
"$enova" status $spec

cat <<TEXT

The answers come from emulated engines, at the pace a real one is predicted to have.
Look further:   enova status --help    enova logs chat/replica/0    enova plan -v $spec
Change it:      edit examples/quickstart/$spec, then: enova plan, enova apply
Stop it:        enova destroy quickstart
(run these in $(pwd), or name the stack; the program is $enova)
TEXT
