"""Connection to an S3 server: endpoint, credentials, retries and error messages.

The environment sets them:

  OMNI_S3_ENDPOINT, AWS_ENDPOINT_URL_S3   http://host:port or https://host:port; default: Amazon
  AWS_REGION, AWS_DEFAULT_REGION          default: us-east-1 at an own endpoint; at Amazon the
                                          bucket's region is looked up
  OMNI_S3_SECRET_DIR                      mounted Secret with the files `accesskey` and `secretkey`,
                                          read for every request, so that rotated keys take effect
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
                                          used without a secret directory; without them, the role of
                                          the pod or machine (IAM: web identity, pod identity,
                                          instance metadata)
  AWS_CA_BUNDLE, SSL_CERT_FILE            trusted certificates instead of the public ones
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import EnvAWSProvider, IamAwsProvider, Provider
from minio.error import MinioException, S3Error

from omnicore.errors import ConfigError, StorageError

WORKERS = 8  # threads of one transfer
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 30.0  # seconds for a connection, and without a byte
# Retries after the first try: 25 s in all where the server refuses, 4 minutes where it accepts
# requests and answers none.
RETRIES = 6
CREDENTIAL_ERRORS = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
}


def endpoint() -> str:
    """Return the URL of the S3 server.

    Raises:
        ConfigError: The environment names an invalid URL.
    """
    url = (
        os.environ.get("OMNI_S3_ENDPOINT")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or "https://s3.amazonaws.com"
    )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise ConfigError(
            f"S3 endpoint {url!r}: write http://host:port or https://host:port",
            code="s3-endpoint-invalid",
            field="OMNI_S3_ENDPOINT",
        )
    return url


def connect(url: str, credentials: Provider) -> Minio:
    """Return a client of the S3 server at `url`; sends no request yet."""
    parts = urlsplit(url)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not parts.netloc.endswith("amazonaws.com"):
        # Otherwise the SDK looks it up, which small stores and narrow policies refuse.
        region = "us-east-1"
    return Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        region=region,
        credentials=credentials,
        http_client=http_pool(CONNECT_TIMEOUT, READ_TIMEOUT, RETRIES),
    )


def credentials_from_environment() -> tuple[str, Provider]:
    """Return where the keys come from, in words, and their provider.

    Raises:
        ConfigError: Only one half of a key pair is set.
    """
    folder = os.environ.get("OMNI_S3_SECRET_DIR")
    if folder:
        return f"the secret in {folder}", _SecretDirectory(Path(folder))
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        if not os.environ.get("AWS_SECRET_ACCESS_KEY"):
            raise ConfigError(
                "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both",
                code="s3-credentials-incomplete",
                field="AWS_SECRET_ACCESS_KEY",
            )
        return "AWS_ACCESS_KEY_ID", EnvAWSProvider()
    return "the pod's or machine's role", _Role()


class _SecretDirectory(Provider):  # type: ignore[misc]
    """Keys from the files of a mounted Secret."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def retrieve(self) -> Credentials:
        try:
            access = (self._folder / "accesskey").read_text().strip()
            secret = (self._folder / "secretkey").read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"OMNI_S3_SECRET_DIR: cannot read {error.filename}: {error.strerror}; mount the"
                " secret there",
                code="s3-secret-unreadable",
                field="OMNI_S3_SECRET_DIR",
                path=error.filename,
            ) from error
        return Credentials(access, secret)


class _Role(Provider):  # type: ignore[misc]
    """Keys of the role of the pod or machine."""

    def __init__(self) -> None:
        self._iam = IamAwsProvider(http_client=http_pool(connect=2, read=10, retries=1))

    def retrieve(self) -> Credentials:
        failures = (ValueError, KeyError, OSError, MinioException, urllib3.exceptions.HTTPError)
        try:
            return self._iam.retrieve()
        except failures as error:
            raise StorageError(
                "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
                f" OMNI_S3_SECRET_DIR, or give the pod a role; looked for a role: {error}",
                code="s3-credentials-missing",
            ) from error


def http_pool(connect: float, read: float, retries: int) -> urllib3.PoolManager:
    """Return a connection pool with timeouts in seconds and retries of failed requests.

    Raises:
        ConfigError: The file of trusted certificates does not exist.
    """
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if bundle and not Path(bundle).is_file():
        raise ConfigError(
            f"AWS_CA_BUNDLE or SSL_CERT_FILE={bundle}: no such file",
            code="s3-ca-bundle-missing",
            field="AWS_CA_BUNDLE",
            path=bundle,
        )
    return urllib3.PoolManager(
        maxsize=2 * WORKERS,
        timeout=urllib3.Timeout(connect=connect, read=read),
        cert_reqs="CERT_REQUIRED",
        ca_certs=bundle or certifi.where(),
        retries=urllib3.Retry(
            total=retries,
            other=0,  # a certificate is not trusted the second time either
            allowed_methods=None,
            status_forcelist=(408, 429, 500, 502, 503, 504),
            raise_on_status=False,
            backoff_factor=0.5,
            backoff_max=10,
            backoff_jitter=0.2,
            respect_retry_after_header=False,  # a server could ask for hours
        ),
    )


def refusal(error: S3Error, url: str, bucket: str, keys: str) -> StorageError:
    """Return the StorageError of a refused request, without the address that it was about.

    Args:
        error: The server's answer.
        url: The server.
        bucket: Name of the bucket.
        keys: Where the keys come from, in words.
    """
    if error.code in CREDENTIAL_ERRORS:
        return StorageError(
            f"{url} refused the key of {keys} ({error.code}); fix the credentials or the bucket"
            " policy",
            code="s3-access-denied",
        )
    if error.code == "NoSuchBucket":
        return StorageError(
            f"no bucket {bucket} at {url}; create it, or fix the address",
            code="s3-bucket-missing",
        )
    if error.code == "NoSuchKey":
        return StorageError(
            "the object is missing; re-run the command that published it",
            code="s3-object-missing",
        )
    region = "; set AWS_REGION" if "egion" in f"{error.code}{error.message}" else ""
    return StorageError(
        f"{url} answered {error.code}: {error.message}{region}", code="s3-request-failed"
    )


def unreachable(error: urllib3.exceptions.HTTPError, url: str) -> StorageError:
    """Return the StorageError of a connection that failed, without the address it was about."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return StorageError(
            f"{url} has an untrusted certificate ({reason}); set AWS_CA_BUNDLE to the file of"
            " its CA",
            code="s3-certificate-untrusted",
        )
    return StorageError(
        f"{url} is unreachable ({reason}); check OMNI_S3_ENDPOINT and the network, then re-run"
        " to resume",
        code="s3-unreachable",
    )
