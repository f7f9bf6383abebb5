#!/bin/sh
# The first half of README.md: plan, apply, what Docker shows of it, a few requests, status.
set -eu
cd "$(dirname "$0")"
PATH="$(cd ../.. && pwd)/.venv/bin:$PATH"
enova=$(command -v enova) || { echo "enova is not installed: run make demo" >&2; exit 1; }
spec=chat.enova.yaml
name=$(sed -n 's/^name: //p' $spec)
port=$(sed -n '/^gateway:/,/^pool:/s/^  port: \([0-9]*\).*/\1/p' $spec)
url=http://127.0.0.1:$port/v1/chat/completions

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

say enova plan $spec
"$enova" plan $spec

say enova apply $spec --yes
"$enova" apply $spec --yes

say docker compose -p "enova-$name" ps
docker compose -p "enova-$name" ps --format 'table {{.Service}}\t{{.Image}}\t{{.Status}}'

for question in "What is a KV cache?" "Why batch requests?" "What is TTFT?"; do
    say "curl $url  ($question)"
    curl --silent --show-error --fail --no-buffer --max-time 30 "$url" \
        --header 'Content-Type: application/json' \
        --data "{\"model\": \"chat\", \"stream\": true, \"max_tokens\": 12,
                 \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}" |
        sed -n 's/.*"content":"\([^"]*\)".*/\1/p' | tr -d '\n'
    echo
done

say enova status
"$enova" status $spec

cat <<TEXT

The answers come from emulated engines, at the pace a real one is predicted to have.
Go on with README.md: scale, an alert, healing.
Stop it:        enova destroy $name
(run these in $(pwd), or name the stack; the program is $enova)
TEXT
