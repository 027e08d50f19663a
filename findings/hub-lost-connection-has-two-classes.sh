#!/usr/bin/env bash
# huggingface_hub 2.4.0 reports a hub that does not answer by different classes: a download by one of its own, an upload by
# its HTTP client's, which is neither OSError nor HfHubHTTPError.
#
# Package: huggingface_hub 2.4.0 (httpx2 as its HTTP client since 2).
# Source:  its module huggingface_hub.errors. Before, its client was requests, whose exceptions are OSErrors, so that
#          `except (HfHubHTTPError, OSError)` caught both.
# Matters: a training that pushes its checkpoint at the end dies with a traceback where it meant to warn and continue.
# Seen:    snapshot_download: LocalEntryNotFoundError (OSError: True, HfHubHTTPError: False)
#          create_repo: ConnectError of httpx2 (OSError: False, HfHubHTTPError: False)
# Exits non-zero if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'huggingface_hub==2.4.0'
HF_ENDPOINT=http://127.0.0.1:9 HF_HOME="$work/home" "$work/venv/bin/python" - <<'PYTHON'
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError


def raised(call, **arguments):
    try:
        call(**arguments)
    except Exception as error:
        return error
    raise AssertionError("a hub answered on port 9")


download = raised(snapshot_download, repo_id="team/name")
upload = raised(HfApi(token="hf_none").create_repo, repo_id="team/name")
for name, error in (("snapshot_download", download), ("create_repo", upload)):
    kinds = [isinstance(error, kind) for kind in (OSError, HfHubHTTPError)]
    module = type(error).__module__.partition(".")[0]
    print(f"{name}: {type(error).__name__} of {module} (OSError: {kinds[0]}, HfHubHTTPError: {kinds[1]})")
assert not isinstance(upload, (OSError, HfHubHTTPError)) and isinstance(download, OSError)
PYTHON
