"""`omnicore serve`: a checkpoint behind OpenAI's chat completions, on KServe's ModelServer.

chat.py     the wire: what a request may say, what is sent back batcher.py  the one thread that
generates, for all requests that wait server.py   routes, readiness, metrics; binds 127.0.0.1 unless
told otherwise
"""
