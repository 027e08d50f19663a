"""`omnicore serve`: a checkpoint behind OpenAI's chat completions, on KServe's server.

request.py   the body of a request, parsed and checked
prompt.py    its prompt: media decoded, text tokenised
response.py  the reply, whole or as server-sent events
batcher.py   the thread that generates, in batches
server.py    routes, readiness, metrics
serve.py     the process: port, signals, shutdown; binds 127.0.0.1 by default
"""
