"""Signatures of checkpoints: what was signed with the key is let through, everything else is
refused before it is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from omnicore.cluster.fetch import main as fetch
from omnicore.config.recipe import load_recipe
from omnicore.errors import CheckpointError, ConfigError
from omnicore.lineage import signing
from omnicore.runtime.run import run_step
from omnicore.storage import store
from omnicore.storage.digests import SIGNATURE, digest_directory
from tests.errors import refused
from tests.seaweed import BUCKET, seaweed, signed_in
from tests.unit.run_fixture import finish
from tests.unit.test_run import Fake, made, put

__all__ = ["seaweed", "signed_in"]
pytest.importorskip("model_signing")


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> str:
    lock = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    return key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, lock).decode()


def public(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA, FOREIGN = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "more").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 5000)
    (folder / "more" / "notes.txt").write_text("x")
    return folder


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(signing.SIGNING_KEY, private(KEY))
    monkeypatch.setenv(signing.VERIFY_KEY, public(KEY))


def test_without_keys_nothing_is_signed_or_verified(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signing.SIGNING_KEY, " ")  # as a Secret without a value sets it
    monkeypatch.delenv(signing.VERIFY_KEY, raising=False)
    signing.check_signing_key()
    signing.sign_checkpoint(checkpoint)
    assert not (checkpoint / SIGNATURE).exists()
    signing.verify_signature(checkpoint)


@pytest.mark.parametrize(
    "curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name
)
@pytest.mark.parametrize("text", [True, False], ids=["text", "path"])
def test_signed_checkpoint_verifies_in_any_place(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    curve: ec.EllipticCurve,
    text: bool,
) -> None:
    key = ec.generate_private_key(curve)
    for name, value in ((signing.SIGNING_KEY, private(key)), (signing.VERIFY_KEY, public(key))):
        (tmp_path / name).write_text(value)
        monkeypatch.setenv(name, value if text else str(tmp_path / name))
    before = digest_directory(checkpoint)
    signing.sign_checkpoint(checkpoint)
    assert digest_directory(checkpoint) == before
    signing.verify_signature(checkpoint.rename(tmp_path / "elsewhere"))


def add(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("more")


INVALID, UNSIGNED = "checkpoint-signature-invalid", "checkpoint-unsigned"
REFUSED: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "altered weight": (
        lambda f: (f / "model.safetensors").write_bytes(b"w" * 4999 + b"v"),
        INVALID,
        ("model.safetensors",),
    ),
    "added file": (
        add("chat_template.jinja"),
        INVALID,
        ("Extra files found", "chat_template.jinja"),
    ),
    "added below": (
        add("more/x.safetensors"),
        INVALID,
        ("Extra files found", "more/x.safetensors"),
    ),
    "added git file": (add(".gitattributes"), INVALID, ("Extra files found", ".gitattributes")),
    "removed file": (lambda f: (f / "config.json").unlink(), INVALID, ("config.json",)),
    "renamed file": (
        lambda f: (f / "config.json").rename(f / "c.json"),
        INVALID,
        ("c.json",),
    ),
    "a link in place of a file": (
        lambda f: (f / "link").symlink_to(f / "config.json"),
        INVALID,
        ("link",),
    ),
    "no signature": (lambda f: (f / SIGNATURE).unlink(), UNSIGNED, ("OMNI_VERIFY_KEY",)),
    "truncated signature": (
        lambda f: (f / SIGNATURE).write_text((f / SIGNATURE).read_text()[:200]),
        INVALID,
        (),
    ),
    "empty signature": (lambda f: (f / SIGNATURE).write_text(""), INVALID, ()),
    "no signature in it": (lambda f: (f / SIGNATURE).write_text("{}"), INVALID, ()),
    "binary signature": (lambda f: (f / SIGNATURE).write_bytes(b"\xff\xfe"), INVALID, ()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_changed_checkpoint_is_refused(checkpoint: Path, keys: None, case: str) -> None:
    change, code, words = REFUSED[case]
    signing.sign_checkpoint(checkpoint)
    change(checkpoint)
    with refused(CheckpointError, code, path=checkpoint) as caught:
        signing.verify_signature(checkpoint)
    for word in words:
        assert word in str(caught.value)


def forged(folder: Path) -> None:
    """Put another checkpoint's file list under the existing signature, without the key."""
    found = json.loads((folder / SIGNATURE).read_text())
    (folder / "model.safetensors").write_bytes(b"evil")
    signing.sign_checkpoint(folder)
    found["dsseEnvelope"]["payload"] = json.loads((folder / SIGNATURE).read_text())["dsseEnvelope"][
        "payload"
    ]
    (folder / SIGNATURE).write_text(json.dumps(found))


def renamed(folder: Path) -> None:
    """Let a foreign signature claim to be by the trusted key."""
    hint = json.loads((folder / SIGNATURE).read_text())["verificationMaterial"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signing.SIGNING_KEY, private(OTHER))
        signing.sign_checkpoint(folder)
    found = json.loads((folder / SIGNATURE).read_text())
    (folder / SIGNATURE).write_text(json.dumps({**found, "verificationMaterial": hint}))


