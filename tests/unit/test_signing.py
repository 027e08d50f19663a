"""Signatures of checkpoints: what was signed with the key is let through, everything else is
refused before it is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
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


def test_without_keys_nothing_is_signed_or_asked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signing.SIGNING_KEY, " ")  # as a Secret without a value gives it
    monkeypatch.delenv(signing.VERIFY_KEY, raising=False)
    signing.check_signing_key()
    signing.sign_checkpoint(checkpoint)
    assert not (checkpoint / SIGNATURE).exists()
    signing.verify_signature(checkpoint)


@pytest.mark.parametrize(
    "curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name
)
@pytest.mark.parametrize("text", [True, False], ids=["text", "path"])
def test_what_was_signed_is_let_through_wherever_it_lies(
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


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered weight": (
        lambda f: (f / "model.safetensors").write_bytes(b"w" * 4999 + b"v"),
        "Hash mismatch for 'model.safetensors'",
    ),
    "added file": (add("chat_template.jinja"), "Extra files found.*chat_template.jinja"),
    "added below": (add("more/x.safetensors"), "Extra files found.*more/x.safetensors"),
    "added file of git's": (add(".gitattributes"), "Extra files found.*.gitattributes"),
    "removed file": (lambda f: (f / "config.json").unlink(), "Missing files.*config.json"),
    "renamed file": (lambda f: (f / "config.json").rename(f / "c.json"), "c.json"),
    "a link in place of a file": (lambda f: (f / "link").symlink_to(f / "config.json"), "link"),
    "no signature": (
        lambda f: (f / SIGNATURE).unlink(),
        "is not signed: it has no model.sig, and OMNI_VERIFY_KEY is set",
    ),
    "cut signature": (
        lambda f: (f / SIGNATURE).write_text((f / SIGNATURE).read_text()[:200]),
        "refused by its model.sig",
    ),
    "empty signature": (lambda f: (f / SIGNATURE).write_text(""), "refused by its model.sig"),
    "no signature in it": (lambda f: (f / SIGNATURE).write_text("{}"), "refused by its model.sig"),
    "binary signature": (
        lambda f: (f / SIGNATURE).write_bytes(b"\xff\xfe"),
        "refused by its model.sig",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_as_it_was_signed_is_refused(checkpoint: Path, keys: None, case: str) -> None:
    change, said = REFUSED[case]
    signing.sign_checkpoint(checkpoint)
    change(checkpoint)
    with pytest.raises(CheckpointError, match=said) as caught:
        signing.verify_signature(checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert "sign what you trust: model_signing sign key" in str(caught.value)


def forged(folder: Path) -> None:
    """As somebody would who has no key: another checkpoint's file list under the signature that is
    there."""
    found = json.loads((folder / SIGNATURE).read_text())
    (folder / "model.safetensors").write_bytes(b"evil")
    signing.sign_checkpoint(folder)
    found["dsseEnvelope"]["payload"] = json.loads((folder / SIGNATURE).read_text())["dsseEnvelope"][
        "payload"
    ]
    (folder / SIGNATURE).write_text(json.dumps(found))


def renamed(folder: Path) -> None:
    """Another's signature that claims to be by the trusted key."""
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
    ("forge", "said"),
    [
        (by_another, "Key mismatch"),
        (renamed, "is not by the key of OMNI_VERIFY_KEY"),
        (forged, "is not by the key of OMNI_VERIFY_KEY"),
    ],
)
def test_a_signature_of_somebody_else_is_refused(
    checkpoint: Path, keys: None, forge: Callable[[Path], None], said: str
) -> None:
    signing.sign_checkpoint(checkpoint)
    forge(checkpoint)
    with pytest.raises(CheckpointError, match=said):
        signing.verify_signature(checkpoint)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (signing.SIGNING_KEY, "nowhere.pem", "OMNI_SIGNING_KEY=nowhere.pem: no such file"),
        (signing.SIGNING_KEY, public(KEY), "OMNI_SIGNING_KEY is no private key"),
        (
            signing.SIGNING_KEY,
            private(KEY, b"secret"),
            "OMNI_SIGNING_KEY is no private key.*without a password",
        ),
        (signing.SIGNING_KEY, private(RSA), "OMNI_SIGNING_KEY is no private key"),
        (signing.SIGNING_KEY, private(FOREIGN), "OMNI_SIGNING_KEY is no private key.*secp256k1"),
        (signing.VERIFY_KEY, "nowhere.pem", "OMNI_VERIFY_KEY=nowhere.pem: no such file"),
        (signing.VERIFY_KEY, private(KEY), "OMNI_VERIFY_KEY is no public key"),
        (signing.VERIFY_KEY, public(RSA), "OMNI_VERIFY_KEY is no public key"),
        (
            signing.VERIFY_KEY,
            "-----BEGIN PUBLIC KEY-----\nabc",
            "OMNI_VERIFY_KEY is no public key.*openssl",
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_told_with_its_name_and_not_its_content(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    use = (
        signing.check_signing_key
        if name == signing.SIGNING_KEY
        else partial(signing.verify_signature, checkpoint)
    )
    with pytest.raises(ConfigError, match=said) as caught:
        use()
    assert not any(line in str(caught.value) for line in value.splitlines()[1:2])


def test_a_missing_library_names_its_extra(
    checkpoint: Path, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    with pytest.raises(
        ConfigError,
        match=r"OMNI_SIGNING_KEY is set and needs model_signing.signing.*omnicore\[sign\]",
    ):
        signing.sign_checkpoint(checkpoint)


def test_its_own_command_line_and_ours_take_each_others_signatures(
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
    with pytest.raises(CheckpointError, match=r"Extra files found.*added\.json"):
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


def test_a_step_signs_the_checkpoint_that_it_writes(
    training: Callable[[], Path], keys: None
) -> None:
    folder = training()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "card.json",
        "config.json",
        SIGNATURE,
    ]
    signing.verify_signature(folder)
    signing.verify_signature(training())  # found, not made again: the signature changes no digest


def test_a_step_looks_at_its_key_before_it_works(
    training: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signing.SIGNING_KEY, "nowhere.pem")
    with pytest.raises(ConfigError, match="OMNI_SIGNING_KEY"):
        training()
    monkeypatch.delenv(signing.SIGNING_KEY)
    training()


@pytest.mark.parametrize("inside", ["checkpoint", ""])
def test_a_published_checkpoint_is_verified_when_it_is_fetched(
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
