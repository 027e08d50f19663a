"""`omnicore serve`: a checkpoint behind OpenAI's chat completions."""

from __future__ import annotations

from argparse import Namespace

from omnicore.cli.parser import Parser, add_recipe, extra_required

SERVE = """\
serve: a checkpoint behind OpenAI's chat completions, with pictures and sound.

It is ready once the canary has verified that the model perceives pictures and sound. Waiting
requests are generated together; beyond --queue of them the reply is 429 with Retry-After. Ctrl-C
or SIGTERM ends it: requests in flight are answered first, for --grace seconds at most.

  omnicore serve --model embedded:tiny-base &
  curl -s localhost:8000/v2/health/ready
  P="data:image/png;base64,$(base64 -w0 picture.png)"
  curl -s localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
    "model": "embedded:tiny-base", "temperature": 0, "max_tokens": 14, "messages": [{"role": "user",
    "content": [{"type": "image_url", "image_url": {"url": "'$P'"}},
                {"type": "text", "text": "Which digit is written? 3 7 1 9"}]}]}'

A sound is {"type": "input_audio", "input_audio": {"data": "<base64 of a wav>", "format": "wav"}}.
An audit queries it with: omnicore probe --set probe.engine.kind=http
  --set probe.engine.url=http://127.0.0.1:8000/v1 --set probe.model=embedded:tiny-base ...

routes: POST /v1/chat/completions (also as a stream), GET /v1/models, GET / (alive),
GET /v2/health/ready (503 with the reason until it is ready), GET /metrics"""


def add_commands(parser: Parser) -> None:
    """Add `serve`."""
    summary = "a checkpoint behind OpenAI's chat completions"
    command = parser.add_command("serve", summary, run_serve, SERVE)
    command.add_argument(
        "--model",
        required=True,
        help="a checkpoint directory or embedded:NAME; also its name in requests",
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only)",
    )
    command.add_argument("--port", type=int, default=8000, help="default: 8000")
    command.add_argument(
        "--queue",
        type=int,
        default=256,
        metavar="N",
        help="requests accepted at a time; one more gets 429 (default: 256)",
    )
    command.add_argument(
        "--grace",
        type=float,
        default=25,
        metavar="SECONDS",
        help="for requests in flight after SIGTERM (default: 25)",
    )
    add_recipe(command, "gives the canary's profile and the number of threads")


def run_serve(options: Namespace) -> None:
    """Serve a checkpoint until the process is told to end."""
    from omnicore.config.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    with extra_required("omnicore serve", "train,serve"):
        from omnicore.serving.serve import serve
    serve(options.model, recipe, options.host, options.port, options.queue, options.grace)