def by_another(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signing.SIGNING_KEY, private(OTHER))
        signing.sign_checkpoint(folder)


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (by_another, "Key mismatch"),
        (renamed, "OMNI_VERIFY_KEY"),
        (forged, "OMNI_VERIFY_KEY"),
    ],
)
def test_foreign_signature_is_refused(
    checkpoint: Path, keys: None, forge: Callable[[Path], None], words: str
) -> None:
    signing.sign_checkpoint(checkpoint)
    forge(checkpoint)
    with refused(CheckpointError, "checkpoint-signature-invalid") as caught:
        signing.verify_signature(checkpoint)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (signing.SIGNING_KEY, "nowhere.pem", "signing-key-missing"),
        (signing.SIGNING_KEY, public(KEY), "signing-key-invalid"),
        (signing.SIGNING_KEY, private(KEY, b"secret"), "signing-key-invalid"),
        (signing.SIGNING_KEY, private(RSA), "signing-key-invalid"),
        (signing.SIGNING_KEY, private(FOREIGN), "signing-key-invalid"),
        (signing.VERIFY_KEY, "nowhere.pem", "signing-key-missing"),
        (signing.VERIFY_KEY, private(KEY), "signing-key-invalid"),
        (signing.VERIFY_KEY, public(RSA), "signing-key-invalid"),
        (signing.VERIFY_KEY, "-----BEGIN PUBLIC KEY-----\nabc", "signing-key-invalid"),
    ],
)
def test_unusable_key_is_refused_without_its_content(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
) -> None:
    monkeypatch.setenv(name, value)
    with refused(ConfigError, code, field=name) as caught:
        if name == signing.SIGNING_KEY:
            signing.check_signing_key()
        else:
            signing.verify_signature(checkpoint)
    assert not any(line in str(caught.value) for line in value.splitlines()[1:2])


def test_missing_library_is_refused(
    checkpoint: Path, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    with refused(ConfigError, "package-missing", field="model_signing.signing"):
        signing.sign_checkpoint(checkpoint)


def test_signatures_agree_with_model_signing_cli(
    checkpoint: Path, keys: None, tmp_path: Path
) -> None:
    (tmp_path / "signing.pem").write_text(private(KEY))
    (tmp_path / "verify.pem").write_text(public(KEY))

    def run(verb: str, *key: str) -> None:
        command = [
            sys.executable,
            "-m",
            "model_signing",
            verb,
            "key",
            *key,
            "--signature",
            str(checkpoint / SIGNATURE),
        ]
        subprocess.run([*command, str(checkpoint)], check=True, capture_output=True)

    signing.sign_checkpoint(checkpoint)
    run("verify", "--public_key", str(tmp_path / "verify.pem"))
    (checkpoint / SIGNATURE).unlink()
    run("sign", "--private_key", str(tmp_path / "signing.pem"))
    signing.verify_signature(checkpoint)
    add("added.json")(checkpoint)
    with refused(CheckpointError, "checkpoint-signature-invalid"):
        signing.verify_signature(checkpoint)


class Training(Fake):
    """A step that writes a checkpoint."""

    def run(self, recipe, config, inputs, output):  # type: ignore[no-untyped-def]
        (output / "checkpoint").mkdir()
        (output / "checkpoint" / "config.json").write_text("{}")
        self.runs += 1
        return {}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Path]:
    fake = put(monkeypatch, "sft", Training())
    data = made(tmp_path / "prepare", "prepare")
    (data / "sft.jsonl").write_text('{"benchmark": "sft"}\n')
    finish(data)

    def train() -> Path:
        run_step(
            "sft", load_recipe("tiny"), {"data": data}, tmp_path / "sft", cache=tmp_path / "cache"
        )
        assert fake.runs == 1
        return tmp_path / "sft" / "checkpoint"

    return train


def test_step_signs_its_checkpoint(training: Callable[[], Path], keys: None) -> None:
    folder = training()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "card.json",
        "config.json",
        SIGNATURE,
    ]
    signing.verify_signature(folder)
    signing.verify_signature(training())  # cached: the signature changes no digest


def test_step_checks_its_key_before_it_runs(
    training: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signing.SIGNING_KEY, "nowhere.pem")
    with refused(ConfigError, "signing-key-missing", field="OMNI_SIGNING_KEY"):
        training()
    monkeypatch.delenv(signing.SIGNING_KEY)
    training()


@pytest.mark.parametrize("inside", ["checkpoint", ""])
def test_fetch_verifies_a_published_checkpoint(
    checkpoint: Path,
    keys: None,
    signed_in: None,
    tmp_path: Path,
    inside: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = checkpoint.parent if inside else checkpoint
    uri = f"s3://{BUCKET}/{tmp_path.name}"

    def fetched(name: str) -> int:
        return fetch(
            [
                uri,
                store.publish(place, uri).digest,
                str(tmp_path.parent / f"{tmp_path.name}-{name}"),
            ]
        )

    signing.sign_checkpoint(checkpoint)
    assert fetched("good") == 0
    (place / "step.json").write_text("{}")
    assert fetched("beside") == (
        0 if inside else 2
    )  # of a step's output the checkpoint alone is signed, and served
    (place / "step.json").unlink()
    (checkpoint / "model.safetensors").write_bytes(b"evil")
    assert fetched("altered") == 2
    assert "refused by its model.sig" in capsys.readouterr().err
    if inside:
        (place / "config.json").write_text("{}")
        assert fetched("slipped in above") == 2
        assert "is not signed" in capsys.readouterr().err
