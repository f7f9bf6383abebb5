"""The text of each problem code's page: title, why it is refused, what to do, an example.

Data only; ``spec.codes`` reads it. A code keeps its meaning for ever: a new case gets a new code.
"""

from __future__ import annotations

PAGES: dict[str, tuple[str, str, str, str]] = {
    "E100": (
        "The file is not YAML",
        "The text breaks a rule of YAML, so nothing after that place can be trusted.",
        "look at the caret: most often an indentation, a quote or a bracket is at fault.",
        "wrong:  model: name: x\nright:  model: {id: x}",
    ),
    "E101": (
        "A character that cannot be used",
        "Control characters, a byte order mark inside the file and bytes that are not UTF-8 are "
        "invisible in an editor and unsafe in a command line or a log.",
        "delete the character; save the file as UTF-8.",
        "",
    ),
    "E102": (
        "Unknown key",
        "A key nobody reads would be a setting that silently does nothing.",
        "use the key that is suggested, or look at the section with enova explain.",
        "wrong:  scale: {max_replicas: 4}\nright:  scale: {max: 4}",
    ),
    "E103": (
        "A key is written twice",
        "YAML would silently keep only one of the two values.",
        "delete one, or merge the two sections.",
        "wrong:  peak: 20/s\n        peak: 30/s\nright:  peak: 30/s",
    ),
    "E104": (
        "A tag",
        "Tags such as !!python/object build things while reading; a spec is only text, numbers, "
        "lists and maps.",
        "delete the tag; put a value in quotes to make it text.",
        'wrong:  version: !!str 0.32\nright:  version: "0.32"',
    ),
    "E105": (
        "Too large or too deep",
        "A spec is small. Size, depth and the values that aliases stand for are limited, so that "
        "no file can exhaust memory.",
        "write fewer aliases, or split the stack.",
        "",
    ),
    "E106": (
        "A needed key is missing",
        "There is no sensible default for it.",
        "add the key under the section that is marked.",
        "services:\n  chat:\n    model: org/name\n    traffic: {peak: 20/s}",
    ),
    "E107": (
        "A quantity without its unit, or none at all",
        "Nobody can tell 400 milliseconds from 400 seconds, so the unit is part of the value.",
        "write number and unit: 400ms, 20/s, 24GiB, 2.49 USD/h, 99%.",
        "wrong:  ttft: 400\nright:  ttft: 400ms",
    ),
    "E108": (
        "The wrong kind of value",
        "Text, numbers, true and false, lists and maps are not converted into each other: in YAML "
        "on, yes, 012 and 1e3 are text here.",
        "write the kind that is asked for; quotes make text, true and false have none.",
        'wrong:  to_zero: "yes"\nright:  to_zero: true',
    ),
    "E109": (
        "Not one of the possible words",
        "The field takes one of a few words.",
        "use one that is listed.",
        "wrong:  engine: vlm\nright:  engine: vllm",
    ),
    "E110": (
        "Out of range",
        "The value is of the right kind and cannot be meant.",
        "stay within the bound that is named.",
        "wrong:  port: 99199\nright:  port: 9199",
    ),
    "E111": (
        "A name that cannot be used",
        "Names of stacks, services and hosts become part of URLs, labels and file names.",
        "use lower-case letters, digits and dashes, a letter first, at most 40 characters.",
        "wrong:  name: Chat_Bot\nright:  name: chat-bot",
    ),
    "E112": (
        "The file is not one map",
        "A spec file holds one stack: keys and values, one document.",
        "write the keys at the start of the line; put a second stack into its own file.",
        "version: 1\nname: chat\nservices: {}",
    ),
    "E113": (
        "A version of the format that is not read",
        "The version says how the rest is to be understood.",
        "write version: 1, or use an enova that knows the version.",
        "version: 1",
    ),
    "E114": (
        "A key that is not text",
        "Lists, maps, tags and nothing at all cannot be keys.",
        "write a word before the colon.",
        "wrong:  ? [a, b] : c\nright:  ab: c",
    ),
    "E115": (
        "An alias that leads nowhere",
        "An alias (*name) repeats what an anchor (&name) above it holds; << lends the keys of a "
        "map. Without the anchor, or inside it, there is nothing to repeat.",
        "put the anchor before the alias; lend only maps.",
        "chat: &base {traffic: {peak: 20/s}}\ncode:\n  <<: *base",
    ),
    "E119": (
        "A value that is not accepted",
        "The field has a rule that the value breaks.",
        "read the message; enova explain FIELD shows an example.",
        "",
    ),
    "E120": (
        "A variable that is not set",
        "The spec would mean something else on each machine if an unset variable were nothing.",
        "set it in the environment, or give it a default.",
        "wrong:  id: ${MODEL}\nright:  id: ${MODEL:-org/name}",
    ),
    "E121": (
        "Something that looks like a variable and is none",
        "Only ${NAME}, ${NAME:-default} and ${NAME:?message} are read; $$ is one dollar sign. "
        "Names hold letters, digits and underscores; one variable cannot stand inside another.",
        "write one of these forms, or $${ for the two characters.",
        "wrong:  id: ${MODEL-x}\nright:  id: ${MODEL:-x}",
    ),
    "E122": (
        "A variable the spec insists on",
        "The spec's author wrote ${NAME:?message}: the variable must be set and not empty.",
        "set it; the message after the question mark says to what.",
        "id: ${MODEL:?which model to serve}",
    ),
    "E123": (
        "A variable whose value cannot be used",
        "The value in the environment holds control characters.",
        "set the variable to plain text.",
        "",
    ),
    "E124": (
        "A secret by interpolation",
        "What is interpolated becomes part of plans, records and diffs. A secret must not.",
        "refer to it where a secret is accepted; it is then read only at the moment of use.",
        "wrong:  env: {HF_TOKEN: ${HF_TOKEN}}\nright:  env: {HF_TOKEN: {env: HF_TOKEN}}",
    ),
    "E130": (
        "No spec",
        "A folder's specs are its files that end in .enova.yaml.",
        "name the file, or write one with enova init.",
        "",
    ),
    "E131": (
        "No such environment",
        "--env prod lays chat.prod.enova.yaml over chat.enova.yaml; no such file is there.",
        "write the overlay, or leave --env out.",
        "services: {chat: {scale: {min: 4}}}",
    ),
    "E140": (
        "The lock file cannot be read",
        "enova.lock holds the configurations that were chosen; guessing them anew could change "
        "what runs.",
        "restore the file from version control, or delete it and run enova lock.",
        "",
    ),
    "E201": (
        "min is more than max",
        "No count satisfies both.",
        "raise max or lower min.",
        "scale: {min: 2, max: 6}",
    ),
    "E202": (
        "min and warm do not fit under max",
        "Warm replicas are kept above what traffic needs, so they would never all run.",
        "raise max, or lower min or warm.",
        "scale: {min: 2, warm: 1, max: 6}",
    ),
    "E203": (
        "Scaling to zero and keeping replicas",
        "to_zero stops the last replica; min and warm keep some.",
        "choose one of the two.",
        "scale: {to_zero: true, max: 4}",
    ),
    "E204": (
        "The mean rate is above the peak",
        "The peak is the highest sustained rate, so the mean cannot be higher.",
        "swap them, or correct one.",
        "traffic: {peak: 20/s, mean: 5/s}",
    ),
    "E205": (
        "The median is above the 95th percentile",
        "A higher percentile is never smaller.",
        "swap them, or correct one.",
        "input_tokens: {p50: 400, p95: 2000}",
    ),
    "E206": (
        "A distribution without a number",
        "Sizing needs to know how long prompts and answers are.",
        "give at least one of mean, p50, p95.",
        "output_tokens: 128",
    ),
    "E207": (
        "A higher percentile with a tighter limit",
        "When 99 % of requests meet a limit, so do 50 %: the looser limit says nothing.",
        "swap the limits, or delete one.",
        "ttft: {p50: 200ms, p95: 400ms}",
    ),
    "E209": (
        "Requests longer than the model's limit",
        "Prompt and answer together must fit max_model_len, else the engine refuses them.",
        "raise max_model_len, or lower the lengths under traffic.",
        "model: {id: org/name, max_model_len: 8192}",
    ),
    "E210": (
        "A rollout that cannot move",
        "With no replica above and none below the count, no replica can be replaced.",
        "set surge to 1 (needs room for one more) or max_unavailable to 1.",
        "rollout: {surge: 1}",
    ),
    "E211": (
        "Two hosts with one name",
        "A host's name is how plans and labels tell hosts apart.",
        "rename one.",
        "hosts: [{name: gpu-a}, {name: gpu-b}]",
    ),
    "E212": (
        "A device that is not one thing",
        "An entry of devices is some equal GPUs or the processor.",
        "write gpu with count, or cpu with cores and memory, in entries of their own.",
        "devices:\n  - {gpu: h100-sxm-80gb, count: 2}\n  - {cpu: {cores: 16, memory: 64GiB}}",
    ),
    "E213": (
        "A secret that is not read one way",
        "With none nothing could be read, with two nobody knows which wins.",
        "give exactly one of env, file, command.",
        "secret: {file: /run/secrets/key}",
    ),
    "E214": (
        "A secret written into the spec",
        "Specs are committed and shown; command lines are visible to every user of the machine.",
        "refer to the secret.",
        "wrong:  env: {HF_TOKEN: hf_abc}\nright:  env: {HF_TOKEN: {env: HF_TOKEN}}",
    ),
    "E215": (
        "Two API keys with one name",
        "The name stands for the key in logs and metrics.",
        "rename one.",
        "api_keys: [{name: web, secret: {env: WEB}}, {name: batch, secret: {env: BATCH}}]",
    ),
    "E216": (
        "Two services that answer to one model name",
        "On /v1/... the gateway chooses the service by the request's model.",
        "give one another model.served_name.",
        "model: {id: org/name, served_name: chat-large}",
    ),
    "E217": (
        "A target that is not built yet",
        "Only the targets process and compose run replicas for now.",
        "write target: compose, or leave target out for programs of this machine.",
        "pool: {target: compose}",
    ),
    "E218": (
        "A reserved service name",
        "Services share addresses and the gateway's paths with the stack's own parts.",
        "choose another name.",
        "",
    ),
    "E219": (
        "A quantization that is not known",
        "Sizing must know how large the quantized weights are.",
        "use a known method; one that only the engine knows goes to engine.args.",
        "model: {id: org/name, quantization: fp8}",
    ),
    "E220": (
        "Two listeners on one port",
        "The gateway and the programs of monitoring cannot share a port.",
        "change one, or leave the port below monitoring out.",
        "",
    ),
    "E221": (
        "Not the name of an argument or a variable",
        "It would reach the engine's command line or environment.",
        "write arguments without the leading dashes, one name a key; variables as letters, digits "
        "and underscores.",
        "args: {max-num-seqs: 64}",
    ),
    "E222": (
        "An argument or variable that enova sets",
        "Two values for it would fight.",
        "use the field that is named, or leave it out.",
        "wrong:  args: {served-model-name: x}\nright:  model: {id: org/name, served_name: x}",
    ),
    "E223": (
        "One argument in two spellings",
        "max_num_seqs and max-num-seqs are the same argument.",
        "delete one.",
        "",
    ),
    "E224": (
        "A remote host on a target of this machine",
        "The targets process and compose run what they start on this machine.",
        "leave the address out.",
        "",
    ),
    "E225": (
        "One kind of device in two entries",
        "Nobody could tell whether the counts add up.",
        "write one entry with the sum.",
        "devices: [{gpu: l40s, count: 4}]",
    ),
    "E226": (
        "Certificate and key in one file",
        "The private key would be handed out with the certificate chain.",
        "name two files.",
        "tls: {certificate: server.crt, key: server.key}",
    ),
    "E227": (
        "A quantization that does not go with the checkpoint",
        "A checkpoint stored quantized is served as it is stored, and some methods need a "
        "checkpoint that was made with them.",
        "leave quantization out for a checkpoint stored quantized; name a checkpoint made with "
        "the method; or use one that the message lists.",
        "wrong:  model: {id: org/name, quantization: awq}\nright:  model: org/name-awq",
    ),
    "E228": (
        "Lengths that contradict each other",
        "Mean, median and 95th percentile describe one distribution, long-tailed as texts are; "
        "no such distribution has these figures.",
        "measure them on the same requests, or give only one or two of them.",
        "wrong:  input_tokens: {mean: 10, p95: 9000}\nright:  input_tokens: {p95: 9000}",
    ),
    "E229": (
        "An engine version that is not known",
        "Arguments, metrics and defaults differ between versions, so a version older than the "
        "oldest known one, or a text that is no version, cannot be planned for.",
        "use the version the message names or a newer one, or leave version out for the newest.",
        'engine: {name: vllm, version: "0.32.0"}',
    ),
    "E230": (
        "An engine argument that must be a number",
        "Sizing computes with this argument, so it has to know its value.",
        "write a number, also as the engine reads it (8k is 8000, 8K is 8192), or leave it out.",
        "wrong:  args: {max-num-seqs: many}\nright:  args: {max-num-seqs: 64}",
    ),
    "E231": (
        "A share of requests within no goals",
        "goals.attainment says how many requests must be within all latency goals at once; without "
        "such a goal every request is.",
        "state goals.ttft, goals.tpot, goals.itl or goals.e2e, or leave attainment out.",
        "wrong:  goals: {attainment: 99%}\nright:  goals: {ttft: 400ms, attainment: 99%}",
    ),
    "E232": (
        "One port in two places",
        "monitoring.port and monitoring.prometheus.port are the same setting.",
        "delete one.",
        "",
    ),
    "E233": (
        "A container on a target without containers",
        "Only target compose can run the reconciler as a service of the stack.",
        "set pool.reconciler to off and run `enova reconcile`, by hand or by the systemd unit "
        "that `enova render` writes.",
        "pool: {target: process, reconciler: off}",
    ),
    "E234": (
        "A secret that the reconciler's container cannot read",
        "It starts engines and monitors again, so it reads their secrets. It is given variables "
        "of the environment, and files by their whole path; a command runs on this machine only.",
        "use env or file; or set pool.reconciler to off and run `enova reconcile`, by hand or by "
        "the systemd unit that `enova render` writes.",
        "HF_TOKEN: {file: /run/secrets/hf_token}",
    ),
    "N301": (
        "A setting without effect",
        "The target or the engine does not use it.",
        "nothing is needed; delete it to keep the spec honest.",
        "",
    ),
    "N302": (
        "An open gateway",
        "The gateway listens beyond this machine and asks for no key.",
        "add gateway.api_keys, or listen on 127.0.0.1.",
        "",
    ),
    "N303": (
        "No latency goal",
        "Without goals sizing only has to carry the traffic.",
        "state goals.ttft and goals.tpot.",
        "goals: {ttft: 400ms, tpot: 40ms}",
    ),
    "N304": (
        "A goal that another one makes idle",
        "The whole request includes its first token, so the looser limit never binds.",
        "nothing is needed.",
        "",
    ),
}
